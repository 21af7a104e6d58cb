// Products of ggml with one weight [4096, 4096] in Q4_0, in the layout that llama.cpp takes for it on this machine.
//
//   ggml_product THREADS SECONDS [LAYOUT]
//
// LAYOUT: `repack` (the default), `plain`, or `amx` where ggml was built for it. For 1, 8 and 512 rows the program
// prints a line `rows GB/s GFLOP/s`, the median of its calls; weights of more than 100 MB are cycled through, so that
// few rows read them from memory. scripts/bench_peers.sh builds it against llama.cpp's libraries and runs it in turn
// with ours.
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr int64_t kSize = 4096;
constexpr int kWeights = 12;  // 9.4 MB each

ggml_backend_buffer_type_t layout_named(const std::string& name) {
  ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (name == "plain") return ggml_backend_dev_buffer_type(cpu);
  void* get = ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
  if (!get) return nullptr;
  for (auto* t = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(get)(cpu); t && *t; ++t) {
    std::string found = ggml_backend_buft_name(*t);
    for (char& c : found) c = static_cast<char>(std::tolower(c));
    if (found.find(name) != std::string::npos) return *t;
  }
  return nullptr;
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: ggml_product THREADS SECONDS [repack|plain|amx]\n"), 2;
  const std::string name = argc > 3 ? argv[3] : "repack";
  ggml_backend_t backend = ggml_backend_cpu_init();
  ggml_backend_cpu_set_n_threads(backend, std::atoi(argv[1]));
  ggml_backend_buffer_type_t layout = layout_named(name);
  if (!layout) return std::fprintf(stderr, "ggml has no layout '%s' here\n", name.c_str()), 1;

  ggml_context* of_weights = ggml_init({ggml_tensor_overhead() * (kWeights + 1), nullptr, true});
  std::vector<ggml_tensor*> weights;
  for (int i = 0; i < kWeights; ++i) weights.push_back(ggml_new_tensor_2d(of_weights, GGML_TYPE_Q4_0, kSize, kSize));
  ggml_backend_buffer_t kept = ggml_backend_alloc_ctx_tensors_from_buft(of_weights, layout);
  if (!kept) return std::fprintf(stderr, "no memory\n"), 1;
  ggml_backend_buffer_set_usage(kept, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  std::mt19937 random(1);
  std::vector<uint8_t> blocks(static_cast<size_t>(kSize * kSize / 32 * 18));
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<uint8_t>(random());
  const ggml_fp16_t scale = ggml_fp32_to_fp16(0.01f);
  for (size_t i = 0; i < blocks.size(); i += 18) std::memcpy(&blocks[i], &scale, 2);
  for (ggml_tensor* w : weights) ggml_backend_tensor_set(w, blocks.data(), 0, blocks.size());

  for (const int64_t rows : {1, 8, 512}) {
    std::vector<std::pair<ggml_context*, ggml_cgraph*>> graphs;
    std::vector<ggml_backend_buffer_t> buffers;
    for (ggml_tensor* w : weights) {
      ggml_context* c = ggml_init({ggml_tensor_overhead() * 8 + ggml_graph_overhead(), nullptr, true});
      ggml_tensor* x = ggml_new_tensor_2d(c, GGML_TYPE_F32, kSize, rows);
      ggml_cgraph* graph = ggml_new_graph(c);
      ggml_build_forward_expand(graph, ggml_mul_mat(c, w, x));
      buffers.push_back(ggml_backend_alloc_ctx_tensors(c, backend));
      std::vector<float> values(static_cast<size_t>(rows * kSize));
      std::normal_distribution<float> normal;
      for (float& v : values) v = normal(random);
      ggml_backend_tensor_set(x, values.data(), 0, values.size() * sizeof(float));
      graphs.emplace_back(c, graph);
    }
    std::vector<double> times;
    size_t next = 0;
    ggml_backend_graph_compute(backend, graphs[0].second);
    for (const double end = seconds() + std::atof(argv[2]); seconds() < end || times.size() < 5;) {
      const double begin = seconds();
      ggml_backend_graph_compute(backend, graphs[++next % graphs.size()].second);
      times.push_back(seconds() - begin);
    }
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
    const double median = times[times.size() / 2];
    std::printf("%d %.2f %.1f\n", static_cast<int>(rows), static_cast<double>(blocks.size()) * 1e-9 / median,
                2e-9 * static_cast<double>(rows * kSize * kSize) / median);
    for (auto& g : graphs) ggml_free(g.first);
    for (ggml_backend_buffer_t b : buffers) ggml_backend_buffer_free(b);
  }
  return 0;
}
