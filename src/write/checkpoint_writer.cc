#include "write/checkpoint_writer.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <memory>

#include "checkpoint/model_source.h"
#include "core/files/held_folder.h"
#include "write/write_container.h"
#include "write/write_job.h"

namespace metal_marlin {

namespace fs = std::filesystem;

namespace {

// Of a plan that is not carried out.
class NoTensors : public TensorProvider {
 public:
  QuantizedTensor quantized(const std::string&) override { return {}; }
  OwnedTensor changed(const std::string&) override { return {}; }
};

}  // namespace

void refuse_own_folder(const ModelSource& source, const std::string& folder) {
  fs::path own(source.path());
  std::error_code code;
  if (!fs::is_directory(own, code)) own = own.has_parent_path() ? own.parent_path() : fs::path(".");
  if (fs::equivalent(own, folder, code)) {
    throw ArgumentError(fmt::format("{}: the output folder is the model's own; choose another", folder));
  }
}

uint64_t WriteReport::total_bytes() const noexcept {
  uint64_t sum = 0;
  for (const WrittenFile& file : files) sum += file.bytes;
  return sum;
}

WriteReport CheckpointWriter::write(const ModelSource& source, const CheckpointPlan& given, TensorProvider& provider,
                                    const std::string& folder, const WriteProgress& progress) const {
  WriteJob job{layout_, source, given, provider, folder, progress, nullptr, {}, 0, 0};
  job.plan.head = module_name(source.family().head);
  plan_outer(job);
  layout_.check(job.plan);
  const std::unique_ptr<WriteContainer> container = make_container(job);
  container->check();
  std::vector<WriteItem> items = container->plan();
  const HeldFolder held(std::make_shared<const Folder>(make_held(folder)));
  job.place = &held.folder();
  refuse_own_folder(source, folder);
  container->disable_older(*job.place);
  container->write_weights(std::move(items));
  container->write_rest();
  job.step();
  return std::move(job.report);
}

void CheckpointWriter::require_writable(const ModelSource& source) const {
  NoTensors nothing;
  const std::string folder;
  const WriteProgress progress;
  WriteJob job{layout_, source, {}, nothing, folder, progress, nullptr, {}, 0, 0};
  make_container(job)->check();
}

WriteReport CheckpointWriter::forecast(const ModelSource& source, const CheckpointPlan& given) const {
  NoTensors nothing;
  const std::string folder;
  const WriteProgress progress;
  WriteJob job{layout_, source, given, nothing, folder, progress, nullptr, {}, 0, 0};
  plan_outer(job);
  make_container(job)->plan();
  return std::move(job.report);
}

}  // namespace metal_marlin
