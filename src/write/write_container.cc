#include "write/write_container.h"

#include "core/files/atomic_file.h"
#include "write/model_card.h"

namespace metal_marlin {

std::unique_ptr<WriteContainer> make_container(WriteJob& job) {
  return job.layout.container() == ContainerKind::kGguf ? make_gguf_container(job) : make_safetensors_container(job);
}

void WriteContainer::write_card() {
  job_.report.skipped = job_.plan.skipped;
  for (SkippedTensor& s : job_.report.skipped) s.bytes = job_.report.kept[s.name];
  const std::string base = job_.plan.base_model.empty() ? source_name_of(job_.source.path()) : job_.plan.base_model;
  write_text_file(job_.folder + "/README.md",
                  render_model_card(base, job_.source.family().name, job_.layout, job_.plan, job_.report));
  job_.add_file("README.md");
}

std::vector<WriteItem> WriteContainer::plan() {
  return plan_items(job_, [this](WriteItem& item) { plan_floats(item); });
}

}  // namespace metal_marlin
