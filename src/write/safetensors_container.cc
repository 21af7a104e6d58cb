// Shards of safetensors, config.json, the tokenizer's files and a model card.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "checkpoint/companions.h"
#include "core/files/atomic_file.h"
#include "write/kept_floats.h"
#include "write/write_container.h"

namespace metal_marlin {
namespace {

struct Shard {
  std::vector<WriteItem> items;
  uint64_t bytes = 0;
};

std::vector<Shard> shards_of(std::vector<WriteItem> items, uint64_t most) {
  std::vector<Shard> result(1);
  for (WriteItem& item : items) {
    const uint64_t bytes = item.bytes();
    if (!result.back().items.empty() && result.back().bytes + bytes > most) result.emplace_back();
    result.back().bytes += bytes;
    result.back().items.push_back(std::move(item));
  }
  return result;
}

class SafetensorsContainer : public WriteContainer {
 public:
  using WriteContainer::WriteContainer;

  void check() override { companion_bytes(job_.source); }  // refuses too many

  void disable_older(const Folder& place) const override {
    place.remove_file("config.json");
    place.sync();
  }

  static bool is_weights_name(const std::string& given) {
    std::string name = given;
    if (name.ends_with(".tmp")) name.resize(name.size() - 4);
    if (name == "model.safetensors.index.json") return true;
    if (!name.starts_with("model") || !name.ends_with(".safetensors")) return false;
    std::string rest = name.substr(5, name.size() - 5 - 12);
    if (rest.ends_with(".awq")) rest.resize(rest.size() - 4);
    return rest.empty() || (rest.size() == 15 && rest[0] == '-' && rest.substr(6, 4) == "-of-");
  }

  void write_weights(std::vector<WriteItem> items) override;
  void write_rest() override;

 protected:
  void plan_floats(WriteItem& item) const override {
    const DType type = is_float(item.from) ? job_.layout.kept_type(item.from, job_.plan) : item.from;
    item.tensors = {{item.name, type, item.shape}};
  }

 private:
  void write_shard(const Shard& shard, const std::string& name);
  OwnedTensor packed_part(const WriteItem& item, const std::string& name,
                          const std::unordered_map<std::string, size_t>& turn);
  void write_companions();

  std::map<std::string, OwnedTensor> held_;  // packed parts whose turn comes later
  uint64_t held_bytes_ = 0;
};

void SafetensorsContainer::write_weights(std::vector<WriteItem> items) {
  constexpr std::string_view kExtension = ".safetensors";
  const std::vector<Shard> shards = shards_of(std::move(items), job_.plan.max_shard_bytes);
  SafetensorsIndex index;
  index.total_size = job_.report.quantized_bytes + job_.report.kept_bytes;
  std::set<std::string> current;
  const int count = static_cast<int>(shards.size());
  for (int i = 0; i < count; ++i) {
    const Shard& shard = shards[static_cast<size_t>(i)];
    std::string name = count == 1 ? "model" : shard_name(i + 1, count);
    if (name.ends_with(kExtension)) name.resize(name.size() - kExtension.size());
    name += job_.layout.weights_suffix();
    write_shard(shard, name);
    current.insert(name);
    job_.add_file(name);
    for (const WriteItem& item : shard.items) {
      for (const TensorInfo& t : item.tensors) index.weight_map[t.name] = name;
    }
  }
  if (count > 1 || job_.layout.always_has_index()) {
    const std::string name = "model.safetensors.index.json";
    write_index(job_.folder + "/" + name, index);
    current.insert(name);
    job_.add_file(name);
  }
  for (const std::string& name : job_.place->names()) {
    if (!is_weights_name(name) || current.count(name) > 0) continue;
    const FileKind kind = job_.place->status(name).kind;
    if (kind == FileKind::kRegular || kind == FileKind::kLink) job_.place->remove_file(name);
  }
}

void SafetensorsContainer::write_shard(const Shard& shard, const std::string& name) {
  std::vector<TensorInfo> tensors;
  std::unordered_map<std::string, const WriteItem*> owner;
  for (const WriteItem& item : shard.items) {
    for (const TensorInfo& t : item.tensors) {
      tensors.push_back(t);
      if (!owner.emplace(t.name, &item).second)
        throw FormatError(fmt::format("{}: two tensors would be stored as {}", job_.source.path(), t.name));
    }
  }
  SafetensorsWriter file(job_.folder + "/" + name, std::move(tensors), job_.layout.metadata(job_.plan));
  std::unordered_map<std::string, size_t> turn;
  for (size_t i = 0; i < file.order().size(); ++i) turn[file.order()[i].name] = i;
  for (const TensorInfo& t : file.order()) {
    job_.step();
    const WriteItem& item = *owner.at(t.name);
    if (item.kind == WriteItem::Kind::kQuantized) {
      const OwnedTensor part = packed_part(item, t.name, turn);
      file.write(t.name, {part.bytes.data(), part.bytes.size()});
    } else {
      write_kept(job_, item, [&](std::span<const std::byte> bytes) { file.write_part(t.name, bytes); });
    }
    ++job_.done;
  }
  file.commit();
}

OwnedTensor SafetensorsContainer::packed_part(const WriteItem& item, const std::string& name,
                                              const std::unordered_map<std::string, size_t>& turn) {
  if (const auto found = held_.find(name); found != held_.end()) {
    OwnedTensor part = std::move(found->second);
    held_bytes_ -= part.bytes.size();
    held_.erase(found);
    return part;
  }
  const QuantizedLinear& l = *item.linear;
  PackedTensor packed;
  {
    const QuantizedTensor tensor = provided_codes(job_, item);
    packed = job_.layout.pack(tensor, l.name);
    if (packed.parts.size() != item.tensors.size()) {
      throw ArgumentError(fmt::format("{}: planned as {}, delivered {}", l.name,
                                      l.symmetric ? "symmetric" : "asymmetric",
                                      tensor.symmetric ? "symmetric" : "with other zeros"));
    }
  }
  const std::string module = module_name(l.name);
  OwnedTensor wanted;
  for (OwnedTensor& part : packed.parts) {
    part.name = module + "." + part.name;
    if (part.name == name) {
      wanted = std::move(part);
    } else if (turn.at(part.name) > turn.at(name) &&
               (turn.at(part.name) < turn.at(name) + packed.parts.size() ||  // soon
                held_bytes_ + part.bytes.size() <= job_.plan.held_bytes)) {
      held_bytes_ += part.bytes.size();
      std::string key = part.name;
      held_.insert_or_assign(std::move(key), std::move(part));
    }
  }
  return wanted;
}

void SafetensorsContainer::write_companions() {
  for (const CompanionFile& file : job_.source.companion_files()) {
    const std::string& name = file.name;
    if (name.empty() || name.find('/') != std::string::npos || name[0] == '.' || name == "config.json" ||
        is_weights_name(name)) {
      throw FormatError(fmt::format("{}: \"{}\" is no name for a file to carry along", job_.source.path(), name));
    }
    const std::string content = file.content();
    write_text_file(job_.folder + "/" + name, content);
    job_.add_file(name);
    if (name.starts_with("chat_template") ||
        (name == "tokenizer_config.json" && content.find("\"chat_template\"") != std::string::npos))
      job_.plan.chat_template = true;
  }
}

void SafetensorsContainer::write_rest() {
  write_companions();
  write_card();
  nlohmann::json config = job_.source.config_json();
  config.erase("quantization_config");
  config.erase("quantization");  // MLX's
  job_.layout.configure(job_.plan, kept_modules(job_), config);
  for (const auto& [name, content] : job_.layout.more_files(config)) {
    write_text_file(job_.folder + "/" + name, content);
    job_.add_file(name);
  }
  write_text_file(job_.folder + "/config.json", config.dump(2) + "\n");
  job_.add_file("config.json");
}

}  // namespace

std::unique_ptr<WriteContainer> make_safetensors_container(WriteJob& job) {
  return std::make_unique<SafetensorsContainer>(job);
}

}  // namespace metal_marlin
