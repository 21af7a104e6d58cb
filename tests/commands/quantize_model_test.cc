// The main job on tiny models: what is written is what the report speaks of, whatever interrupts it.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>
#include <sys/mount.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "commands/model_run_fixture.h"
#include "core/enum_names.h"
#include "core/files/atomic_file.h"
#include "core/random.h"
#include "core/threads.h"
#include "recipe/make_recipe.h"
#include "recipe/option_values.h"
#include "recipe/recipe.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class QuantizeModelTest : public ModelRunTest {
 protected:
  QuantizeOptions options(const std::string& method) const {
    QuantizeOptions o;
    o.method = enum_named<Method>(method).value();
    o.group_size = 8;  // what divides 32 and 40
    o.calibration.calibration = {(folder_ / "text.txt").string()};
    o.calibration.samples = 16;
    o.calibration.sequence_length = 64;
    o.evaluation.context = 64;
    return o;
  }
  // Names and bytes of all files but the reports, which hold times.
  static std::map<std::string, std::string> files(const std::string& folder) {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      const std::string name = fs::relative(entry.path(), folder).string();
      if (entry.is_regular_file() && name.rfind("report.", 0) != 0) all[name] = read_text_file(entry.path().string());
    }
    return all;
  }
};

class EveryMethod : public QuantizeModelTest,
                    public testing::WithParamInterface<std::tuple<const char*, const char*, const char*>> {};

// What evaluate says of the written folder equals what the run said while it made it.
TEST_P(EveryMethod, TheReportSpeaksOfTheFileThatWasWritten) {
  const auto [name, method, scheme] = GetParam();
  QuantizeOptions o = options(method);
  o.scheme = enum_named<Scheme>(scheme).value();
  if (std::string(name).rfind("gemma", 0) == 0) o.group_size = -1;  // in_features of 20: those linears are skipped
  o.evaluation.text = o.calibration.calibration.front();
  o.evaluation.chunks = 8;
  const json report = json::parse(quantize_model(model(name), out("q"), o).report.to_json());
  EXPECT_EQ(report["schema"], 1);
  EXPECT_LT(report["invariance_error"].get<double>(), 1e-4);
  EvaluationOptions e;
  e.text = o.evaluation.text;
  e.chunks = 8;
  e.context = 64;
  const Evaluation read = evaluate_model(out("q"), model(name), e, {});
  const json& m = report["model"];
  EXPECT_EQ(m["positions"], read.model.positions);
  // The tiny models' other norms and embedding are f32, which AWQ stores in f16: 2^-11 on a few values.
  EXPECT_NEAR(read.model.perplexity.quantized.value() / m["perplexity"]["quantized"].get<double>(), 1, 2e-3);
  EXPECT_NEAR(read.model.kl_divergence.mean.value(), m["kl_divergence"]["mean"].get<double>(),
              0.02 * *read.model.kl_divergence.mean + 1e-5);
  EXPECT_EQ(read.model.bytes, m["bytes"].get<int64_t>());
  EXPECT_NEAR(read.model.bits_per_weight, m["bits_per_weight"].get<double>(), 1e-9);
  for (const json& l : report["linears"]) {
    EXPECT_GT(l["weight_error"].get<double>(), 0) << l["name"];
    EXPECT_LT(l["output_error"].get<double>(), 0.5) << l["name"];
  }
  EXPECT_FALSE(render_report_text(report_from_json(report.dump())).empty());
  EXPECT_FALSE(fs::exists(out("q") + "/.metal-marlin"));
}

INSTANTIATE_TEST_SUITE_P(All, EveryMethod,
                         testing::Combine(testing::Values("llama", "qwen2", "gemma2", "gemma3", "phi3"),
                                          testing::Values("rtn", "awq", "awq-paper", "awq-salient", "gptq"),
                                          testing::Values("sym", "asym")));

TEST_F(QuantizeModelTest, InterruptedAnywhereAndResumedGivesTheSameBytes) {
  for (const char* method : {"awq", "awq-paper", "gptq"}) {
    QuantizeOptions o = options(method);
    o.formats = {"native", "awq"};
    const std::string whole = out(std::string("whole-") + method);
    quantize_model(model("llama"), whole, o);
    const std::string cut = out(std::string("cut-") + method);
    // Stop after 1, 2, 3, ... progress calls more than the time before, until it gets through.
    int allowed = 1;
    int stops = 0;
    for (bool finished = false; !finished; allowed += 3) {
      int calls = 0;
      Observer observer;
      observer.on_progress = [&](const Progress&) { return ++calls <= allowed; };
      try {
        quantize_model(model("llama"), cut, o, observer);
        finished = true;
      } catch (const Interrupted&) {
        ++stops;
        ASSERT_LT(stops, 200);
      }
    }
    EXPECT_GT(stops, 3);
    EXPECT_EQ(files(cut), files(whole));
  }
}

// With states saved before each block, resuming starts from them instead of replaying the blocks before.
TEST_F(QuantizeModelTest, SavedStatesResumeToTheSameBytes) {
  QuantizeOptions o = options("awq-paper");
  quantize_model(model("llama"), out("whole"), o);
  setenv("METAL_MARLIN_SNAPSHOT_SECONDS", "0", 1);
  Observer stop;
  stop.on_progress = [](const Progress& p) { return !(p.stage == "round" && p.done == 1); };
  EXPECT_THROW(quantize_model(model("llama"), out("cut"), o, stop), Interrupted);
  EXPECT_TRUE(fs::exists(out("cut") + "/.metal-marlin/states-00001.safetensors"));
  bool replayed = false;
  Observer watch;
  watch.on_progress = [&](const Progress& p) {
    replayed = replayed || p.stage == "replay";
    return true;
  };
  quantize_model(model("llama"), out("cut"), o, watch);
  unsetenv("METAL_MARLIN_SNAPSHOT_SECONDS");
  EXPECT_FALSE(replayed);
  EXPECT_EQ(files(out("cut")), files(out("whole")));
}

// Killed while the texts were being written down: they are read again.
TEST_F(QuantizeModelTest, ATextThatWasNotWrittenDownIsReadAgain) {
  QuantizeOptions o = options("rtn");
  quantize_model(model("llama"), out("whole"), o);
  for (const char* missing : {"texts.json", "tokens.safetensors"}) {
    const std::string cut = out(std::string("cut-") + missing);
    Observer stop;
    stop.on_progress = [](const Progress& p) { return p.stage != "embed"; };
    EXPECT_THROW(quantize_model(model("llama"), cut, o, stop), Interrupted);
    EXPECT_TRUE(fs::remove(fs::path(cut) / ".metal-marlin" / missing)) << missing;
    quantize_model(model("llama"), cut, o);
    EXPECT_EQ(files(cut), files(out("whole"))) << missing;
  }
}

// What an option says that the method does not use is not what makes another run.
TEST_F(QuantizeModelTest, AnOptionWithoutEffectDoesNotStartOver) {
  QuantizeOptions o = options("rtn");
  Observer stop;
  stop.on_progress = [](const Progress& p) { return !(p.stage == "round" && p.done == 1); };
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o, stop), Interrupted);
  o.damping = 0.5;
  o.calibration.seed = 7;
  const json report = json::parse(quantize_model(model("llama"), out("q"), o).report.to_json());
  EXPECT_EQ(report["run"]["resumed_blocks"], 1);
  EXPECT_NE(report["warnings"].dump().find("--damping"), std::string::npos) << report["warnings"];
}

// Without held-back tokens to judge by, error feedback is damped by what they mostly allow.
TEST_F(QuantizeModelTest, DampingWithoutAGuardIsThatOfMostGuards) {
  const auto used = [&](QuantizeOptions o, bool guard, std::optional<double> damping) {
    o.guard = guard;
    o.damping = damping;
    const auto source = ModelSource::open(model("llama"));
    const Recipe recipe = make_recipe(o, *source);
    return std::pair(recipe.rounding.gptq.damping, std::get<double>(option_values(o, recipe)["damping"]));
  };
  const auto expect = [](std::pair<double, double> found, double damping, double reported) {
    EXPECT_NEAR(found.first, damping, 1e-12);
    EXPECT_NEAR(found.second, reported, 1e-12);
  };
  QuantizeOptions sym = options("awq");
  sym.scheme = Scheme::kSymmetric;
  QuantizeOptions asym = sym;
  asym.scheme = Scheme::kAsymmetric;
  expect(used(sym, false, std::nullopt), 0.49, 0.49);
  expect(used(asym, false, std::nullopt), 1.0, 1.0);
  expect(used(sym, false, 0.02), 0.02, 0.02);
  expect(used(sym, true, std::nullopt), 0.49, 0.01);  // the least, and what sensitivity is measured with
  expect(used(asym, true, 0.001), 0.1, 0.001);
  sym.method = Method::kGptq;
  expect(used(sym, false, std::nullopt), 0.01, 0.01);
  EXPECT_THROW(used(sym, false, 1.5), ArgumentError);
}

// The same bytes are the same text, whatever the file is called.
TEST_F(QuantizeModelTest, ATextThatWasMovedIsStillTheSameText) {
  QuantizeOptions o = options("rtn");
  const std::string moved = out("elsewhere/other-name.md");
  fs::create_directories(out("elsewhere"));
  fs::copy(folder_ / "text.txt", moved);
  Observer stop;
  stop.on_progress = [](const Progress& p) { return !(p.stage == "round" && p.done == 1); };
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o, stop), Interrupted);
  QuantizeOptions again = o;
  again.calibration.calibration = {moved};
  EXPECT_EQ(json::parse(quantize_model(model("llama"), out("q"), again).report.to_json())["run"]["resumed_blocks"], 1);
  const QuantizeResult complete = quantize_model(model("llama"), out("q"), o);
  EXPECT_TRUE(complete.already_complete);
  const json result = json::parse(complete.to_json());
  EXPECT_EQ(result.at("already_complete"), true);
  EXPECT_EQ(result.at("passed_gate"), true);
  EXPECT_EQ(result.at("report").dump(2), complete.report.to_json());
  // Other bytes under the old name are another text, and a text is not its own evaluation.
  std::ofstream(folder_ / "text.txt", std::ios::app) << "more";
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o), ArgumentError);
  again.evaluation.text = moved;
  EXPECT_THROW(quantize_model(model("llama"), out("q"), again), ArgumentError);
}

TEST_F(QuantizeModelTest, OneThreadAndTwoGiveTheSameBytes) {
  for (const char* method : {"awq", "awq-paper", "gptq", "rtn", "awq-salient"}) {
    QuantizeOptions o = options(method);
    o.machine.threads = 1;
    quantize_model(model("phi3"), out(std::string(method) + "1"), o);
    o.machine.threads = 2;
    quantize_model(model("phi3"), out(std::string(method) + "2"), o);
    EXPECT_EQ(files(out(std::string(method) + "1")), files(out(std::string(method) + "2")));
  }
}

TEST_F(QuantizeModelTest, SpilledStatesGiveTheSameBytes) {
  QuantizeOptions o = options("awq-paper");
  quantize_model(model("llama"), out("memory"), o);
  const json plan = json::parse(plan_quantization(model("llama"), out("p"), o).to_json());
  o.machine.memory_bytes = plan["memory"]["peak_bytes"].get<uint64_t>() - 1024;
  quantize_model(model("llama"), out("spilled"), o);
  EXPECT_EQ(files(out("memory")), files(out("spilled")));
  o.machine.memory_bytes = 1 << 20;
  bool weights_read = false;
  Observer observer;
  observer.on_progress = [&](const Progress& p) {
    weights_read = weights_read || p.stage == "check";
    return true;
  };
  EXPECT_THROW(quantize_model(model("llama"), out("none"), o, observer), SystemError);
  EXPECT_FALSE(weights_read);  // a budget that is too small is refused first
  o.machine.memory_bytes = 512;
  EXPECT_THROW(quantize_model(model("llama"), out("none"), o), ArgumentError);
  EXPECT_THROW(plan_quantization(model("llama"), out("none"), o), ArgumentError);
}

TEST_F(QuantizeModelTest, AFinishedRunIsNotDoneAgainAndNotMixedWithAnother) {
  QuantizeOptions o = options("rtn");
  quantize_model(model("llama"), out("q"), o);
  const auto before = files(out("q"));
  EXPECT_TRUE(quantize_model(model("llama"), out("q"), o).already_complete);
  QuantizeOptions other = options("awq-paper");
  EXPECT_THROW(quantize_model(model("llama"), out("q"), other), ArgumentError);
  EXPECT_EQ(files(out("q")), before);
  other.overwrite = true;
  EXPECT_FALSE(quantize_model(model("llama"), out("q"), other).already_complete);
  EXPECT_NE(files(out("q")), before);
}

TEST_F(QuantizeModelTest, AResultWithAMissingFileIsMadeAgain) {
  QuantizeOptions o = options("rtn");
  o.formats = {"native", "awq"};
  quantize_model(model("llama"), out("q"), o);
  EXPECT_THROW(ModelSource::open(out("q")), ArgumentError);  // which of the two?
  const auto before = files(out("q"));
  fs::remove(out("q") + "/awq/tokenizer.json");
  EXPECT_FALSE(quantize_model(model("llama"), out("q"), o).already_complete);
  EXPECT_EQ(files(out("q")), before);
}

TEST_F(QuantizeModelTest, OverwritingLeavesNothingOfTheOldResult) {
  QuantizeOptions o = options("rtn");
  quantize_model(model("llama"), out("q"), o);
  o.formats = {"native", "awq"};
  o.overwrite = true;
  quantize_model(model("llama"), out("q"), o);
  EXPECT_FALSE(fs::exists(out("q") + "/model.safetensors"));
  EXPECT_FALSE(fs::exists(out("q") + "/config.json"));
  quantize_model(model("llama"), out("fresh"), o);
  EXPECT_EQ(files(out("q")), files(out("fresh")));
  std::ofstream(out("q") + "/theirs.safetensors") << "weights of somebody else";
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o), SystemError);
  EXPECT_TRUE(fs::exists(out("q") + "/theirs.safetensors"));
}

TEST_F(QuantizeModelTest, WhatCannotWorkIsSaidBeforeAnyWork) {
  QuantizeOptions o = options("rtn");
  fs::copy(model("llama"), out("own"));
  o.overwrite = true;
  EXPECT_THROW(quantize_model(out("own"), out("own"), o), ArgumentError);
  EXPECT_NE(json::parse(plan_quantization(out("own"), out("own"), o).to_json())["stops"], "");
  EXPECT_FALSE(fs::exists(out("own") + "/.metal-marlin"));
  o.evaluation.text = "none";
  o.max_kl = 1;
  EXPECT_THROW(quantize_model(model("llama"), out("x"), o), ArgumentError);
  Observer nested;
  nested.on_progress = [&](const Progress& p) {
    if (p.stage == "round") {
      QuantizeOptions second = options("rtn");
      EXPECT_THROW(quantize_model(model("llama"), out("locked"), second), SystemError);
      return false;
    }
    return true;
  };
  EXPECT_THROW(quantize_model(model("llama"), out("locked"), options("rtn"), nested), Interrupted);
}

// Killed between the report and the end of the clean-up.
TEST_F(QuantizeModelTest, WhatIsLeftOfAFinishedRunsJournalGoesAway) {
  const QuantizeOptions o = options("rtn");
  quantize_model(model("llama"), out("q"), o);
  fs::create_directories(out("q") + "/.metal-marlin");
  std::ofstream(out("q") + "/.metal-marlin/block-00000.safetensors") << "left over";
  EXPECT_TRUE(quantize_model(model("llama"), out("q"), o).already_complete);
  EXPECT_FALSE(fs::exists(out("q") + "/.metal-marlin"));
}

TEST_F(QuantizeModelTest, ABudgetThatCannotBeKeptLeavesNothingBehind) {
  QuantizeOptions o = options("rtn");
  o.machine.memory_bytes = 1 << 20;
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o), SystemError);
  EXPECT_FALSE(fs::exists(out("q") + "/.metal-marlin"));
}

// A mistyped option must not cost hours of work.
TEST_F(QuantizeModelTest, AnInterruptedRunOfOthersIsRefusedAndKept) {
  const QuantizeOptions o = options("rtn");
  quantize_model(model("llama"), out("whole"), o);
  const auto stop = [](const Progress& p) { return !(p.stage == "round" && p.done == 1); };
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o, {.on_progress = stop}), Interrupted);
  const auto refused = [&](const QuantizeOptions& other, const std::string& name, const std::string& what) {
    const json plan = json::parse(plan_quantization(model(name), out("q"), other).to_json());
    EXPECT_TRUE(plan["start"].is_null()) << what;
    try {
      quantize_model(model(name), out("q"), other);
      ADD_FAILURE() << "not refused: " << what;
    } catch (const ArgumentError& e) {
      EXPECT_EQ(plan["stops"], e.what());
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("--overwrite"), std::string::npos) << e.what();
    }
  };
  QuantizeOptions other = o;
  other.scheme = o.scheme == Scheme::kSymmetric ? Scheme::kAsymmetric : Scheme::kSymmetric;
  refused(other, "llama", std::string("--scheme ") + name_of(o.scheme) + " there, " + name_of(other.scheme) + " now");
  other = o;
  other.group_size = -1;
  refused(other, "llama", "--group-size 8 there, -1 now");
  refused(o, "qwen2", "the model ");
  const std::string text = out("other.txt");
  fs::copy(folder_ / "text.txt", text);
  std::ofstream(text, std::ios::app) << "more";
  other = o;
  other.calibration.calibration = {text};
  refused(other, "llama", "texts");
  EXPECT_EQ(json::parse(quantize_model(model("llama"), out("q"), o).report.to_json())["run"]["resumed_blocks"], 1);
  EXPECT_EQ(files(out("q")), files(out("whole")));
  // The same of a finished result.
  other = o;
  other.scheme = o.scheme == Scheme::kSymmetric ? Scheme::kAsymmetric : Scheme::kSymmetric;
  refused(other, "llama", std::string("--scheme ") + name_of(o.scheme) + " there, " + name_of(other.scheme) + " now");
  EXPECT_EQ(files(out("q")), files(out("whole")));
}

// Interrupted at any progress call, OUT holds the old result; then the same command ends with the new one.
TEST_F(QuantizeModelTest, TheOldResultStaysUntilTheNewOneIsWhole) {
  const QuantizeOptions first = options("rtn");
  quantize_model(model("llama"), out("q"), first);
  const auto old = files(out("q"));
  QuantizeOptions o = options("gptq");
  quantize_model(model("llama"), out("whole"), o);
  o.overwrite = true;
  int allowed = 1;
  for (bool finished = false; !finished; allowed += 7) {
    int calls = 0;
    try {
      quantize_model(model("llama"), out("q"), o, {.on_progress = [&](const Progress&) { return ++calls <= allowed; }});
      finished = true;
    } catch (const Interrupted&) {
      auto now = files(out("q"));
      std::erase_if(now, [](const auto& file) { return file.first.starts_with(".metal-marlin/"); });
      ASSERT_EQ(now, old);
      ASSERT_LT(allowed, 2000);
    }
  }
  EXPECT_EQ(files(out("q")), files(out("whole")));
  for (const auto& entry : fs::directory_iterator(folder_))
    EXPECT_EQ(entry.path().filename().string().find("metal-marlin"), std::string::npos) << entry.path();
}

// A folder that cannot be exchanged for another (here: the working directory) gets its files one by one.
TEST_F(QuantizeModelTest, AWorkingDirectoryIsWrittenIntoInPlace) {
  quantize_model(model("llama"), out("q"), options("gptq"));
  QuantizeOptions o = options("rtn");
  o.formats = {"native", "awq"};
  quantize_model(model("llama"), out("whole"), o);
  o.overwrite = true;
  const fs::path before = fs::current_path();
  fs::current_path(out("q"));
  quantize_model(model("llama"), ".", o);
  fs::current_path(before);
  EXPECT_EQ(files(out("q")), files(out("whole")));
}

// A page never takes the place of a checkpoint's file.
TEST_F(QuantizeModelTest, ThePageOverwritesNoFileOfTheCheckpoint) {
  QuantizeOptions o = options("rtn");
  o.formats = {"native", "awq"};
  const Report report = quantize_model(model("llama"), out("q"), o).report;
  const auto before = files(out("q"));
  for (const char* name : {"q/report.json", "q/awq/config.json", "q/awq/model.safetensors", "q/other.safetensors"})
    EXPECT_THROW(write_report_html(report, out(name)), ArgumentError) << name;
  write_report_html(report, out("q/report.html"));
  EXPECT_EQ(files(out("q")), before);
}

// --overwrite deletes what a report of ours lists, by plain names in the folder; anything else is refused by name.
TEST_F(QuantizeModelTest, OverwritingTouchesNothingOfOthers) {
  QuantizeOptions o = options("rtn");
  fs::create_directories(out("p"));
  quantize_model(model("llama"), out("p/q"), o);
  std::ofstream(out("p/thesis")) << "precious";
  json report = json::parse(std::ifstream(out("p/q/report.json")));
  report["options"]["formats"] = {"a", "b"};
  report["files"] = {{{"bytes", 1}, {"format", ".."}, {"name", "thesis"}}, {{"format", "awq"}, {"name", "../x"}}};
  std::ofstream(out("p/q/report.json")) << report;
  o.overwrite = true;
  EXPECT_THROW(quantize_model(model("llama"), out("p/q"), o), SystemError);  // model.safetensors is not listed
  EXPECT_TRUE(fs::exists(out("p/thesis")));
  fs::remove_all(out("p/q"));
  fs::create_directories(out("p/q"));
  std::ofstream(out("p/q/notes.txt")) << "precious";
  try {
    quantize_model(model("llama"), out("p/q"), o);
    ADD_FAILURE() << "not refused";
  } catch (const SystemError& e) {
    EXPECT_NE(std::string(e.what()).find("notes.txt"), std::string::npos) << e.what();
  }
  fs::remove(out("p/q/notes.txt"));
  fs::create_directories(out("p/q/.metal-marlin"));
  std::ofstream(out("p/q/.metal-marlin/notes.txt")) << "precious";
  EXPECT_THROW(quantize_model(model("llama"), out("p/q"), o), SystemError);
  EXPECT_TRUE(fs::exists(out("p/q/.metal-marlin/notes.txt")));
}

// What comes into the folder during the run stops the exchange, and nothing is lost.
TEST_F(QuantizeModelTest, AFileThatComesDuringTheRunIsKept) {
  QuantizeOptions o = options("rtn");
  quantize_model(model("llama"), out("q"), options("gptq"));
  quantize_model(model("llama"), out("whole"), o);
  o.overwrite = true;
  const auto intrude = [&](const Progress& p) {
    if (p.stage == "write") std::ofstream(out("q/notes.txt")) << "precious";
    return true;
  };
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o, {.on_progress = intrude}), SystemError);
  EXPECT_TRUE(fs::exists(out("q/notes.txt")));
  fs::rename(out("q/notes.txt"), out("notes.txt"));
  EXPECT_TRUE(quantize_model(model("llama"), out("q"), o).already_complete);  // staged whole: only placed
  EXPECT_EQ(files(out("q")), files(out("whole")));
}

TEST_F(QuantizeModelTest, AModelThatChangesEndsTheRunAndTheJournalIsWhole) {
  const QuantizeOptions o = options("rtn");
  quantize_model(model("llama"), out("whole"), o);
  fs::copy(model("llama"), out("m"));
  const std::string weights = out("m/model.safetensors");
  fs::permissions(weights, fs::perms::owner_all, fs::perm_options::add);
  const auto time = fs::last_write_time(weights);
  const auto size = fs::file_size(weights);
  const auto cut = [&](const Progress& p) {
    if (p.stage == "load" && p.done == 1) fs::resize_file(weights, size / 3);
    return true;
  };
  try {
    quantize_model(out("m"), out("q"), o, {.on_progress = cut});
    ADD_FAILURE() << "not told";
  } catch (const SystemError& e) {
    EXPECT_NE(std::string(e.what()).find("model.safetensors: changed while it was read"), std::string::npos)
        << e.what();
  }
  fs::copy_file(model("llama") + "/model.safetensors", weights, fs::copy_options::overwrite_existing);
  fs::last_write_time(weights, time);
  EXPECT_EQ(json::parse(quantize_model(out("m"), out("q"), o).report.to_json())["run"]["resumed_blocks"], 1);
  auto now = files(out("q"));
  auto whole = files(out("whole"));
  now.erase("README.md");  // names the folder
  whole.erase("README.md");
  EXPECT_EQ(now, whole);
}

TEST_F(QuantizeModelTest, OtherOptionsStartOverInsteadOfMixing) {
  QuantizeOptions o = options("rtn");
  int calls = 0;
  Observer stop;
  stop.on_progress = [&](const Progress& p) { return !(p.stage == "round" && p.done == 1); };
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o, stop), Interrupted);
  o.scheme = Scheme::kSymmetric;
  o.overwrite = true;
  std::vector<std::string> warnings;
  Observer watch;
  watch.on_warning = [&](const std::string& w) { warnings.push_back(w); };
  quantize_model(model("llama"), out("q"), o, watch);
  ASSERT_FALSE(warnings.empty());
  EXPECT_NE(warnings[0].find("--overwrite"), std::string::npos) << warnings[0];
  quantize_model(model("llama"), out("fresh"), o);
  EXPECT_EQ(files(out("q")), files(out("fresh")));
  (void)calls;
}

TEST_F(QuantizeModelTest, SkippedLinearsStayInSixteenBitsAndAreListed) {
  QuantizeOptions o = options("awq-paper");
  o.skip = {"*.layers.0.mlp.up_proj.weight", "*o_proj.weight"};
  const json report = json::parse(quantize_model(model("llama"), out("q"), o).report.to_json());
  std::set<std::string> skipped;
  for (const json& s : report["skipped"]) skipped.insert(s["name"].get<std::string>());
  EXPECT_TRUE(skipped.count("model.layers.0.mlp.up_proj.weight"));
  EXPECT_TRUE(skipped.count("model.layers.0.mlp.gate_proj.weight"));  // fused with up when loaded
  EXPECT_TRUE(skipped.count("model.layers.1.self_attn.o_proj.weight"));
  const auto source = ModelSource::open(out("q"));
  EXPECT_FALSE(source->load_quantized("model.layers.0.mlp.up_proj.weight"));
  EXPECT_TRUE(source->load_quantized("model.layers.0.mlp.down_proj.weight"));
  o.skip = {"*"};
  EXPECT_THROW(quantize_model(model("llama"), out("none"), o), ArgumentError);
}

TEST_F(QuantizeModelTest, StatisticsFromAFileEqualThoseOfTheRun) {
  QuantizeOptions from_file;
  QuantizeOptions o;
  for (const char* method : {"awq-paper", "awq"}) {  // awq weighs first tokens
    o = options(method);
    o.evaluation.text = "none";
    o.guard = false;  // in a file no tokens are apart
    o.builtin_share = 0;
    quantize_model(model("llama"), out("direct"), o);
    calibrate_model(model("llama"), out("stats.npz"), o.calibration, {}, true, true, {}, true);
    from_file = o;
    from_file.calibration.calibration = {out("stats.npz")};
    quantize_model(model("llama"), out("file"), from_file);
    EXPECT_TRUE(read_text_file(out("direct") + "/model.safetensors") ==
                read_text_file(out("file") + "/model.safetensors"))
        << method;
    for (const char* name : {"direct", "file"}) fs::remove_all(out(name));
  }
  calibrate_model(model("llama"), out("small.npz"), o.calibration, {}, false, false);
  from_file.calibration.calibration = {out("small.npz")};
  EXPECT_THROW(quantize_model(model("llama"), out("no-gram"), from_file), FormatError);
  from_file.method = Method::kRtn;
  EXPECT_NO_THROW(quantize_model(model("llama"), out("no-gram-rtn"), from_file));
}

TEST_F(QuantizeModelTest, TheGateJudgesTheResult) {
  QuantizeOptions o = options("rtn");
  o.max_kl = 1e-9;
  EXPECT_FALSE(quantize_model(model("llama"), out("a"), o).passed_gate);
  o.max_kl = 100;
  EXPECT_TRUE(quantize_model(model("llama"), out("b"), o).passed_gate);
}

// Without a limit there is no verdict; a finished result is judged anew by the limit that is asked for.
TEST_F(QuantizeModelTest, TheReportSpeaksOfTheGateThatWasAskedFor) {
  QuantizeOptions o = options("rtn");
  const auto gate = [&] {
    const json report = json::parse(quantize_model(model("llama"), out("q"), o).report.to_json());
    EXPECT_EQ(json::parse(read_text_file(out("q") + "/report.json")), report);
    EXPECT_EQ(report["options"]["max_kl"], report["gate"]["max_kl"]);
    EXPECT_EQ(read_text_file(out("q") + "/report.html").find("Quality gate") != std::string::npos,
              o.max_kl.has_value());
    return report["gate"];
  };
  EXPECT_EQ(gate(), (json{{"max_kl", nullptr}, {"passed", nullptr}}));
  o.max_kl = 100;
  EXPECT_EQ(gate(), (json{{"max_kl", 100.0}, {"passed", true}}));
  o.max_kl = 0;
  EXPECT_EQ(gate(), (json{{"max_kl", 0.0}, {"passed", false}}));
  o.max_kl.reset();
  EXPECT_EQ(gate(), (json{{"max_kl", nullptr}, {"passed", nullptr}}));
}

// On a file system of 8 KiB: planned with a warning, refused before anything is written. The folder is not there yet.
TEST_F(QuantizeModelTest, TooLittleDiskIsSaidBeforeAnyWork) {
  const std::string small = out("small");
  fs::create_directory(small);
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, "size=8k") != 0) GTEST_SKIP() << "mounting a tmpfs needs root";
  const QuantizeOptions o = options("rtn");
  const json plan = json::parse(plan_quantization(model("llama"), small + "/not/yet", o).to_json());
  std::string said;
  try {
    quantize_model(model("llama"), small + "/not/yet", o);
  } catch (const SystemError& e) {
    said = e.what();
  }
  const bool untouched = !fs::exists(small + "/not/yet") || fs::is_empty(small + "/not/yet");
  umount(small.c_str());
  EXPECT_LE(plan["disk_free_bytes"].get<uint64_t>(), 8192U);
  EXPECT_GT(plan["memory"]["disk"].get<uint64_t>(), 8192U);
  EXPECT_NE(plan["stops"].dump().find("of disk are needed"), std::string::npos) << plan["stops"];
  EXPECT_NE(said.find("of disk are needed"), std::string::npos) << said;
  EXPECT_TRUE(untouched);
}

// What the run would find in OUT stands in the plan, as well as a budget that is too small: everything else of the plan
// is there too.
TEST_F(QuantizeModelTest, ThePlanSaysWithWhatTheRunStarts) {
  QuantizeOptions o = options("rtn");
  const auto plan = [&](const QuantizeOptions& asked) { return plan_quantization(model("llama"), out("q"), asked); };
  EXPECT_EQ(plan(o).start, "fresh");
  const auto stop = [](const Progress& p) { return !(p.stage == "round" && p.done == 1); };
  EXPECT_THROW(quantize_model(model("llama"), out("q"), o, {.on_progress = stop}), Interrupted);
  EXPECT_EQ(plan(o).start, "resume");
  EXPECT_EQ(plan(o).finished_blocks, 1);
  EXPECT_NE(render_plan(plan(o)).find("it goes on after 1 finished blocks"), std::string::npos);
  QuantizeOptions other = o;
  other.scheme = Scheme::kSymmetric;
  EXPECT_NE(plan(other).stops.find("--scheme"), std::string::npos);
  const json report = json::parse(quantize_model(model("llama"), out("q"), o).report.to_json());
  EXPECT_EQ(plan(o).start, "complete");
  EXPECT_NE(render_plan(plan(o)).find("nothing to do"), std::string::npos);
  EXPECT_EQ(plan(o).stops, "");
  std::ofstream(out("q") + "/" + report["files"][0]["name"].get<std::string>()) << "short";
  EXPECT_EQ(plan(o).start, "redo");
  std::ofstream(out("file")) << "x";
  EXPECT_NE(
      json::parse(plan_quantization(model("llama"), out("file"), o).to_json())["stops"].dump().find("found a file"),
      std::string::npos);
  o.machine.memory_bytes = 1 << 20;
  const json small = json::parse(plan_quantization(model("llama"), out("small"), o).to_json());
  EXPECT_NE(small["stops"].dump().find("--memory 1 MiB: this run needs at least"), std::string::npos) << small["stops"];
  EXPECT_GT(small["memory"]["peak_bytes"].get<uint64_t>(), uint64_t{1} << 20);
}

// A report is published with the weights: it tells nothing of the machine, and the run still knows its result.
TEST_F(QuantizeModelTest, AReportHoldsNoFoldersOfTheMachine) {
  const std::string private_folder = out("John Doe");
  fs::create_directories(private_folder);
  fs::copy(model("llama"), private_folder + "/my model");
  fs::copy(folder_ / "text.txt", private_folder + "/my text.txt");
  QuantizeOptions o = options("rtn");
  o.calibration.calibration = {private_folder + "/my text.txt"};
  o.evaluation.text = private_folder + "/my text.txt";
  o.formats = {"native", "awq"};
  const std::string place = private_folder + "/result";
  const json report = json::parse(quantize_model(private_folder + "/my model", place, o).report.to_json());
  EXPECT_FALSE(report["warnings"].empty());  // one of them names the model
  for (const std::string& part : {folder_.string(), std::string("John"), std::string("Doe")})
    EXPECT_EQ(report.dump().find(part), std::string::npos) << part << report.dump().substr(0, 3000);
  EXPECT_EQ(report["input"]["path"], "my model");
  EXPECT_EQ(report["options"]["calibration"], json::array({"my text.txt"}));
  EXPECT_EQ(report["held_back"]["source"], "my text.txt");
  EXPECT_TRUE(quantize_model(private_folder + "/my model", place, o).already_complete);
  // The same model in another place is the same, and one that has changed is said to have changed.
  QuantizeOptions other = o;
  other.scheme = Scheme::kSymmetric;
  EXPECT_NE(json::parse(plan_quantization(private_folder + "/my model", place, other).to_json())["stops"].dump().find(
                "--scheme"),
            std::string::npos);
  // Each format has its size.
  ASSERT_EQ(report["model"]["formats"].size(), 2U);
  EXPECT_EQ(report["model"]["formats"][0]["bytes"], report["model"]["bytes"]);
  EXPECT_NE(report["model"]["formats"][0]["bytes"], report["model"]["formats"][1]["bytes"]);
  const std::string summary = render_report_summary(report_from_json(report.dump()));
  const size_t native = summary.find("native ");
  const size_t awq = summary.find(", awq ");
  EXPECT_TRUE(native != std::string::npos && awq != std::string::npos && native < awq) << summary;
}

TEST_F(QuantizeModelTest, WrongOptionsAreNamed) {
  const auto message = [&](const std::function<void(QuantizeOptions&)>& change) {
    QuantizeOptions o = options("awq");
    change(o);
    try {
      quantize_model(model("llama"), out("x"), o);
    } catch (const ArgumentError& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  EXPECT_NE(message([](auto& o) { o.method = Method{99}; }).find("--method"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.scheme = Scheme{99}; }).find("--scheme"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.formats = {"gguf"}; }).find("--format"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.formats = {"awq", "awq"}; }).find("twice"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.group_size = 48; }).find("q_proj"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.group_size = 0; }).find("--group-size"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.salient_ratio = 2; }).find("--salient-ratio"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.salient_ratio = std::nan(""); }).find("--salient-ratio"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.bits = 5; }).find("--bits"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.calibration.samples = 0; }).find("--samples"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.machine.precision = MatmulPrecision{99}; }).find("--precision"), std::string::npos);
  EXPECT_NE(message([](auto& o) { o.range = RangeChoice::kGram, o.clip = true; }).find("--clip"), std::string::npos);
}

}  // namespace
}  // namespace metal_marlin
