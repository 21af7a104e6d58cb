// Models in several GGUF files against the same model in one.
#include <filesystem>
#include <fstream>

#include "checkpoint/models.h"
#include "formats/gguf/gguf_split.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;
using test::file_content;
using test::TemporaryFolder;
using test::tiny_model;
using test::values_of;

// The tiny Llama, spread over files of at most `most_bytes`; the pairs of each file can be changed before it is
// written.
class SplitModel {
 public:
  explicit SplitModel(uint64_t most_bytes = 30000) : file_(tiny_model("gguf/llama.gguf")) {
    std::vector<GgufPair> pairs;
    for (const auto& [key, value] : file_.metadata().pairs()) pairs.push_back(gguf_copy(key, value));
    std::vector<GgufTensorInfo> infos;
    for (const GgufTensor& t : file_.tensors()) infos.push_back({t.name, t.type, t.shape});
    files = plan_gguf_files("tiny", pairs, infos, most_bytes);
  }
  void write(const TemporaryFolder& folder) const {
    for (const GgufFilePlan& plan : files) {
      GgufWriter writer(folder.path(plan.name), plan.pairs, plan.tensors);
      for (const GgufTensorInfo& t : plan.tensors) writer.write(t.name, file_.get(t.name).bytes);
      writer.commit();
    }
  }
  GgufPair& pair(size_t file, const std::string& key) {
    for (GgufPair& p : files[file].pairs)
      if (p.key == key) return p;
    throw std::logic_error(key);
  }

  std::vector<GgufFilePlan> files;

 private:
  GgufFile file_;
};

TEST(GgufSplitModel, ReadsAsTheWhole) {
  const TemporaryFolder folder;
  const SplitModel model;
  ASSERT_GE(model.files.size(), 3u);
  model.write(folder);
  const auto whole = ModelSource::open(tiny_model("gguf/llama.gguf"));
  const std::string first = folder.path(model.files[0].name);
  for (const std::string& path : {first, folder.path(model.files[2].name), folder.path("")}) {
    SCOPED_TRACE(path);
    const auto source = ModelSource::open(path);
    source->check();
    source->check_unchanged();
    EXPECT_EQ(source->path(), first == path ? first : source->path());
    EXPECT_TRUE(source->warnings().empty());
    EXPECT_EQ(source->config_json(), whole->config_json());
    const auto tensors = source->tensors();
    ASSERT_EQ(tensors.size(), whole->tensors().size());
    size_t in_others = 0;
    for (const CheckpointTensor& t : tensors) {
      in_others += t.file != model.files[0].name ? 1 : 0;
      EXPECT_EQ(values_of(source->load(t.name)), values_of(whole->load(t.name))) << t.name;
      source->release(t.name);
    }
    EXPECT_GT(in_others, 0u);
    EXPECT_EQ(source->tokenizer().encode("the cat", true), whole->tokenizer().encode("the cat", true));
    EXPECT_EQ(source->digest(), ModelSource::open(first)->digest());
  }
}

TEST(GgufSplitModel, EveryFileCounts) {
  const TemporaryFolder folder;
  const SplitModel model;
  model.write(folder);
  const std::string last = folder.path(model.files.back().name);
  const auto source = ModelSource::open(folder.path(""));
  const Digest before = source->digest();
  std::string bytes = file_content(last);
  bytes[bytes.size() - 40] = static_cast<char>(bytes[bytes.size() - 40] ^ 1);
  std::ofstream(last, std::ios::binary) << bytes;
  check_error(expect<SystemError>({model.files.back().name}), [&] { source->check_unchanged(); });
  EXPECT_NE(ModelSource::open(folder.path(""))->digest(), before);
}

TEST(GgufSplitModel, MissingPartsAreNamed) {
  const SplitModel model;
  const size_t parts = model.files.size();
  for (size_t missing = 0; missing < parts; ++missing) {
    const TemporaryFolder folder;
    model.write(folder);
    std::filesystem::remove(folder.path(model.files[missing].name));
    const std::string opened = model.files[missing == 0 ? 1 : 0].name;
    check_error(expect<FormatError>({"parts", model.files[missing].name, "from one place"}),
                [&] { ModelSource::open(folder.path(opened)); });
    check_error(expect<FormatError>({model.files[missing].name}), [&] { ModelSource::open(folder.path("")); });
  }
}

TEST(GgufSplitModel, PartsOfAnotherModelAreRefused) {
  struct Case {
    size_t file;
    std::string key;
    GgufPair pair;
    std::vector<std::string> texts;
  };
  const auto u16 = [](const char* key, uint16_t value) { return gguf_pair<uint16_t>(key, value); };
  const Case cases[] = {
      {1, kSplitCount, u16(kSplitCount, 9), {"-00002-of-", "split.count", "found 9"}},
      {0, kSplitCount, u16(kSplitCount, 9), {"-00001-of-", "split.count", "found 9"}},
      {2, kSplitNo, u16(kSplitNo, 1), {"-00003-of-", "split.no", "expected 2", "found 1"}},
      {1, kSplitTensors, gguf_pair<int32_t>(kSplitTensors, 5), {"-00002-of-", "split.tensors.count", "found 5"}},
      {1, kSplitNo, gguf_pair<uint32_t>("other", 1), {"-00002-of-", "split.no", "found none"}},
      {1, kSplitNo, gguf_pair<std::string_view>(kSplitNo, "1"), {"-00002-of-", "split.no", "found string"}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.texts[0] + c.key);
    const TemporaryFolder folder;
    SplitModel model;
    model.pair(c.file, c.key) = c.pair;
    model.write(folder);
    check_error(expect<FormatError>(c.texts), [&] { ModelSource::open(folder.path("")); });
  }
  const TemporaryFolder folder;
  SplitModel model;
  model.files[1].pairs.push_back(gguf_pair<std::string_view>("general.architecture", "qwen2"));
  model.write(folder);
  check_error(expect<FormatError>({"-00002-of-", "\"llama\"", "\"qwen2\""}),
              [&] { ModelSource::open(folder.path("")); });
}

TEST(GgufSplitModel, TensorsAreCountedAndInOnePartAlone) {
  {
    const TemporaryFolder folder;
    SplitModel model;
    model.files[1].tensors.pop_back();
    model.write(folder);
    check_error(expect<FormatError>({"split.tensors.count", "all", "parts"}),
                [&] { ModelSource::open(folder.path("")); });
  }
  const TemporaryFolder folder;
  SplitModel model;
  model.files[1].tensors.back() = model.files[0].tensors.back();
  model.write(folder);
  check_error(expect<FormatError>({"-00002-of-", model.files[0].tensors.back().name, "-00001-of-"}),
              [&] { ModelSource::open(folder.path("")); });
}

TEST(GgufSplitModel, AFolderOfSeveralModelsIsNotGuessed) {
  const TemporaryFolder folder;
  SplitModel().write(folder);
  std::filesystem::copy(tiny_model("gguf/llama.gguf"), folder.path("other.gguf"));
  check_error(expect<FormatError>({".gguf files; name one"}), [&] { ModelSource::open(folder.path("")); });
}

// gguf-split --no-tensor-first-split
TEST(GgufSplitModel, TheFirstFileMayHoldKeysAlone) {
  const TemporaryFolder folder;
  SplitModel model;
  auto& tensors = model.files[1].tensors;
  tensors.insert(tensors.begin(), model.files[0].tensors.begin(), model.files[0].tensors.end());
  model.files[0].tensors.clear();
  model.write(folder);
  ModelSource::open(folder.path(""))->check();
}

}  // namespace
}  // namespace metal_marlin
