// Names of models: paths, and org/name in the cache of the Hugging Face hub.
#include <cstdlib>

#include "checkpoint/models.h"
#include "core/files/model_file.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using test::check_error;
using test::expect;
using test::TemporaryFolder;

constexpr const char* kVariables[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"};

class HfCache : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : kVariables) {
      const char* value = std::getenv(name);
      saved_.emplace_back(name, value == nullptr ? std::optional<std::string>() : std::string(value));
      unsetenv(name);
    }
  }
  void TearDown() override {
    for (const auto& [name, value] : saved_) {
      if (value)
        setenv(name.c_str(), value->c_str(), 1);
      else
        unsetenv(name.c_str());
    }
  }
  // A repository in the cache below `hub`; returns the snapshot.
  std::string add(const std::string& hub, const std::string& revision = "0123abcd") const {
    const fs::path repository = fs::path(folder_.path(hub)) / "models--org--name";
    fs::create_directories(repository / "refs");
    fs::create_directories(repository / "snapshots" / revision);
    std::ofstream(repository / "refs" / "main") << revision << "\n";
    return (repository / "snapshots" / revision).string();
  }
  void set(const char* name, const std::string& below) const { setenv(name, folder_.path(below).c_str(), 1); }

  TemporaryFolder folder_;
  std::vector<std::pair<std::string, std::optional<std::string>>> saved_;
};

TEST_F(HfCache, EveryVariable) {
  const std::string hub = add("hub");
  set("HF_HUB_CACHE", "hub");
  EXPECT_EQ(resolve_model("org/name"), hub);
  unsetenv("HF_HUB_CACHE");
  set("HF_HOME", "");
  EXPECT_EQ(fs::path(resolve_model("org/name")).lexically_normal(), hub);
  unsetenv("HF_HOME");
  const std::string xdg = add("xdg/huggingface/hub");
  set("XDG_CACHE_HOME", "xdg");
  EXPECT_EQ(resolve_model("org/name"), xdg);
  unsetenv("XDG_CACHE_HOME");
  const std::string home = add("home/.cache/huggingface/hub");
  set("HOME", "home");
  EXPECT_EQ(resolve_model("org/name"), home);
  set("HF_HUB_CACHE", "hub");
  EXPECT_EQ(resolve_model("org/name"), hub);
}

TEST_F(HfCache, AbsentOnesNameTheCommand) {
  set("HF_HUB_CACHE", "hub");
  check_error(expect<SystemError>({"org/name", "hf download org/name"}), [] { resolve_model("org/name"); });
  const std::string snapshot = add("hub");
  fs::remove_all(snapshot);  // a download that was broken off
  check_error(expect<SystemError>({"hf download org/name"}), [] { resolve_model("org/name"); });
}

TEST_F(HfCache, ReferencesDoNotLeaveTheRepository) {
  set("HF_HUB_CACHE", "hub");
  const fs::path repository = fs::path(add("hub")).parent_path().parent_path();
  for (const char* revision : {"../../..", "/etc", "", "."}) {
    std::ofstream(repository / "refs" / "main") << revision;
    check_error(expect<SystemError>({"hf download org/name"}), [] { resolve_model("org/name"); });
  }
}

TEST_F(HfCache, PathsComeFirst) {
  EXPECT_EQ(resolve_model(test::tiny_model("llama")), test::tiny_model("llama"));
  check_error(expect<SystemError>({"./nothing", "no such file"}), [] { resolve_model("./nothing"); });
  check_error(expect<SystemError>({"a/b/c", "no such file"}), [] { resolve_model("a/b/c"); });
  check_error(expect<ArgumentError>({"MODEL"}), [] { resolve_model(""); });
  check_error(expect<UnsupportedError>({"config.json", ".gguf"}),
              [] { ModelSource::open(test::tiny_model("llama/config.json")); });
}

TEST_F(HfCache, SnapshotsOpenAsFolders) {
  set("HF_HUB_CACHE", "hub");
  const std::string snapshot = add("hub");
  const fs::path blobs = fs::path(snapshot).parent_path().parent_path() / "blobs";
  fs::create_directories(blobs);
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::copy_file(test::tiny_model("llama") + "/" + name, blobs / name);
    fs::create_symlink(fs::path("../../blobs") / name, fs::path(snapshot) / name);
  }
  const auto source = ModelSource::open("org/name");
  source->check();
  EXPECT_EQ(source->path(), snapshot);
  // Blobs of another repository, and files anywhere else, are not this model's.
  fs::create_directories(blobs.parent_path().parent_path() / "models--other--one/blobs");
  fs::copy_file(blobs / "config.json", blobs.parent_path().parent_path() / "models--other--one/blobs/config.json");
  fs::remove(fs::path(snapshot) / "config.json");
  fs::create_symlink("../../../models--other--one/blobs/config.json", fs::path(snapshot) / "config.json");
  check_error(expect<SystemError>({"config.json", "symbolic link", "models--other--one"}),
              [] { ModelSource::open("org/name"); });
}

// A stranger's repository, as a folder that is named or in the cache: each of its parts may be a link.
TEST_F(HfCache, NoLinkLeadsOutOfTheRepository) {
  set("HF_HUB_CACHE", "hub");
  const fs::path snapshot = add("hub");
  const fs::path repository = snapshot.parent_path().parent_path();
  const fs::path outside = folder_.path("outside");
  fs::create_directories(outside / "0123abcd");
  std::ofstream(outside / "secret") << "root:x:0:0";
  const auto copy = [](const fs::path& to) {
    fs::create_directories(to);
    for (const auto& file : fs::directory_iterator(test::tiny_model("llama")))
      fs::copy_file(file, to / file.path().filename());
  };
  copy(snapshot);
  fs::create_symlink("../../blobs/secret", snapshot / "merges.txt");

  fs::create_directory_symlink(outside, repository / "blobs");
  for (const std::string& name : {std::string("org/name"), snapshot.string()})
    check_error(expect<SystemError>({"blobs", "symbolic link"}), [&] { ModelSource::open(name); });
  check_error(expect<SystemError>({"blobs"}), [&] { read_model_text((snapshot / "merges.txt").string(), 4096); });
  fs::remove(repository / "blobs");

  // The snapshot, and the folder of all snapshots.
  fs::remove_all(outside / "0123abcd");
  copy(outside / "0123abcd");
  fs::remove_all(snapshot);
  fs::create_directory_symlink(outside / "0123abcd", snapshot);
  for (const std::string& name : {std::string("org/name"), snapshot.string(), snapshot.string() + "/"})
    check_error(expect<SystemError>({"0123abcd", "out of the repository"}), [&] { ModelSource::open(name); });
  fs::remove_all(repository / "snapshots");
  fs::create_directory_symlink(outside, repository / "snapshots");
  check_error(expect<SystemError>({"0123abcd", "out of the repository"}), [&] { ModelSource::open("org/name"); });

  // References.
  fs::remove_all(repository / "refs" / "main");
  fs::create_symlink(outside / "secret", repository / "refs" / "main");
  check_error(expect<SystemError>({"refs/main", "symbolic link"}), [] { resolve_model("org/name"); });
  fs::remove_all(repository / "refs");
  fs::create_directory_symlink(outside, repository / "refs");
  check_error(expect<SystemError>({"refs", "symbolic link"}), [] { resolve_model("org/name"); });
}

// A link to the whole repository, and one to the snapshot from elsewhere, are the user's own.
TEST_F(HfCache, LinksThatStayInTheRepositoryAreFollowed) {
  const fs::path snapshot = add("hub");
  const fs::path repository = snapshot.parent_path().parent_path();
  fs::create_directories(repository / "blobs");
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::copy_file(test::tiny_model("llama") + "/" + name, repository / "blobs" / name);
    fs::create_symlink(fs::path("../../blobs") / name, snapshot / name);
  }
  fs::create_directory_symlink("0123abcd", repository / "snapshots" / "main");
  fs::create_directory_symlink(snapshot, folder_.path("mine"));
  fs::create_directory_symlink(repository, folder_.path("models--else--where"));
  for (const std::string& name : {(repository / "snapshots" / "main").string(), folder_.path("mine"),
                                  folder_.path("models--else--where/snapshots/0123abcd"),
                                  (repository / "snapshots" / ".." / "snapshots" / "0123abcd").string()})
    EXPECT_NO_THROW(ModelSource::open(name)) << name;
}

}  // namespace
}  // namespace metal_marlin
