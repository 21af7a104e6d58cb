// What the statistics are made of: several sources, conversations, selections, and too few tokens.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files/atomic_file.h"
#include "core/random.h"
#include "formats/npz.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class CalibrationSourcesTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("calibration_sources_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    fs::copy(std::string(TEST_DATA) + "/models/llama", folder_ / "model");
    std::ofstream(folder_ / "model" / "chat_template.jinja")
        << "{% for m in messages %}{{ m.role }} {{ m.content }}. {% endfor %}";
    std::ofstream(folder_ / "a.txt") << words(6000, 1);
    std::ofstream(folder_ / "b.txt") << words(6000, 2);
    std::ofstream(folder_ / "short.txt") << words(100, 3);
    std::ofstream chat(folder_ / "chat.jsonl");
    for (uint64_t i = 0; i < 200; ++i) {
      chat << json{{"messages",
                    {{{"role", "user"}, {"content", words(20, 10 + i)}},
                     {{"role", "assistant"}, {"content", words(20, 500 + i)}}}}}
                  .dump()
           << "\n";
    }
  }
  void TearDown() override { fs::remove_all(folder_); }
  static std::string words(int count, uint64_t seed) {
    Random random(seed);
    const char* all[] = {"the", "model", "of",  "weights", "is", "small", "and",
                         "a",   "test",  "for", "code",    "in", "bits"};
    std::string text;
    for (int i = 0; i < count; ++i) text += std::string(all[random.below(13)]) + (i % 17 == 16 ? ".\n" : " ");
    return text;
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  QuantizeOptions options(const std::vector<std::string>& sources) const {
    QuantizeOptions o;
    o.group_size = 8;
    o.calibration.calibration.clear();
    for (const std::string& s : sources)
      o.calibration.calibration.push_back(s == "self" || s == "builtin" ? s : path(s));
    o.builtin_share = 0;
    o.calibration.samples = 16;
    o.calibration.sequence_length = 64;
    o.evaluation.text = "none";
    return o;
  }
  json quantize(const std::string& out, const QuantizeOptions& o) const {
    return json::parse(quantize_model(path("model"), path(out), o).report.to_json());
  }
  std::string refusal(const QuantizeOptions& o) const {
    try {
      quantize_model(path("model"), path("refused"), o);
    } catch (const ArgumentError& e) {
      return e.what();
    }
    return "accepted";
  }
  static bool warned(const json& report, const std::string& text) {
    return std::any_of(report["warnings"].begin(), report["warnings"].end(),
                       [&](const json& w) { return w.get<std::string>().find(text) != std::string::npos; });
  }
  std::string weights_of(const std::string& out) const { return read_text_file(path(out) + "/model.safetensors"); }

  fs::path folder_;
};

TEST_F(CalibrationSourcesTest, GiveSequencesInProportionToTheirWeights) {
  QuantizeOptions o = options({"a.txt", "chat.jsonl"});
  o.calibration.calibration_weights = {1, 3};
  const json report = quantize("q", o);
  const json& c = report["calibration"];
  EXPECT_EQ(c["source"], "a.txt, chat.jsonl");
  EXPECT_EQ(c["sequences"], 16);
  EXPECT_EQ(c["tokens"], 16 * 64);
  ASSERT_EQ(c["sources"].size(), 2U);
  EXPECT_EQ(c["sources"][0],
            (json{{"source", "a.txt"}, {"kind", "text"}, {"weight", 1.0}, {"sequences", 4}, {"tokens", 256}}));
  EXPECT_EQ(
      c["sources"][1],
      (json{{"source", "chat.jsonl"}, {"kind", "conversations"}, {"weight", 3.0}, {"sequences", 12}, {"tokens", 768}}));
  EXPECT_TRUE(c["selection"].is_null());
  EXPECT_FALSE(warned(report, "asked for"));
  EXPECT_NE(render_report_text(report_from_json(report.dump())).find("chat.jsonl"), std::string::npos);
  const std::string card = read_text_file(path("q") + "/README.md");
  EXPECT_NE(
      card.find(
          "| calibration | a.txt, weight 1: 4 sequences, 256 tokens; chat.jsonl, weight 3: 12 sequences, 768 tokens |"),
      std::string::npos)
      << card;
  EXPECT_EQ(card.find(folder_.string()), std::string::npos);  // nobody else has these folders
  // Other weights are another run.
  o.calibration.calibration_weights = {1, 2};
  EXPECT_THROW(quantize("q", o), ArgumentError);
  o.calibration.calibration_weights = {1, 3};
  EXPECT_TRUE(quantize_model(path("model"), path("q"), o).already_complete);
}

TEST_F(CalibrationSourcesTest, TheProgramsOwnTextStandsBesideFiles) {
  QuantizeOptions o = options({"a.txt"});
  o.builtin_share = std::nullopt;
  o.calibration.samples = 32;
  const json report = quantize("q", o);
  EXPECT_EQ(report["options"]["builtin_share"], 0.0625);
  EXPECT_EQ(report["calibration"]["sequences"], 32);
  const json& s = report["calibration"]["sources"];
  ASSERT_EQ(s.size(), 2U);
  EXPECT_EQ(s[0]["sequences"], 30);
  EXPECT_EQ(s[1]["source"], "builtin");
  EXPECT_EQ(s[1]["kind"], "builtin");
  EXPECT_EQ(s[1]["sequences"], 2);
  EXPECT_EQ(s[1]["tokens"], 128);
  EXPECT_EQ(s[1]["share"], 0.0625);
  EXPECT_EQ(s[0]["weight"], 1.0);
  EXPECT_NE(read_text_file(path("q") + "/README.md")
                .find("text that comes with metal-marlin, 6.25 % of the sequences: 2 sequences"),
            std::string::npos);
  EXPECT_TRUE(quantize_model(path("model"), path("q"), o).already_complete);
  const Plan plan = plan_quantization(path("model"), path("p"), o);
  EXPECT_EQ(plan.builtin_tokens, 128);
  EXPECT_NE(render_plan(plan).find("2048 for calibration (128 of them from the program's own text), "),
            std::string::npos)
      << render_plan(plan);
  o.calibration.select = 16;
  EXPECT_EQ(json::parse(plan_quantization(path("model"), path("p"), o).to_json())["builtin_tokens"], 64);
  o.calibration.select = 0;
  o.builtin_share = 0.25;
  EXPECT_THROW(quantize("q", o), ArgumentError);  // another run
  EXPECT_EQ(quantize("more", o)["calibration"]["sources"][1]["sequences"], 8);
  // Nothing of it is held back: what is judged by is the text that was named.
  o.evaluation.text.clear();
  o.evaluation.context = 64;
  const std::string judged = quantize("held", o)["held_back"]["source"];
  EXPECT_NE(judged.find("a.txt"), std::string::npos) << judged;
  EXPECT_EQ(judged.find("builtin"), std::string::npos) << judged;
}

TEST_F(CalibrationSourcesTest, TheProgramsOwnTextIsLeftOutWhereItDoesNotBelong) {
  const auto sources = [&](const std::string& out, const QuantizeOptions& o) {
    return quantize(out, o)["calibration"]["sources"].size();
  };
  QuantizeOptions o = options({"a.txt"});
  EXPECT_EQ(sources("off", o), 1U);
  o.builtin_share = std::nullopt;
  o.method = Method::kRtn;
  EXPECT_EQ(sources("rtn", o), 1U);
  o.method = Method::kAwq;
  o.calibration.samples = 4;  // a sixteenth is less than half a sequence
  EXPECT_EQ(sources("few", o), 1U);
  o = options({"a.txt", "self"});
  o.builtin_share = std::nullopt;
  EXPECT_EQ(sources("self", o), 2U);
  o.builtin_share = 0.5;
  EXPECT_TRUE(warned(quantize("asked", o), "--builtin-share (only texts in files"));
  o.calibration.calibration[1] = "builtin";  // named, so half of the sequences
  EXPECT_TRUE(warned(quantize("named", o), "--builtin-share (only texts in files"));
  o = options({"a.txt"});
  o.builtin_share = 0.95;
  EXPECT_NE(refusal(o).find("--builtin-share"), std::string::npos) << refusal(o);
  o = options({});
  o.builtin_share = std::nullopt;
  EXPECT_NE(refusal(o).find("--calibration"), std::string::npos) << refusal(o);
  EXPECT_EQ(quantize("alone", options({"builtin"}))["calibration"]["sources"][0]["sequences"], 16);
}

TEST_F(CalibrationSourcesTest, TheProgramsOwnTextKeepsItsShareBesideShortFiles) {
  QuantizeOptions o = options({"short.txt"});
  o.builtin_share = 0.5;
  const json report = quantize("q", o);
  const json& s = report["calibration"]["sources"];
  EXPECT_LT(s[0]["sequences"], 8);
  EXPECT_EQ(s[1]["sequences"], s[0]["sequences"]);
  EXPECT_TRUE(warned(report, "short.txt: only")) << report["warnings"];
  EXPECT_TRUE(warned(report, "builtin: only")) << report["warnings"];
  // Weights of the user's at their limits, and a share that leaves less than one sequence.
  o = options({"a.txt"});
  o.calibration.calibration_weights = {1e-6};
  o.builtin_share = 0.9;
  EXPECT_EQ(quantize("weights", o)["calibration"]["sources"][1]["sequences"], 14);
  o.calibration.calibration_weights.clear();
  o.builtin_share = 1e-7;
  EXPECT_EQ(quantize("little", o)["calibration"]["sources"].size(), 1U);
  o.builtin_share = std::nullopt;
  o.calibration.samples = 8;  // half a sequence
  EXPECT_EQ(quantize("eight", o)["options"]["builtin_share"], 0.0);
}

TEST_F(CalibrationSourcesTest, AFileMayBearTheNameOfASource) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_);
  for (const char* name : {"builtin", "self"}) {
    fs::copy(folder_ / "b.txt", name, fs::copy_options::overwrite_existing);
    QuantizeOptions o = options({"a.txt"});
    o.evaluation.text = name;
    o.evaluation.context = 64;
    quantize(name + std::string("-q"), o);
    std::ofstream(name, std::ios::app) << words(300, 7);
    EXPECT_THROW(quantize(name + std::string("-q"), o), ArgumentError) << name;  // another text, another run
    o.calibration.calibration.emplace_back(name);                                // here it is the source
    o.evaluation.text = path("b.txt");
    fs::copy(folder_ / "b.txt", name, fs::copy_options::overwrite_existing);
    EXPECT_FALSE(warned(quantize(name + std::string("-r"), o), "flatter")) << name;
  }
  fs::current_path(before);
}

TEST_F(CalibrationSourcesTest, AChangedFileOfSeveralIsAnotherRun) {
  const QuantizeOptions o = options({"a.txt", "chat.jsonl"});
  quantize("q", o);
  std::ofstream(folder_ / "chat.jsonl", std::ios::app) << R"({"text": "more"})" << "\n";
  EXPECT_THROW(quantize("q", o), ArgumentError);
}

TEST_F(CalibrationSourcesTest, WhatAShortOneCannotGiveTheOthersDo) {
  const json report = quantize("q", options({"short.txt", "a.txt"}));
  const json& s = report["calibration"]["sources"];
  EXPECT_EQ(report["calibration"]["sequences"], 16);
  EXPECT_LT(s[0]["sequences"], 8);
  EXPECT_EQ(s[0]["sequences"].get<int>() + s[1]["sequences"].get<int>(), 16);
  EXPECT_TRUE(warned(report, "short.txt: only"));
  EXPECT_FALSE(warned(report, "a.txt: only"));
}

TEST_F(CalibrationSourcesTest, EachGivesItsShareOfTheHeldBackText) {
  QuantizeOptions o = options({"a.txt", "b.txt", "self"});
  o.evaluation.text = "";
  o.evaluation.context = 64;
  o.calibration.calibration_weights = {2, 1, 1};
  o.calibration.seed = 9;
  o.calibration.temperature = 0.75;
  const json report = quantize("q", o);
  const json& c = report["calibration"];
  EXPECT_EQ(c["sources"][2], (json{{"source", "self"},
                                   {"kind", "self"},
                                   {"weight", 1.0},
                                   {"sequences", 4},
                                   {"tokens", 256},
                                   {"temperature", 0.75},
                                   {"seed", 9},
                                   {"sequence_length", 64}}));
  EXPECT_EQ(report["held_back"]["tokens"], 2048 + 1024 + 1024);
  const std::string source = report["held_back"]["source"];
  EXPECT_NE(source.find("the last 2048 of the"), std::string::npos) << source;
  EXPECT_NE(source.find("the last 16 of 20 sequences that the model made itself"), std::string::npos) << source;
  EXPECT_NE(read_text_file(path("q") + "/README.md")
                .find("text of the model itself (temperature 0.75, seed 9, sequences of 64 tokens), weight 1"),
            std::string::npos);
}

TEST_F(CalibrationSourcesTest, ConversationsGoThroughTheTemplate) {
  QuantizeOptions o = options({"chat.jsonl"});
  o.calibration.samples = 4;
  quantize("chat", o);
  // The same text, written out by hand.
  std::ifstream in(folder_ / "chat.jsonl");
  std::ofstream plain(folder_ / "plain.txt");
  for (std::string line; std::getline(in, line);) {
    const json messages = json::parse(line)["messages"];
    for (const json& m : messages)
      plain << m["role"].get<std::string>() << " " << m["content"].get<std::string>() << ". ";
  }
  plain.close();
  QuantizeOptions by_hand = options({"plain.txt"});
  by_hand.calibration.samples = 4;
  quantize("plain", by_hand);
  EXPECT_EQ(weights_of("chat"), weights_of("plain"));
  fs::remove(folder_ / "model" / "chat_template.jinja");
  EXPECT_THROW(quantize("none", o), UnsupportedError);
  EXPECT_FALSE(fs::exists(path("none")) && !fs::is_empty(path("none")));  // refused before anything was written
}

TEST_F(CalibrationSourcesTest, ASelectionIsRepeatableAndReported) {
  QuantizeOptions o = options({"a.txt", "chat.jsonl"});
  o.calibration.calibration_weights = {3, 1};
  o.calibration.select = 4;
  o.machine.threads = 1;
  const json report = quantize("one", o);
  const json& c = report["calibration"];
  EXPECT_EQ(c["sequences"], 4);
  EXPECT_EQ(c["tokens"], 4 * 64);
  const json& selection = c["selection"];
  EXPECT_EQ(selection["pool"], 16);
  EXPECT_GT(selection["coverage"].get<double>(), 0);
  EXPECT_LT(selection["coverage"].get<double>(), 1);
  ASSERT_EQ(selection["sequences"].size(), 4U);
  std::map<std::string, std::set<int>> chosen;
  for (const json& s : selection["sequences"]) chosen[s["source"]].insert(s["index"].get<int>());
  EXPECT_EQ(chosen["a.txt"].size(), 3U);  // the weights hold for the selection too
  EXPECT_EQ(chosen["chat.jsonl"].size(), 1U);
  EXPECT_LT(*chosen["a.txt"].rbegin(), 12);
  o.machine.threads = 2;
  EXPECT_EQ(quantize("two", o)["calibration"]["selection"], selection);
  EXPECT_EQ(weights_of("one"), weights_of("two"));
  EXPECT_NE(read_text_file(path("one") + "/README.md").find("of these 16 sequences the 4 that cover the channels best"),
            std::string::npos);
  o.calibration.select = 0;
  o.calibration.samples = 4;
  quantize("first", o);
  EXPECT_NE(weights_of("one"), weights_of("first"));
}

TEST_F(CalibrationSourcesTest, AnInterruptedSelectionContinuesToTheSameBytes) {
  QuantizeOptions o = options({"a.txt"});
  o.calibration.select = 3;
  o.calibration.samples = 8;
  const json whole = quantize("whole", o);
  json report;
  for (int limit = 1; report.is_null(); ++limit) {
    int calls = 0;
    Observer observer;
    observer.on_progress = [&](const Progress&) { return ++calls < limit; };
    try {
      report = json::parse(quantize_model(path("model"), path("cut"), o, observer).report.to_json());
    } catch (const Interrupted&) {
    }
    ASSERT_LT(limit, 10000);
  }
  EXPECT_EQ(weights_of("cut"), weights_of("whole"));
  EXPECT_EQ(report["calibration"], whole["calibration"]);
}

TEST_F(CalibrationSourcesTest, StatisticsSayOfWhichTextTheyAre) {
  QuantizeOptions o = options({"a.txt", "b.txt"});
  o.calibration.select = 5;
  o.guard = false;  // in a file no tokens are apart
  calibrate_model(path("model"), path("s.npz"), o.calibration, {});
  const json direct = quantize("direct", o);
  QuantizeOptions from_file = options({"s.npz"});
  from_file.calibration.samples.reset();
  const json report = quantize("file", from_file);
  EXPECT_EQ(weights_of("direct"), weights_of("file"));
  const json& c = report["calibration"];
  EXPECT_EQ(c["sources"], (json::array({{{"source", "s.npz"}, {"kind", "statistics"}, {"tokens", 5 * 64}}})));
  EXPECT_EQ(c["made_from"]["sources"], direct["calibration"]["sources"]);
  EXPECT_EQ(c["made_from"]["selection"], direct["calibration"]["selection"]);
  EXPECT_NE(read_text_file(path("file") + "/README.md").find("s.npz: 320 tokens (made of a.txt, weight 1"),
            std::string::npos);
}

TEST_F(CalibrationSourcesTest, TooFewTokensAreNamedOnce) {
  QuantizeOptions o = options({"a.txt"});
  o.calibration.samples = 2;  // 128 tokens: 4 for each of 32 channels, too few for 40 and more
  const json report = quantize("q", o);
  const json& few = report["calibration"]["few_tokens"];
  ASSERT_FALSE(few.empty());
  for (const json& f : few) {
    EXPECT_EQ(f["tokens"], 128);
    EXPECT_GT(f["in_features"].get<int>(), 32);
    EXPECT_NE(f["name"].get<std::string>().find("down_proj"), std::string::npos);
  }
  int warnings = 0;
  for (const json& w : report["warnings"])
    warnings += w.get<std::string>().find(
                    "too little calibration text for 2 of 14 linears (down_proj): 128 tokens, 160 needed (4 for each "
                    "input channel); use --samples 3") == 0
                    ? 1
                    : 0;
  EXPECT_EQ(warnings, 1);
  const json plan = json::parse(plan_quantization(path("model"), path("p"), o).to_json());
  EXPECT_TRUE(warned(plan, "too little calibration text"));
  o.method = Method::kRtn;  // reads no Gram matrix
  EXPECT_TRUE(quantize("rtn", o)["calibration"]["few_tokens"].empty());
  EXPECT_TRUE(quantize("enough", options({"a.txt"}))["calibration"]["few_tokens"].empty());
}

TEST_F(CalibrationSourcesTest, WhatDoesNotGoTogetherIsRefused) {
  const auto with = [&](const std::vector<std::string>& sources, const std::vector<double>& weights = {},
                        int64_t select = 0) {
    QuantizeOptions o = options(sources);
    o.calibration.calibration_weights = weights;
    o.calibration.select = select;
    return refusal(o);
  };
  EXPECT_NE(with({"a.txt", "s.npz"}).find("expected statistics (.npz, .gguf) alone"), std::string::npos);
  EXPECT_NE(with({"a.txt", "a.txt"}).find("is named twice"), std::string::npos);
  EXPECT_NE(with({"chat.json"}).find("JSON Lines"), std::string::npos);
  EXPECT_NE(with({}).find("--calibration: expected self, builtin or a file, found nothing"), std::string::npos);
  EXPECT_NE(
      with({"a.txt", "b.txt"}, {1}).find("expected one number for each of the 2 sources, in their order, found 1"),
      std::string::npos);
  EXPECT_NE(with({"a.txt", "b.txt"}, {1, 0}).find("expected numbers from 1e-06 to 1000000, found 0"),
            std::string::npos);
  EXPECT_NE(with({"a.txt"}, {}, 17).find("--select: expected at most --samples"), std::string::npos);
  EXPECT_NE(with({"a.txt"}, {}, -1).find("--select: expected a whole number"), std::string::npos);
}

TEST_F(CalibrationSourcesTest, BrokenFactsInAStatisticsFileAreRefused) {
  calibrate_model(path("model"), path("s.npz"), options({"a.txt"}).calibration, {});
  const auto with_facts = [&](const std::string& facts) {
    const NpzFile file(path("s.npz"));
    NpzWriter writer(path("t.npz"));
    for (const std::string& name : file.names()) {
      OwnedTensor array = file.load(name);
      if (name == "metal_marlin.calibration") {
        array.bytes = Buffer(facts.size());
        std::copy_n(reinterpret_cast<const std::byte*>(facts.data()), facts.size(), array.bytes.data());
        array.shape = {static_cast<int64_t>(facts.size())};
      }
      writer.add(array.view());
    }
    writer.commit();
    return quantize("from-facts", options({"t.npz"}));
  };
  EXPECT_THROW(with_facts("[]"), FormatError);
  EXPECT_THROW(with_facts("{"), FormatError);
  EXPECT_THROW(with_facts(std::string(100000, '[')), FormatError);
  try {
    with_facts(R"({"sources": [{"source": 3, "kind": "self", "weight": "x"}], "selection": {"pool": []}})");
    FAIL() << "no error";
  } catch (const FormatError& e) {
    EXPECT_NE(std::string(e.what()).find("t.npz: metal_marlin.calibration: sources/0/source: expected a text, found 3"),
              std::string::npos)
        << e.what();
  }
  const json report = with_facts(R"({"sources": [{"source": "a.txt", "kind": "text", "tokens": 9}], "more": 1})");
  EXPECT_EQ(report["calibration"]["made_from"]["sources"][0]["tokens"], 9);
}

}  // namespace
}  // namespace metal_marlin
