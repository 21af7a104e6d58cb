#include "run/journal/journal.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files/digest.h"
#include "core/half.h"
#include "core/random.h"
#include "formats/blocks/block_fields.h"
#include "records/json_records.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class JournalTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("journal_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static FinishedBlock block(uint64_t seed) {
    Random random(seed);
    FinishedBlock b;
    for (const bool symmetric : {true, false}) {
      QuantizedTensor t;
      t.out_features = 12;
      t.in_features = 64;
      t.group_size = 32;
      t.symmetric = symmetric;
      for (int i = 0; i < 12 * 64; ++i) t.codes.push_back(static_cast<uint8_t>(random.below(16)));
      for (int i = 0; i < 24; ++i) {
        t.scales.push_back(f32_to_f16(static_cast<float>(random.normal())));
        t.zeros.push_back(symmetric ? 8 : static_cast<uint8_t>(random.below(16)));
      }
      b.quantized.emplace(symmetric ? "model.layers.0.a.weight" : "model.layers.0.b.weight", std::move(t));
    }
    OwnedTensor norm{"model.layers.0.norm.weight", DType::kF16, {8}, Buffer(16)};
    for (int i = 0; i < 8; ++i)
      reinterpret_cast<uint16_t*>(norm.bytes.data())[i] = static_cast<uint16_t>(random.below(30000));
    b.changed.push_back(std::move(norm));
    return b;
  }

  fs::path folder_;
};

TEST_F(JournalTest, BlocksComeBackAsTheyWere) {
  Journal journal(folder_.string());
  journal.begin(std::string(Digest::kDigits, '4'));
  EXPECT_EQ(journal.fingerprint(), std::string(Digest::kDigits, '4'));
  EXPECT_EQ(journal.finished_blocks(), 0);
  const FinishedBlock want = block(1);
  BlockRecord record;
  record.linears.resize(2);
  record.linears[1].name = "second";
  record.linears[1].shape = {3, 4};
  record.linears[1].chosen = {.rounding = "refined", .damping = 0.07, .nearest = 0.25, .feedback = std::nullopt};
  record.scales.push_back({.layer = 3, .tap = "qkv", .ratio = 0.3});
  record.changed = {"norm"};
  record.flushed = {{"norm", 2, 8}};
  journal.write_block(0, want, record);
  EXPECT_EQ(journal.finished_blocks(), 1);
  const FinishedBlock got = Journal(folder_.string()).read_block(0);
  ASSERT_EQ(got.quantized.size(), 2u);
  for (const auto& [name, t] : want.quantized) {
    const QuantizedTensor& g = got.quantized.at(name);
    EXPECT_EQ(g.codes, t.codes);
    EXPECT_EQ(g.scales, t.scales);
    EXPECT_EQ(g.zeros, t.zeros);
    EXPECT_EQ(g.symmetric, t.symmetric);
    EXPECT_EQ(g.group_size, t.group_size);
  }
  ASSERT_EQ(got.changed.size(), 1u);
  EXPECT_EQ(got.changed[0].name, "model.layers.0.norm.weight");
  EXPECT_EQ(std::memcmp(got.changed[0].bytes.data(), want.changed[0].bytes.data(), 16), 0);
  EXPECT_EQ(json_of(journal.read_block_record(0)), json_of(record));
}

TEST_F(JournalTest, BlocksOfGgmlTypesComeBackAsTheyWere) {
  Journal journal(folder_.string());
  journal.begin(std::string(Digest::kDigits, '4'));
  FinishedBlock want;
  Random random(5);
  for (const BlockForm& form : kBlockForms) {
    BlockFields fields(form, 3 * 512 / form.block);
    for (uint8_t& code : fields.codes) code = static_cast<uint8_t>(random.below(uint64_t{1} << form.bits));
    for (uint16_t& d : fields.d) d = f32_to_f16(static_cast<float>(random.normal()));
    for (uint16_t& m : fields.m) m = f32_to_f16(static_cast<float>(random.normal()));
    want.blocks[std::string("model.layers.0.") + std::string(ggml_type_info(form.type).name) + ".weight"] = {
        form.type, 3, 512, pack_blocks(form.type, fields)};
  }
  journal.write_block(0, want, BlockRecord());
  const FinishedBlock got = Journal(folder_.string()).read_block(0);
  ASSERT_EQ(got.blocks.size(), kBlockForms.size());
  EXPECT_TRUE(got.quantized.empty());
  EXPECT_TRUE(got.changed.empty());
  for (const auto& [name, t] : want.blocks) {
    const BlockTensor& g = got.blocks.at(name);
    EXPECT_EQ(g.type, t.type);
    EXPECT_EQ(g.out_features, t.out_features);
    EXPECT_EQ(g.in_features, t.in_features);
    EXPECT_EQ(g.bytes, t.bytes) << name;
  }
}

// What stands in a journal is believed only where it fits together.
TEST_F(JournalTest, DamagedBlocksOfGgmlTypesAreRefused) {
  Journal journal(folder_.string());
  journal.begin(std::string(Digest::kDigits, '4'));
  const auto refused = [&](const BlockTensor& blocks, const char* what) {
    FinishedBlock block;
    block.blocks["model.layers.0.a.weight"] = blocks;
    journal.write_block(0, block, BlockRecord());
    try {
      journal.read_block(0);
      ADD_FAILURE() << what;
    } catch (const FormatError& e) {
      EXPECT_NE(std::string(e.what()).find("--no-resume"), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("model.layers.0.a.weight"), std::string::npos) << e.what();
    }
  };
  std::vector<std::byte> bytes(2 * 144);
  refused({GgmlType::kQ4_K, 2, 128, bytes}, "inputs that are no whole block");
  refused({GgmlType::kQ4_K, 2, 512, bytes}, "rows that are too short");
  refused({GgmlType::kQ2_K, 2, 256, bytes}, "a type that weights are not rounded to");
  bytes[1] = std::byte{0x7c};
  refused({GgmlType::kQ4_K, 2, 256, bytes}, "a scale that is infinite");
}

TEST_F(JournalTest, ABlockWithoutItsReportIsNotFinished) {
  Journal journal(folder_.string());
  journal.begin(std::string(Digest::kDigits, '1'));
  journal.write_block(0, block(1), {});
  journal.write_block(1, block(2), {});
  fs::remove(fs::path(journal.folder()) / "block-00001.json");
  EXPECT_EQ(journal.finished_blocks(), 1);
  // Leftovers of an interrupted write do not count either.
  std::ofstream(fs::path(journal.folder()) / "block-00001.json.tmp") << "{";
  EXPECT_EQ(journal.finished_blocks(), 1);
}

TEST_F(JournalTest, TokensComeBackAsTheyWere) {
  Journal journal(folder_.string());
  journal.begin(std::string(Digest::kDigits, '1'));
  TokenSet a;
  TokenSet b;
  EXPECT_FALSE(journal.read_tokens(a, b));
  a.sequences = {{1, 2, 3}, {4}};
  b.sequences = {{5, 6}};
  journal.write_tokens(a, b);
  TokenSet c;
  TokenSet d;
  ASSERT_TRUE(journal.read_tokens(c, d));
  EXPECT_EQ(c.sequences, a.sequences);
  EXPECT_EQ(d.sequences, b.sequences);
}

TEST_F(JournalTest, OnlyTheNewestStatesAreKept) {
  Journal journal(folder_.string());
  journal.begin(std::string(Digest::kDigits, '1'));
  EXPECT_FALSE(journal.states_layer());
  Matrix m(3, 4);
  m(1, 2) = 7;
  const TensorView view{"calibration", DType::kF32, {3, 4}, std::as_bytes(std::span<const float>(m.values()))};
  journal.write_states(2, {&view, 1});
  journal.write_states(5, {&view, 1});
  EXPECT_EQ(journal.states_layer(), 5);
  for (const char* other : {"states--1.safetensors", "states-99999999999999999999.safetensors", "states-.safetensors",
                            "states-7.safetensors.x", "states-7"})
    std::ofstream(fs::path(journal.folder()) / other) << "x";
  EXPECT_EQ(journal.states_layer(), 5);
  const auto states = journal.read_states(5);
  ASSERT_EQ(states.size(), 1u);
  EXPECT_EQ(std::memcmp(states[0].bytes.data(), m.data(), 48), 0);
  EXPECT_THROW(journal.read_states(2), SystemError);
}

TEST_F(JournalTest, ABrokenRunFileIsToldWithWhatIsWrong) {
  Journal journal(folder_.string());
  EXPECT_FALSE(journal.fingerprint());
  EXPECT_EQ(journal.file_without_run(), "");
  journal.begin(std::string(Digest::kDigits, '9'));
  const std::pair<const char*, const char*> cases[] = {
      {"{\"fingerprint\": ", "no valid JSON"},
      {"", "no valid JSON"},
      {"[]", "found a JSON array"},
      {"{\"identity\": {}}", "the key fingerprint is missing"},
      {"{\"fingerprint\": \"9\"}", "found \"9\""},
      {"{\"fingerprint\": -9}", "found -9"},
      {"{\"fingerprint\": 9.5}", "found 9.5"},
      {"{\"fingerprint\": \"0123456789ABCDEF0123456789ABCDEF\"}", "expected 32 hexadecimal digits"},
  };
  for (const auto& [text, what] : cases) {
    std::ofstream(fs::path(journal.folder()) / "run.json") << text;
    for (const bool identity : {false, true}) {
      try {
        if (identity) {
          journal.identity();
        } else {
          journal.fingerprint();
        }
        ADD_FAILURE() << text;
      } catch (const FormatError& e) {
        const std::string message = e.what();
        for (const std::string& part :
             {(fs::path(journal.folder()) / "run.json").string(), std::string(what), std::string("--overwrite")})
          EXPECT_NE(message.find(part), std::string::npos) << text << ": " << message;
      }
    }
  }
  // A number was the fingerprint in earlier versions.
  std::ofstream(fs::path(journal.folder()) / "run.json") << "{\"fingerprint\": 256}";
  EXPECT_EQ(journal.fingerprint(), "0000000000000100");
  journal.remove();
  EXPECT_FALSE(fs::exists(journal.folder()));
}

}  // namespace
}  // namespace metal_marlin
