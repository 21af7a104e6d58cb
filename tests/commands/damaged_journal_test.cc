// A journal whose files were changed between a run and the one that goes on: told before any work, nothing read beyond
// its end.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "commands/model_run_fixture.h"
#include "core/files/atomic_file.h"
#include "formats/safetensors.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class DamagedJournal : public ModelRunTest {
 protected:
  using Tensors = std::map<std::string, OwnedTensor>;

  QuantizeOptions options() const {
    QuantizeOptions o = tiny_options();
    o.scheme = Scheme::kSymmetric;
    o.linear_bits = {"*.v_proj.*=16"};
    evaluate_on_text(o, 4);
    return o;
  }
  // Stopped when the first of two blocks is done.
  void interrupt() {
    fs::remove_all(out("q"));
    Observer stop;
    stop.on_progress = [&](const Progress& p) { return !(p.stage == "round" && p.done == 1); };
    EXPECT_THROW(quantize_model(model(), out("q"), options(), stop), Interrupted);
    ASSERT_TRUE(fs::exists(file("block-00000.json")));
  }
  std::string file(const char* name) const { return out("q") + "/.metal-marlin/" + name; }
  void edit_block(const std::function<void(Tensors&)>& change,
                  const std::map<std::string, std::string>& metadata = {}) {
    const std::string path = file("block-00000.safetensors");
    Tensors tensors;
    std::map<std::string, std::string> kept;
    {
      const SafetensorsFile block(path);
      kept = metadata.empty() ? block.metadata() : metadata;
      for (const TensorView& t : block.tensors()) {
        OwnedTensor copy{t.name, t.dtype, t.shape, Buffer(t.bytes.size())};
        if (!t.bytes.empty()) std::memcpy(copy.bytes.data(), t.bytes.data(), t.bytes.size());
        tensors.emplace(t.name, std::move(copy));
      }
    }
    change(tensors);
    std::vector<OwnedTensor> list;
    for (auto& [name, t] : tensors) list.push_back(std::move(t));
    write_safetensors(path, std::span<const OwnedTensor>(list), kept);
  }
  void expect_told(const std::string& what) {
    try {
      quantize_model(model(), out("q"), options());
      ADD_FAILURE() << "not told: " << what;
    } catch (const FormatError& e) {
      EXPECT_NE(std::string(e.what()).find("--no-resume"), std::string::npos) << what << ": " << e.what();
      EXPECT_NE(std::string(e.what()).find(".metal-marlin"), std::string::npos) << what << ": " << e.what();
    } catch (const std::exception& e) {
      ADD_FAILURE() << what << ": " << e.what();
    }
    EXPECT_FALSE(fs::exists(out("q") + "/config.json"));
  }
};

OwnedTensor zeros(const std::string& name, DType type, std::vector<int64_t> shape) {
  OwnedTensor t{name, type, std::move(shape), Buffer()};
  t.bytes = Buffer(static_cast<size_t>(t.view().elements()) * dtype_size(type));
  if (t.bytes.size() > 0) std::memset(t.bytes.data(), 0, t.bytes.size());
  return t;
}

TEST_F(DamagedJournal, TensorsUnlikeTheModelAreTold) {
  const std::string v = "model.layers.0.self_attn.v_proj.weight";
  const std::string o = "model.layers.0.self_attn.o_proj.weight";
  const std::pair<const char*, std::function<void(Tensors&)>> changes[] = {
      {"empty v", [&](Tensors& t) { t.insert_or_assign(v, zeros(v, DType::kF16, {0})); }},
      {"short v", [&](Tensors& t) { t.insert_or_assign(v, zeros(v, DType::kF16, {1})); }},
      {"v in F32", [&](Tensors& t) { t.insert_or_assign(v, zeros(v, DType::kF32, {16, 32})); }},
      {"no v", [&](Tensors& t) { t.erase(v); }},
      {"a tensor more", [&](Tensors& t) { t.emplace("x", zeros("x", DType::kF16, {4})); }},
      {"wide o",
       [&](Tensors& t) {
         t.insert_or_assign(o, zeros(o, DType::kU32, {512, 32}));
         t.insert_or_assign(o + ".scales", zeros(o + ".scales", DType::kF16, {512, 32}));
         t.insert_or_assign(o + ".zeros", zeros(o + ".zeros", DType::kF16, {512, 32}));
       }},
  };
  for (const auto& [what, change] : changes) {
    interrupt();
    edit_block(change);
    expect_told(what);
  }
}

TEST_F(DamagedJournal, OtherKindsOfJsonAreTold) {
  const std::string o = "model.layers.0.self_attn.o_proj.weight";
  const auto codes = [&](const std::string& entry) {
    return R"({"blocks": {}, "codes": {")" + o + "\": " + entry + "}}";
  };
  const auto entry = [](const char* bits, const char* group, const char* scales) {
    return fmt::format(R"({{"bits": {}, "in_features": 32, "group_size": {}, "symmetric": true, "scale_type": {}}})",
                       bits, group, scales);
  };
  for (const std::string& linears :
       {std::string("{"), std::string("[]"), std::string("3"), std::string("{}"),
        std::string(R"({"blocks": {}, "codes": {}})"), std::string(R"({"blocks": [], "codes": {}})"), codes("3"),
        codes("{}"), codes(entry("4", "\"8\"", "\"F16\"")), codes(entry("\"4\"", "8", "\"F16\"")),
        codes(entry("-4294967292", "8", "\"F16\"")), codes(entry("4", "8", "\"F8\"")), codes(entry("4", "8", "3"))}) {
    interrupt();
    edit_block([](Tensors&) {}, {{"linears", linears}});
    expect_told(linears);
  }
  interrupt();
  edit_block([](Tensors&) {}, {{"other", "{}"}});
  expect_told("no list of linears");
  const std::pair<const char*, const char*> files[] = {
      {"block-00000.json", R"({"scales": 3, "changed": [3], "linears": []})"},
      {"block-00000.json", "[]"},
      {"texts.json", "[]"},
      {"texts.json", R"({"held_back_source": 3})"},
      {"texts.json", R"({"held_back_source": "x", "warnings": [3]})"},
      {"texts.json", R"({"held_back_source": "x", "calibration": "["})"},
  };
  for (const auto& [name, text] : files) {
    interrupt();
    std::ofstream(file(name)) << text;
    expect_told(std::string(name) + " " + text);
  }
}

// Without run.json nobody can tell which run the finished blocks are of. They are hours of work: kept until somebody
// says that they may go.
TEST_F(DamagedJournal, ADamagedOrMissingRunFileIsRefusedAndTheJournalKept) {
  for (const char* text : {"{\"fingerprint\": ", "[]", "", "{}", "{\"fingerprint\": null}", "missing"}) {
    interrupt();
    const auto damage = [&] {
      if (std::string(text) == "missing") {
        fs::remove(file("run.json"));
      } else {
        std::ofstream(file("run.json")) << text;
      }
    };
    damage();
    const auto expect_refused = [&](const QuantizeOptions& o) {
      try {
        quantize_model(model(), out("q"), o);
        ADD_FAILURE() << "not told: " << text;
      } catch (const FormatError& e) {
        for (const char* part : {".metal-marlin", "run.json", "--overwrite"})
          EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << text << ": " << e.what();
      }
      EXPECT_TRUE(fs::exists(file("block-00000.safetensors"))) << text;
    };
    expect_refused(options());
    QuantizeOptions other = options();
    other.scheme = Scheme::kAsymmetric;
    expect_refused(other);
    const auto plan = nlohmann::json::parse(plan_quantization(model(), out("q"), options()).to_json());
    EXPECT_NE(plan["stops"].dump().find("run.json"), std::string::npos) << text << plan["stops"];
    EXPECT_TRUE(fs::exists(file("block-00000.safetensors"))) << text;
    // Whose run it was cannot be told, so that --no-resume alone does not remove it either.
    QuantizeOptions fresh = options();
    fresh.resume = false;
    expect_refused(fresh);
    QuantizeOptions o = options();
    o.overwrite = true;
    std::vector<std::string> warnings;
    Observer observer;
    observer.on_warning = [&](const std::string& w) { warnings.push_back(w); };
    quantize_model(model(), out("q"), o, observer);
    EXPECT_TRUE(fs::exists(out("q") + "/report.json")) << text;
    EXPECT_TRUE(std::any_of(warnings.begin(), warnings.end(), [&](const std::string& w) {
      return w.find("--overwrite") != std::string::npos;
    })) << text;
  }
}

// Starting over does not remove the run of other options: only --overwrite does.
TEST_F(DamagedJournal, NoResumeKeepsTheRunOfOtherOptions) {
  interrupt();
  QuantizeOptions other = options();
  other.scheme = other.scheme == Scheme::kSymmetric ? Scheme::kAsymmetric : Scheme::kSymmetric;
  other.resume = false;
  EXPECT_THROW(quantize_model(model(), out("q"), other), ArgumentError);
  EXPECT_TRUE(fs::exists(file("block-00000.safetensors")));
  QuantizeOptions same = options();
  same.resume = false;
  quantize_model(model(), out("q"), same);
  EXPECT_TRUE(fs::exists(out("q") + "/report.json"));
}

// As version 0.2 noted runs: digests of 64 bits, and the fingerprint of a journal as a number. Nothing says then
// whether model and texts are the same, and nothing is claimed of them.
class RunOfAnEarlierVersion : public DamagedJournal {
 protected:
  static void make_earlier(const std::string& path, const char* run, const nlohmann::json& fingerprint) {
    auto noted = nlohmann::json::parse(read_text_file(path));
    auto& of_run = noted[nlohmann::json::json_pointer(run)];
    of_run["fingerprint"] = fingerprint;
    of_run["identity"]["model"]["digest"] = "6460e7ddf7c973ff";
    of_run["identity"]["texts"] = {"0123456789abcdef"};
    std::ofstream(path) << noted;
  }
  std::string refusal(const QuantizeOptions& o) {
    try {
      quantize_model(model(), out("q"), o);
    } catch (const ArgumentError& e) {
      return e.what();
    }
    ADD_FAILURE() << "taken";
    return {};
  }
  static void expect(const std::string& message, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << part << ": " << message;
    for (const char* part : {"changed since", "texts hold something else"})
      EXPECT_EQ(message.find(part), std::string::npos) << message;
  }
};

TEST_F(RunOfAnEarlierVersion, IsNeitherContinuedNorCalledDamaged) {
  interrupt();
  make_earlier(file("run.json"), "", 7237128888997146447U);
  expect(refusal(options()), {out("q"), "of an earlier version", "with the version that began it", "--overwrite"});
  QuantizeOptions other = options();
  other.scheme = Scheme::kAsymmetric;
  expect(refusal(other), {"--scheme sym there, asym now", "of an earlier version"});
  EXPECT_TRUE(fs::exists(file("block-00000.safetensors")));
  EXPECT_NE(plan_quantization(model(), out("q"), options()).stops.find("of an earlier version"), std::string::npos);
  other.overwrite = true;
  quantize_model(model(), out("q"), other);
  EXPECT_TRUE(fs::exists(out("q") + "/report.json"));
}

TEST_F(RunOfAnEarlierVersion, ItsResultIsKept) {
  fs::remove_all(out("q"));
  quantize_model(model(), out("q"), options());
  make_earlier(out("q") + "/report.json", "/run", "6464646464646464");
  expect(refusal(options()), {out("q"), "holds another result (of an earlier version", "--overwrite"});
  EXPECT_TRUE(fs::exists(out("q") + "/config.json"));
}

// What a killed conversion leaves is no run of hours, and a killed start has noted nothing yet.
TEST_F(DamagedJournal, AJournalFolderWithoutWorkIsNotInTheWay) {
  for (const char* name : {"result", ".metal-marlin-0123456789abcdef.tmp"}) {
    fs::remove_all(out("q"));
    fs::create_directories(out("q") + "/.metal-marlin");
    if (std::string(name) == "result") {
      fs::create_directories(file(name));
    } else {
      std::ofstream(file(name)) << "x";
    }
    quantize_model(model(), out("q"), options());
    EXPECT_TRUE(fs::exists(out("q") + "/report.json")) << name;
  }
}

}  // namespace
}  // namespace metal_marlin
