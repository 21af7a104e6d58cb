#include "write/kept_floats.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "checkpoint/convert.h"
#include "core/counted.h"
#include "core/half.h"
#include "write/float_conversion.h"

namespace metal_marlin {
namespace {

// The tensor that the source or the provider has for the item, whole.
OwnedTensor whole_tensor(WriteJob& job, const WriteItem& item) {
  OwnedTensor tensor =
      item.kind == WriteItem::Kind::kChanged ? job.provider.changed(item.name) : job.source.load_stored(item.name);
  TensorInfo expected = item.tensors.front();
  expected.shape = item.shape;
  expected.dtype = tensor.dtype;
  if (tensor.view().elements() * static_cast<int64_t>(dtype_size(tensor.dtype)) !=
          static_cast<int64_t>(expected.bytes()) ||
      tensor.bytes.size() != expected.bytes()) {
    throw ArgumentError(fmt::format("{}: expected shape {}, delivered {} with {}", item.name, shape_string(item.shape),
                                    shape_string(tensor.shape), counted(tensor.bytes.size(), "byte")));
  }
  return tensor;
}

void convert(const WriteItem& item, const TensorView& view, const FloatSink& sink, F16Conversion& conversion) {
  const TensorInfo& target = item.tensors.front();
  if (view.dtype == target.dtype) return sink(view.bytes);
  const auto count = static_cast<size_t>(view.elements());
  Buffer out(count * dtype_size(target.dtype));
  if (target.dtype == DType::kF16) {
    convert_to_f16(view, reinterpret_cast<uint16_t*>(out.data()), conversion);
  } else if (view.dtype == DType::kF32 && target.dtype == DType::kBF16) {
    const auto* from = reinterpret_cast<const float*>(view.bytes.data());
    auto* to = reinterpret_cast<uint16_t*>(out.data());
    std::transform(from, from + count, to, f32_to_bf16);
    for (size_t i = 0; i < count; ++i) conversion.rounded += bf16_to_f32(to[i]) != from[i] ? 1 : 0;
  } else if (target.dtype == DType::kF32 && (view.dtype == DType::kF16 || view.dtype == DType::kBF16)) {
    const auto* from = reinterpret_cast<const uint16_t*>(view.bytes.data());
    std::transform(from, from + count, reinterpret_cast<float*>(out.data()),
                   view.dtype == DType::kF16 ? f16_to_f32 : bf16_to_f32);
  } else {
    throw UnsupportedError(
        fmt::format("{}: {} cannot be written as {}", item.name, dtype_name(view.dtype), dtype_name(target.dtype)));
  }
  sink({out.data(), out.size()});
}

void report_losses(WriteJob& job, const WriteItem& item, const F16Conversion& conversion) {
  if (conversion.rounded > 0 && item.kind != WriteItem::Kind::kChanged && item.from == DType::kF32)
    job.report.rounded.push_back(item.name);
  if (conversion.clamped + conversion.flushed > 0) {
    job.report.clamped.push_back(
        {item.name, conversion.clamped, conversion.flushed, static_cast<double>(conversion.largest)});
  }
}

// Runs of rows of a matrix that is too large to be held whole.
template <typename Fn>
void for_row_runs(const WriteJob& job, const WriteItem& item, const Fn& fn) {
  const uint64_t row_bytes = static_cast<uint64_t>(item.shape[1]) * sizeof(float);
  const auto rows =
      static_cast<int64_t>(std::max<uint64_t>(1, job.plan.whole_bytes / 4 / std::max<uint64_t>(1, row_bytes)));
  for (int64_t r = 0; r < item.shape[0]; r += rows)
    fn(job.source.load(item.name, r, std::min(rows, item.shape[0] - r)));
}

}  // namespace

void write_kept(WriteJob& job, const WriteItem& item, const FloatSink& sink) {
  const TensorInfo& target = item.tensors.front();
  F16Conversion conversion;
  const bool small = item.shape.size() != 2 || !is_float(target.dtype) || target.bytes() <= job.plan.whole_bytes;
  if (item.made && item.kind == WriteItem::Kind::kKept && target.dtype == DType::kF16 && small) {
    // As floats, because load_stored does not say what is lost in float16.
    const Matrix values = job.source.load(item.name);
    convert(item, {item.name, DType::kF32, item.shape, std::as_bytes(values.values())}, sink, conversion);
  } else if (item.kind == WriteItem::Kind::kChanged || small) {
    const OwnedTensor tensor = whole_tensor(job, item);
    convert(item, {item.name, tensor.dtype, item.shape, {tensor.bytes.data(), tensor.bytes.size()}}, sink, conversion);
  } else {
    for_row_runs(job, item, [&](const Matrix& part) {
      convert(item, {item.name, DType::kF32, {part.rows(), part.cols()}, std::as_bytes(part.values())}, sink,
              conversion);
    });
  }
  job.source.release(item.name);
  report_losses(job, item, conversion);
}

void read_kept(WriteJob& job, const WriteItem& item, const RowSink& sink) {
  if (item.kind == WriteItem::Kind::kChanged) {
    const OwnedTensor tensor = whole_tensor(job, item);
    const auto [rows, columns] = matrix_shape(item.shape, item.name, job.source.path());
    Matrix values(rows, columns);
    to_f32(tensor.view(), job.source.path(), 0, values.size(), values.data());
    sink(values);
  } else if (item.shape.size() != 2) {
    sink(job.source.load(item.name));
  } else {
    for_row_runs(job, item, sink);
  }
  job.source.release(item.name);
}

}  // namespace metal_marlin
