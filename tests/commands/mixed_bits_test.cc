// Mixed precision on tiny models: what is measured against runs with single quantized linears, the choice within its
// limits, what is written and read back, interruption and threads, and what is refused.
#include "mixed/mixed_bits.h"
#include "commands/model_run_fixture.h"

#include <gtest/gtest.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/model_source.h"
#include "core/enum_names.h"
#include "core/files/atomic_file.h"
#include "core/files/mapped_file.h"
#include "core/random.h"
#include "core/threads.h"
#include "records/json_records.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class MixedBits : public ModelRunTest {
 protected:
  QuantizeOptions options(double target) const {
    QuantizeOptions o = tiny_options();
    o.method = Method::kRtn;
    o.scheme = Scheme::kSymmetric;
    if (target > 0) o.target_bits = target;
    o.sensitivity_tokens = 256;
    o.evaluation.text = "none";
    return o;
  }
  json quantize(const QuantizeOptions& o, const std::string& to, const std::string& from = model()) const {
    return json::parse(quantize_model(from, out(to), o).report.to_json());
  }
  template <typename E>
  void expect_refused(const QuantizeOptions& o, std::initializer_list<const char*> parts) const {
    try {
      quantize_model(model(), out("refused"), o);
      ADD_FAILURE() << "not refused";
    } catch (const E& e) {
      for (const char* part : parts) EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
    EXPECT_FALSE(fs::exists(out("refused")));  // before any work
  }
  // Bytes of all files but the reports, which tell of time and place.
  std::map<std::string, std::string> bytes(const std::string& name) const {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(out(name))) {
      const std::string file = fs::relative(entry.path(), out(name)).string();
      if (entry.is_regular_file() && file.find("report.") == std::string::npos)
        files[file] = read_text_file(entry.path().string());
    }
    return files;
  }
  static double storage(const json& mixed) {
    double sum = 0;
    double weights = 0;
    for (const json& item : mixed["items"]) {
      weights += item["weights"].get<double>();
      for (const json& o : item["options"]) {
        if (o["bits"] == item["chosen"]["bits"] && o["group_size"] == item["chosen"]["group_size"])
          sum += o["storage_bits"].get<double>();
      }
    }
    return sum / weights;
  }
};

TEST(StorageBits, CountsCodesScalesAndZeros) {
  EXPECT_EQ(storage_bits(10, 128, {4, true, 64}), 10U * (128 * 4 + 2 * 16));  // 4.25 per weight
  EXPECT_EQ(storage_bits(10, 128, {4, false, 64}), 10U * (128 * 4 + 2 * (16 + 4)));
  EXPECT_EQ(storage_bits(10, 128, {8, true, -1}), 10U * (128 * 8 + 16));
  EXPECT_EQ(storage_bits(10, 100, {3, true, 64}), 10U * (100 * 3 + 2 * 16));  // the last group is short
  EXPECT_EQ(storage_bits(10, 128, {kUnquantizedBits, true, 64}), 10U * 128 * 16);
}

// The measured KL divergence of each item is that of a run in which all others stay in 16 bits, on the very tokens.
TEST_F(MixedBits, MeasuresWhatRunsWithSingleLinearsGive) {
  QuantizeOptions o = options(16);
  o.sensitivity_tokens = 256;  // the last four of the sixteen sequences
  const json measured = json::parse(sensitivity_of_model(model(), o).to_json());
  ASSERT_EQ(measured["items"].size(), 2U * kLinearInputs);
  EXPECT_EQ(measured["tokens"], 256);
  // The same tokens as a text to evaluate on is awkward to make: the sequences are cut from the text without gaps, so
  // that evaluating on all sixteen and on the first twelve gives their sum by difference.
  for (const json& item : measured["items"]) {
    QuantizeOptions single = options(0);
    const std::set<std::string> own(item["linears"].begin(), item["linears"].end());
    for (const json& other : measured["items"]) {
      for (const json& name : other["linears"]) {
        if (own.count(name.get<std::string>()) == 0) single.skip.push_back(name.get<std::string>());
      }
    }
    evaluate_on_text(single);
    const auto kl = [&](int64_t chunks) {
      single.evaluation.chunks = chunks;
      const json report = quantize(single, "single" + std::to_string(chunks));
      fs::remove_all(out("single" + std::to_string(chunks)));
      return report["model"]["kl_divergence"]["mean"].get<double>() * report["model"]["positions"].get<double>();
    };
    const double scored = kl(16) - kl(12);
    // Scored there are all positions but the last of a sequence, measured all.
    EXPECT_NEAR(item["kl"].get<double>() * 256 / (scored * 64 / 63), 1, 0.15) << item["tap"] << item["layer"];
  }
}

// The model is so small that the sample of rows is all of them: the ratio of the estimates is that of the squared
// output errors which runs with those grids report, calibrated on the same sequences.
TEST_F(MixedBits, EstimatesOtherGridsByTheErrorsOfRealRuns) {
  QuantizeOptions o = options(0);
  o.method = Method::kGptq;
  o.guard = false;
  const json measured = json::parse(sensitivity_of_model(model(), o).to_json());
  EXPECT_EQ(measured["statistics_tokens"], 12 * 64);
  o.calibration.samples = 12;
  const auto error = [&](const std::string& name, const json& option) {
    const auto grid = "=" + option["bits"].dump() + ":" + option["group_size"].dump();
    o.linear_bits = {name + grid};
    const json report = quantize(o, "run" + grid);
    fs::remove_all(out("run" + grid));
    for (const json& l : report["linears"]) {
      if (l["name"] == name) return l["output_error"].get<double>();
    }
    return -1.0;
  };
  int compared = 0;
  for (const json& item : measured["items"]) {
    if (item["linears"].size() != 1) continue;
    const auto name = item["linears"][0].get<std::string>();
    const json& usual = item["options"][0];
    EXPECT_EQ(usual["estimated_kl"], item["kl"]);
    for (const json& option : item["options"]) {
      if (option == usual || option["bits"] == 16) continue;
      const double ratio = error(name, option) / error(name, usual);
      EXPECT_NEAR(option["estimated_kl"].get<double>() / item["kl"].get<double>() / (ratio * ratio), 1, 1e-3)
          << name << option;
      ++compared;
    }
  }
  EXPECT_GE(compared, 4);
}

TEST(GridChoices, AreWhatTheFormatsHold) {
  const auto choices = [](const std::vector<std::string>& formats, int64_t group) {
    QuantizeOptions o;
    o.formats = formats;
    Recipe recipe;
    recipe.grid = {4, true, group};
    std::vector<std::pair<int, int64_t>> out;
    for (const Grid& grid : grid_choices(o, recipe))
      out.emplace_back(grid.bits, grid.bits == kUnquantizedBits ? 0 : grid.group_size);
    return out;
  };
  using Choices = std::vector<std::pair<int, int64_t>>;
  EXPECT_EQ(choices({"native"}, 64), (Choices{{4, 64}, {4, 128}, {4, 32}, {4, 16}, {3, 64}, {8, 64}, {16, 0}}));
  EXPECT_EQ(choices({"native"}, 128), (Choices{{4, 128}, {4, 64}, {4, 32}, {3, 128}, {8, 128}, {16, 0}}));
  EXPECT_EQ(choices({"native"}, -1), (Choices{{4, -1}, {3, -1}, {8, -1}, {16, 0}}));
  EXPECT_EQ(choices({"gptq_v2"}, 64), (Choices{{4, 64}, {4, 128}, {4, 32}, {3, 64}, {8, 64}, {16, 0}}));
  EXPECT_EQ(choices({"native", "gptq"}, 32), (Choices{{4, 32}, {4, 64}, {8, 32}, {16, 0}}));
  EXPECT_EQ(choices({"native", "awq"}, 64), (Choices{{4, 64}, {16, 0}}));
}

// A run that goes on takes what it measured before, and nothing else.
TEST(TakeMeasured, OnlyOfTheVeryItems) {
  Sensitivity whole;
  whole.tokens = 64;
  whole.kl_together = 0.25;
  for (int i = 0; i < 2; ++i) {
    SensitiveItem item;
    item.names = {"layer" + std::to_string(i) + ".weight"};
    item.kl = 0.1 + 0.2 * i;
    item.options = {{Grid{4, true, 64}, 425, item.kl}, {Grid{8, true, 64}, 825, 1e-7 / 3}};
    whole.items.push_back(item);
  }
  Sensitivity planned = whole;
  planned.kl_together = 0;
  for (SensitiveItem& item : planned.items) {
    item.kl = 0;
    for (BitsOption& o : item.options) o.kl = 0;
  }
  // As the journal reads it: nothing where a value does not fit.
  const auto take = [](const json& from, Sensitivity& s) {
    const auto record = record_if_whole<SensitivityRecord>(from);
    return record && take_measured(*record, s);
  };
  const auto json_text = [](const Sensitivity& s) { return json_of(record_of(s)).dump(); };
  const json good = json::parse(json_text(whole));
  Sensitivity taken = planned;
  ASSERT_TRUE(take(good, taken));
  EXPECT_EQ(json_text(taken), good.dump());
  const auto refused = [&](const char* pointer, const json& value) {
    json bad = good;
    bad[json::json_pointer(pointer)] = value;
    Sensitivity same = planned;
    EXPECT_FALSE(take(bad, same)) << pointer << " " << value;
    EXPECT_EQ(json_text(same), json_text(planned));
  };
  for (const json& value : {json("x"), json(nullptr), json::object(), json::array(), json(-1), json(1e300)}) {
    for (const char* pointer :
         {"/tokens", "/kl_together", "/items", "/items/1", "/items/0/kl", "/items/0/options", "/items/0/options/1",
          "/items/1/options/0/estimated_kl", "/items/0/linears", "/items/0/options/0/bits",
          "/items/0/options/0/group_size", "/items/0/options/1/storage_bits"}) {
      refused(pointer, value);
    }
  }
  refused("/items/0/options/0/group_size", 7);
  for (const json& bad : {json(nullptr), json(3), json::array(), json::object(), json(json::value_t::discarded)}) {
    Sensitivity same = planned;
    EXPECT_FALSE(take(bad, same));
  }
}

// What the report says of the file is the size of its tensors.
TEST_F(MixedBits, ReportsWhatTheFileHolds) {
  for (const auto& [format, target] : {std::pair{"native", 7.0}, {"gptq_v2", 7.0}, {"awq", 9.0}}) {
    QuantizeOptions o = options(target);
    o.formats = {format};
    const json mixed = quantize(o, format)["mixed"];
    std::set<std::string> modules;
    double weights = 0;
    for (const json& item : mixed["items"]) {
      weights += item["weights"].get<double>();
      for (const json& name : item["linears"])
        modules.insert(name.get<std::string>().substr(0, name.get<std::string>().rfind('.')));
    }
    const json files = json::parse(inspect_model(out(format), true).to_json())["tensors"];
    double bytes = 0;
    for (const json& t : files) {
      const auto name = t["name"].get<std::string>();
      if (modules.count(name.substr(0, name.rfind('.'))) > 0 && name.ends_with(".weight"))
        bytes += t["bytes"].get<double>();
    }
    EXPECT_NEAR(mixed["file_bits_per_weight"].get<double>(), 8 * bytes / weights, 1e-9) << format;
    EXPECT_GT(mixed["file_bits_per_weight"].get<double>(), mixed["bits_per_weight"].get<double>()) << format;
  }
}

TEST_F(MixedBits, KeepsTheTargetAndEstimatesTheBestOfIt) {
  double last = std::numeric_limits<double>::infinity();
  for (const double target : {5.2, 6.0, 6.5, 8.0, 11.0, 15.0}) {
    QuantizeOptions o = options(target);
    evaluate_on_text(o);
    const json report = quantize(o, "q" + std::to_string(target));
    const json& mixed = report["mixed"];
    EXPECT_LE(mixed["bits_per_weight"].get<double>(), target);
    EXPECT_NEAR(storage(mixed), mixed["bits_per_weight"].get<double>(), 1e-9);
    EXPECT_LE(mixed["estimated_kl"].get<double>(), last);
    last = mixed["estimated_kl"].get<double>();
    std::map<std::string, int> bits;
    for (const json& l : report["linears"]) bits[l["name"].get<std::string>()] = l["bits"].get<int>();
    for (const json& item : mixed["items"]) {
      for (const json& name : item["linears"]) {
        const int chosen = item["chosen"]["bits"].get<int>();
        EXPECT_EQ(bits.count(name.get<std::string>()), chosen == 16 ? 0U : 1U) << name;
        if (chosen != 16) {
          EXPECT_EQ(bits[name.get<std::string>()], chosen) << name;
        }
      }
    }
    EXPECT_NO_THROW(render_report_html(report_from_json(report.dump())));
    EXPECT_NE(render_report_text(report_from_json(report.dump())).find("Bits of each linear"), std::string::npos);
  }
}

// With 16 bits each nothing would be quantized. That is known after the measurement alone; what stood there before
// stays.
TEST_F(MixedBits, ARefusalLeavesTheOldResult) {
  QuantizeOptions o = options(6);
  quantize(o, "kept");
  const auto before = bytes("kept");
  ASSERT_FALSE(before.empty());
  o = options(0);
  evaluate_on_text(o);
  o.overwrite = true;
  o.mixed_bits = true;
  o.max_kl = 1e-12;
  try {
    quantize(o, "kept");
    ADD_FAILURE();
  } catch (const ArgumentError& e) {
    EXPECT_NE(std::string(e.what()).find("--max-kl 1e-12: only 16 bits for every linear"), std::string::npos)
        << e.what();
  }
  EXPECT_EQ(bytes("kept"), before);  // no journal either
  EXPECT_TRUE(fs::exists(fs::path(out("kept")) / "report.json"));
  o = options(2.5);
  o.overwrite = true;
  EXPECT_THROW(quantize(o, "kept"), ArgumentError);
  EXPECT_EQ(bytes("kept"), before);
  EXPECT_THROW(plan_quantization(model(), out("kept"), o), ArgumentError);
  // A choice that is possible takes its place.
  o = options(7);
  o.overwrite = true;
  quantize(o, "kept");
  EXPECT_NE(bytes("kept"), before);
}

TEST_F(MixedBits, WarnsWhereMeasuredSequencesAreCalibratedOn) {
  QuantizeOptions o = options(6);
  o.calibration.samples = 6;  // 4 of 64 tokens are measured on
  const auto warned = [](const json& report) {
    const auto& w = report["warnings"];
    return std::any_of(w.begin(), w.end(), [](const json& text) {
      return text.get<std::string>().find("give at least 8 sequences") != std::string::npos;
    });
  };
  EXPECT_TRUE(warned(quantize(o, "few")));
  o.calibration.samples = 8;
  EXPECT_FALSE(warned(quantize(o, "enough")));
}

TEST_F(MixedBits, FewestBitsThatMeetALimit) {
  QuantizeOptions o = options(0);
  evaluate_on_text(o);
  o.mixed_bits = true;
  double last = 0;
  for (const double limit : {0.05, 0.005, 0.0005}) {
    o.max_kl = limit;
    const json mixed = quantize(o, "l" + std::to_string(limit))["mixed"];
    EXPECT_LE(mixed["estimated_kl"].get<double>(), limit);
    EXPECT_GE(mixed["bits_per_weight"].get<double>(), last);
    last = mixed["bits_per_weight"].get<double>();
  }
}

// What is reported is what a reader of each format computes, and AWQ has 4 or 16 bits alone.
TEST_F(MixedBits, EachFormatReadsBackAsReported) {
  for (const auto& [format, target] : {std::pair{"native", 7.0}, {"gptq_v2", 7.0}, {"gptq", 7.0}, {"awq", 9.0}}) {
    QuantizeOptions o = options(target);
    evaluate_on_text(o);
    o.formats = {format};
    const json report = quantize(o, format);
    std::set<int> widths;
    for (const json& item : report["mixed"]["items"]) widths.insert(item["chosen"]["bits"].get<int>());
    EXPECT_GE(widths.size(), 2U) << format;
    if (format == std::string("awq")) {
      EXPECT_EQ(widths, (std::set<int>{4, 16}));
    }
    const Evaluation read = evaluate_model(out(format), model(), o.evaluation, {});
    const double kl = report["model"]["kl_divergence"]["mean"].get<double>();
    EXPECT_NEAR(read.model.kl_divergence.mean.value(), kl, 0.02 * kl + 1e-5) << format;
    if (format == std::string("gptq_v2")) {
      // The other way into the native format and back, with the same integers.
      ConvertOptions to;
      to.to = "native";
      convert_model(out(format), out("there"), to);
      to.to = "gptq_v2";
      convert_model(out("there"), out("back"), to);
      EXPECT_EQ(read_text_file(out("back") + "/model.safetensors"), read_text_file(out(format) + "/model.safetensors"));
    }
  }
}

TEST_F(MixedBits, LinearsThatEnginesFuseHaveOneGrid) {
  for (const char* name : {"llama", "phi3", "gemma2"}) {
    const json report = quantize(options(6.5), name, model(name));
    for (const json& item : report["mixed"]["items"]) {
      EXPECT_EQ(item["linears"].size(), item["tap"] == "qkv" && name != std::string("phi3")       ? 3U
                                        : item["tap"] == "gate_up" && name != std::string("phi3") ? 2U
                                                                                                  : 1U)
          << name;
    }
  }
}

TEST_F(MixedBits, SameBytesWithTwoThreadsAndAfterAnInterruption) {
  QuantizeOptions o = options(6.5);
  evaluate_on_text(o);
  o.method = Method::kAwq;
  o.machine.threads = 1;
  quantize(o, "one");
  o.machine.threads = 2;
  quantize(o, "two");
  EXPECT_EQ(bytes("one"), bytes("two"));
  // Stopped at each place where the work can be: in the measurement, and in the blocks after it.
  for (const char* stage : {"sensitivity", "round"}) {
    int calls = 0;
    Observer stop;
    stop.on_progress = [&](const Progress& p) { return p.stage != stage || ++calls < 6; };
    EXPECT_THROW(quantize_model(model(), out(stage), o, stop), Interrupted);
    quantize(o, stage);
    EXPECT_EQ(bytes("one"), bytes(stage)) << stage;
  }
}

TEST_F(MixedBits, PatternsGiveBitsByHand) {
  QuantizeOptions o = options(0);
  evaluate_on_text(o);
  o.linear_bits = {"*=8", "*.layers.0.self_attn.k_proj.weight=3:32", "*.layers.1.mlp.*=16",
                   "*.layers.1.mlp.down_proj.*=4"};
  // 3 bits want 32 inputs, which q, k and v have.
  const json report = quantize(o, "q");
  for (const json& l : report["linears"]) {
    const auto name = l["name"].get<std::string>();
    EXPECT_EQ(name.find("layers.1.mlp.gate"), std::string::npos);
    const bool qkv = name.find("layers.0.self_attn") != std::string::npos && name.find("o_proj") == std::string::npos;
    EXPECT_EQ(l["bits"], qkv ? 3 : name.find("layers.1.mlp.down") != std::string::npos ? 4 : 8) << name;
    EXPECT_EQ(l["group_size"], qkv ? 32 : 8) << name;
  }
  EXPECT_EQ(report["skipped"].size(), 2U + 0U);
  for (const json& s : report["skipped"]) EXPECT_EQ(s["reason"], "--linear-bits");
  EXPECT_TRUE(report["mixed"].is_null());
  // Beside a target they are fixed, the others free.
  o.linear_bits = {"*.down_proj.*=8"};
  o.target_bits = 6.5;
  const json mixed = quantize(o, "both")["mixed"];
  for (const json& item : mixed["items"]) {
    if (item["tap"] == "down") {
      EXPECT_EQ(item["chosen"]["bits"], 8);
    }
  }
  EXPECT_LE(mixed["bits_per_weight"].get<double>(), 6.5);
}

// The bits are chosen by the run, so its plan gives a bound, and says so: in every format, with what its layout adds to
// the bits that the target counts, with scales folded into tensors of float32, and with a limit in place of a target.
TEST_F(MixedBits, APlanBoundsTheSizeOfTheResult) {
  struct Case {
    const char* format;
    const char* method;
    double target;
    double limit;
  };
  for (const Case& c : std::initializer_list<Case>{{"native", "rtn", 6.0, -1},
                                                   {"native", "awq", 7.5, -1},
                                                   {"native", "rtn", 0, 0.001},
                                                   {"awq", "rtn", 9.0, -1},
                                                   {"gptq_v2", "rtn", 6.5, -1}}) {
    QuantizeOptions o = options(c.target);
    o.method = enum_named<Method>(c.method).value();
    o.formats = {c.format};
    if (c.limit >= 0) {
      o.mixed_bits = true;
      o.max_kl = c.limit;
    }
    const std::string name = std::string(c.format) + c.method + std::to_string(c.target);
    const Plan plan = plan_quantization(model(), out(name), o);
    ASSERT_EQ(plan.sizes.size(), 1U) << name;
    const json report = quantize(o, name);
    const auto bytes = report["model"]["bytes"].get<uint64_t>();
    EXPECT_GE(plan.sizes[0].bytes, bytes) << name;
    // A target leaves little room, but for the last set of linears that no longer fits. Native keeps float32 as it is,
    // so a linear that stays may take twice what the target counts.
    if (c.target > 0 && std::string(c.format) != "native") {
      EXPECT_LE(static_cast<double>(plan.sizes[0].bytes), 1.25 * static_cast<double>(bytes)) << name;
    }
    EXPECT_NE(render_plan(plan).find("OUT will be at most "), std::string::npos) << render_plan(plan);
  }
  QuantizeOptions o = options(0);
  const Plan plain = plan_quantization(model(), out("plain"), o);
  EXPECT_EQ(render_plan(plain).find("at most"), std::string::npos) << render_plan(plain);
  EXPECT_EQ(plain.sizes.at(0).bytes, quantize(o, "plain")["model"]["bytes"].get<uint64_t>());
}

// All choices between 4 and 16 bits, counted here by what AWQ's layout takes, against the bound.
TEST_F(MixedBits, ThePlansBoundIsThatOfTheLargestChoice) {
  QuantizeOptions o = options(9);
  o.formats = {"awq"};
  const Plan plan = plan_quantization(model(), out("q"), o);
  struct Item {
    double weights = 0, counted = 0, bytes = 0;
  };
  std::map<std::string, Item> items;
  double weights = 0;
  for (const PlannedLinear& l : plan.quantized) {
    std::string set = l.name.substr(0, l.name.rfind('.', l.name.size() - 8));
    if (l.name.find("o_proj") != std::string::npos || l.name.find("down_proj") != std::string::npos) set = l.name;
    const auto n = static_cast<double>(l.shape[0]);
    const auto k = static_cast<double>(l.shape[1]);
    Item& item = items[set];
    item.weights += n * k;
    item.counted += n * (4 * k + k / 8 * 16);                 // codes and scales of groups of 8
    item.bytes += n * k / 2 + k / 8 * n / 2 + k / 8 * n * 2;  // codes, zeros, scales
    weights += n * k;
  }
  ASSERT_EQ(items.size(), 8U);
  double most = 0;
  double largest_step = 0;
  for (unsigned choice = 0; choice < 256; ++choice) {
    double counted = 0;
    double bytes = 0;
    unsigned bit = 1;
    for (const auto& [name, item] : items) {
      counted += (choice & bit) != 0 ? 16 * item.weights : item.counted;
      bytes += (choice & bit) != 0 ? 2 * item.weights : item.bytes;
      largest_step = std::max(largest_step, 2 * item.weights - item.bytes);
      bit *= 2;
    }
    if (counted <= 9 * weights) most = std::max(most, bytes);
  }
  double linears = 0;
  for (const PartRecord& part : plan.sizes.at(0).parts) {
    if (part.name == "linears") linears = static_cast<double>(part.bytes);
  }
  EXPECT_GE(linears, most);
  EXPECT_LE(linears, most + largest_step);
}

TEST_F(MixedBits, LinearsFixedAt16BitsStaySoBesideATarget) {
  QuantizeOptions o = options(7);
  o.linear_bits = {"*.layers.0.self_attn.q_proj.*=16"};  // so k and v as well
  const json report = quantize(o, "q");
  for (const json& l : report["linears"])
    EXPECT_EQ(l["name"].get<std::string>().find("layers.0.self_attn.v"), std::string::npos);
  for (const json& item : report["mixed"]["items"]) EXPECT_FALSE(item["layer"] == 0 && item["tap"] == "qkv");
  const auto reason = [](const json& skipped, const std::string& name) {
    for (const json& s : skipped) {
      if (s["name"] == name) return s["reason"].get<std::string>();
    }
    return std::string();
  };
  const std::string name = "model.layers.0.self_attn.k_proj.weight";
  EXPECT_EQ(reason(report["skipped"], name), "--linear-bits");
  EXPECT_EQ(reason(json::parse(plan_quantization(model(), out("plan"), o).to_json())["skipped"], name),
            "--linear-bits");
  EXPECT_FALSE(ModelSource::open(out("q"))->load_codes(name).has_value());
}

// What comes out of v and up is scaled for the linears behind them whatever they are stored in.
TEST_F(MixedBits, ScalesAreFoldedIntoWhatStaysIn16Bits) {
  for (const char* name : {"llama", "qwen2", "phi3"}) {
    QuantizeOptions o = options(0);
    evaluate_on_text(o);
    o.method = Method::kAwq;
    SCOPED_TRACE(name);
    o.linear_bits = {std::string(name) == "phi3" ? "*.qkv_proj.*=16" : "*.v_proj.*=16", "*up_proj.*=16"};
    o.machine.threads = 1;
    const std::string to = std::string("whole-") + name;
    const json report = quantize(o, to, model(name));
    std::set<std::string> folds;
    for (const json& s : report["scales"]) folds.insert(s["tap"].get<std::string>());
    EXPECT_EQ(folds, (std::set<std::string>{"o", "down"})) << name;
    // The source's rows over the written ones are the scale, the same along a row.
    const auto source = ModelSource::open(model(name));
    const auto written = ModelSource::open(out(to));
    int folded = 0;
    for (const LinearSlot& slot : source->linears(1)) {
      if (slot.kind == LinearKind::kO || slot.kind == LinearKind::kDown) continue;
      const Matrix a = source->load(slot.weight, slot.first_row, slot.rows);
      const Matrix b = written->load(slot.weight, slot.first_row, slot.rows);
      bool scaled = false;
      for (int64_t r = 0; r < slot.rows; ++r) {
        int64_t largest = 0;
        for (int64_t c = 0; c < slot.columns; ++c) largest = std::abs(a(r, c)) > std::abs(a(r, largest)) ? c : largest;
        const float ratio = b(r, largest) / a(r, largest);
        scaled = scaled || std::abs(ratio - 1) > 0.01f;
        for (int64_t c = 0; c < slot.columns; ++c)
          EXPECT_NEAR(b(r, c), ratio * a(r, c), 2e-3f * std::abs(b(r, largest)));
      }
      EXPECT_TRUE(!scaled || slot.kind == LinearKind::kV || slot.kind == LinearKind::kUp) << slot.weight;
      folded += scaled ? 1 : 0;
    }
    EXPECT_GT(folded, 0);  // a search may find that no scale is best
    // What was measured beside the work is what the files give; and a run that goes on ends the same.
    const double kl = report["model"]["kl_divergence"]["mean"].get<double>();
    EXPECT_NEAR(evaluate_model(out(to), model(name), o.evaluation, {}).model.kl_divergence.mean.value(), kl, 0.01 * kl)
        << name;
    int calls = 0;
    Observer stop;
    stop.on_progress = [&](const Progress& p) { return p.stage != "round" || p.done < 1 || ++calls < 3; };
    const std::string cut = std::string("cut-") + name;
    EXPECT_THROW(quantize_model(model(name), out(cut), o, stop), Interrupted);
    quantize(o, cut, model(name));
    EXPECT_EQ(bytes(to), bytes(cut)) << name;
  }
}

TEST_F(MixedBits, ALimitOfTheEstimateNeedsNoEvaluation) {
  QuantizeOptions o = options(0);
  o.mixed_bits = true;
  o.max_kl = 0.02;
  const QuantizeResult result = quantize_model(model(), out("q"), o);
  EXPECT_TRUE(result.passed_gate);
  const json report = json::parse(result.report.to_json());
  EXPECT_TRUE(report["gate"]["passed"].is_null());
  EXPECT_NE(render_report_text(result.report).find("met by the estimate"), std::string::npos);
  EXPECT_LE(report["mixed"]["estimated_kl"].get<double>(), 0.02);
}

TEST_F(MixedBits, InspectionCountsTheGrids) {
  QuantizeOptions o = options(0);
  o.linear_bits = {"*.k_proj.*=8", "*.layers.1.mlp.down_proj.*=16"};
  o.formats = {"native", "gptq_v2"};
  quantize(o, "q");
  for (const char* format : {"native", "gptq_v2"}) {
    const Inspection inspection = inspect_model(out("q") + "/" + format);
    const json j = json::parse(inspection.to_json());
    const json expected = {{{"bits", 4}, {"group_size", 8}, {"linears", 7}, {"weights", 2 * 32 * 32 + 5 * 32 * 40}},
                           {{"bits", 8}, {"group_size", 8}, {"linears", 6}, {"weights", 2 * (32 * 32 + 2 * 16 * 32)}},
                           {{"bits", 16}, {"group_size", 0}, {"linears", 1}, {"weights", 32 * 40}}};
    EXPECT_EQ(j["grids"], expected) << format;
    EXPECT_NE(render_inspection(inspection).find("8 bits, groups of 8: 6 linears"), std::string::npos)
        << render_inspection(inspection);
  }
}

TEST_F(MixedBits, RefusesBeforeAnyWork) {
  QuantizeOptions o = options(4.0);
  o.method = Method::kRtn;
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(17);
        return x;
      }(),
      {"--target-bits", "17"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(16);
        return x;
      }(),
      {"--target-bits", "less than 16"});
  expect_refused<ArgumentError>(options(2.5), {"--target-bits 2.5", "fewest bits"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(0);
        x.mixed_bits = true;
        return x;
      }(),
      {"--bits mixed", "--max-kl"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(5);
        x.bits = 8;
        return x;
      }(),
      {"--target-bits", "--bits 8"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(0);
        x.linear_bits = {"*.nothing.*=8"};
        return x;
      }(),
      {"--linear-bits", "nothing"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(0);
        x.linear_bits = {"*.down_proj.*"};
        return x;
      }(),
      {"--linear-bits", "PATTERN=BITS"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(0);
        x.linear_bits = {"*.down_proj.*=9"};
        return x;
      }(),
      {"--linear-bits", "2 to 8 or 16"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(0);
        x.linear_bits = {"*.down_proj.*=8:24"};
        return x;
      }(),
      {"24", "40"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(0);
        x.formats = {"awq"};
        x.linear_bits = {"*.down_proj.*=8"};
        return x;
      }(),
      {"awq", "one grid"});
  expect_refused<ArgumentError>(
      [&] {
        auto x = options(0);
        x.formats = {"gptq"};
        x.linear_bits = {"*.q_proj.*=3"};
        return x;
      }(),
      {"gptq", "3"});
}

// It writes nothing, evaluates nothing and measures at 4 bits.
TEST_F(MixedBits, SensitivitySaysWhatItDoesNotUse) {
  std::vector<std::string> warnings;
  Observer observer;
  observer.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  const auto said = [&](const QuantizeOptions& o) {
    warnings.clear();
    sensitivity_of_model(model(), o, observer);
    std::string all;
    for (const std::string& text : warnings) all += text + "\n";
    return all;
  };
  QuantizeOptions o = options(0);
  o.evaluation.text.clear();
  EXPECT_EQ(said(o).find("without effect"), std::string::npos) << said(o);
  o.target_bits = 4.5;
  o.mixed_bits = true;
  o.max_kl = 0.1;
  o.evaluation.text = "no such file";
  o.evaluation.chunks = 2;
  o.evaluation.context = 16;
  o.overwrite = true;
  o.resume = false;
  o.damping = 0.5;
  const std::string all = said(o);
  for (const char* name : {"--target-bits", "mixed_bits", "--max-kl", "--evaluate", "--chunks", "--context",
                           "--overwrite", "--resume", "--damping (--method rtn"})
    EXPECT_NE(all.find(name), std::string::npos) << name << "\n" << all;
  EXPECT_EQ(all.find("--sensitivity-tokens"), std::string::npos) << all;
  for (const int bits : {3, 8}) {
    o.bits = bits;
    try {
      said(o);
      ADD_FAILURE() << bits;
    } catch (const ArgumentError& e) {
      EXPECT_EQ(e.what(), "--bits: expected 4, at which sensitivity is measured, found " + std::to_string(bits));
      EXPECT_EQ(e.option(), "bits");
    }
  }
}

TEST_F(MixedBits, OtherBitsLeaveNoChoiceToWhatWasAskedFor) {
  QuantizeOptions o = options(0);
  o.bits = 8;
  o.mixed_bits = true;
  o.max_kl = 0.1;
  o.evaluation.text = std::string(SOURCE_FOLDER) + "/README.md";
  expect_refused<ArgumentError>(o, {"--bits 8: leaves no choice to mixed_bits"});
  o.target_bits = 4.5;
  expect_refused<ArgumentError>(o, {"--bits 8: leaves no choice to --target-bits"});
}

TEST_F(MixedBits, InspectionRanksTheLinears) {
  Inspection inspection = inspect_model(model(), false);
  inspection.sensitivity = sensitivity_of_model(model(), options(0));
  const std::string text = render_inspection(inspection);
  std::vector<double> kl;
  for (const SensitivityItem& item : inspection.sensitivity->items) kl.push_back(item.kl);
  // What was measured stands in the JSON as it stands alone.
  const json j = json::parse(inspection.to_json());
  EXPECT_EQ(j["sensitivity"].dump(2), inspection.sensitivity->to_json());
  EXPECT_NE(text.find("rank"), std::string::npos);
  std::istringstream lines(text.substr(text.find("rank")));
  std::string line;
  std::getline(lines, line);
  double last = std::numeric_limits<double>::infinity();
  size_t rows = 0;
  for (int64_t rank, layer; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string input;
    int64_t weights = 0;
    double value = 0;
    if (!(words >> rank >> layer >> input >> weights >> value)) break;
    EXPECT_EQ(rank, static_cast<int64_t>(++rows));
    EXPECT_LE(value, last);
    last = value;
  }
  EXPECT_EQ(rows, kl.size());
}

}  // namespace
}  // namespace metal_marlin
