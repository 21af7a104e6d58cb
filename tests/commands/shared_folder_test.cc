// Output folders that others can write into: what stands there, or comes while a command runs, leads it nowhere.
#include <gtest/gtest.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "commands/model_run_fixture.h"

namespace {
bool locks_exist = true;
}

// In place of the C library's, for a file system without locks.
extern "C" int flock(int fd, int operation) noexcept {
  if (locks_exist) return static_cast<int>(syscall(SYS_flock, fd, operation));
  errno = ENOLCK;
  return -1;
}

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

const std::string kLeftover = ".out.metal-marlin.0123456789abcdef";

// All files below a folder, by name, with their content.
std::map<std::string, std::string> content_of(const std::string& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ostringstream text;
    text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
    out[fs::relative(entry.path(), folder).string()] = text.str();
  }
  return out;
}

std::map<std::string, std::string> weights_of(const std::string& folder) {
  std::map<std::string, std::string> out = content_of(folder);
  std::erase_if(out, [](const auto& file) { return !file.first.ends_with(".safetensors"); });
  EXPECT_FALSE(out.empty());
  return out;
}

class SharedFolderTest : public ModelRunTest {
 protected:
  void SetUp() override {
    ModelRunTest::SetUp();
    locks_exist = true;
    quantize_model(model(), out("q"), plain());
    write("thesis", "precious");
  }
  void TearDown() override {
    locks_exist = true;
    ModelRunTest::TearDown();
  }
  QuantizeOptions plain(bool overwrite = false, Method method = Method::kRtn) const {
    QuantizeOptions o = tiny_options();
    o.method = method;
    o.calibration.samples = 2;
    o.evaluation.text = "none";
    o.overwrite = overwrite;
    return o;
  }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(out(name)).parent_path());
    std::ofstream(out(name)) << text;
  }
  Observer observer(const std::function<void(const std::string& stage)>& look = {}) {
    Observer o;
    o.on_warning = [this](const std::string& text) { warnings_ += text + "\n"; };
    if (look) {
      o.on_progress = [look](const Progress& p) {
        look(p.stage);
        return true;
      };
    }
    return o;
  }
  void convert(bool overwrite = false) {
    convert_model(out("q"), out("out"), {.to = "gptq_v2", .overwrite = overwrite}, observer());
  }
  // What a killed command of another folder would have left, as a stranger would make it up.
  void plant(const std::string& folder, const std::string& place_json) const {
    write(folder + "/.metal-marlin/place.json", place_json);
  }
  std::string message(const std::function<void()>& action) const {
    try {
      action();
    } catch (const SystemError& e) {
      return e.what();
    }
    return "no SystemError";
  }

  std::string warnings_;
};

TEST_F(SharedFolderTest, AListOfAnInterruptedRunReachesNothingOutside) {
  write("a/thesis", "precious");
  const std::string names = R"(["../thesis", "..", ".", "", "/etc/hostname", "awq/../../thesis", "./thesis", "a/thesis",
                               "../a/thesis", ".ssh", 3, null, [], "x\u0000y"])";
  const std::vector<std::function<void()>> commands = {[&] { convert(); }, [&] { convert(true); },
                                                       [&] { quantize_model(model(), out("out"), plain()); },
                                                       [&] { quantize_model(model(), out("out"), plain(true)); }};
  for (const std::string key : {"old", "new"}) {
    for (const auto& command : commands) {
      for (const bool beside : {false, true}) {
        fs::remove_all(out("out"));
        plant(beside ? kLeftover : "out", beside ? "{\"folder\":\"" + kLeftover + "\",\"" + key + "\":" + names + "}"
                                                 : "{\"" + key + "\":" + names + "}");
        command();
        EXPECT_EQ(content_of(out("a")).at("thesis"), "precious");
        ASSERT_TRUE(fs::exists(out("thesis"))) << key << " " << beside;
        EXPECT_TRUE(fs::exists(out("out/config.json")));
        EXPECT_FALSE(fs::exists(out(kLeftover)));
      }
    }
  }
}

TEST_F(SharedFolderTest, ADeepListOfAnInterruptedRunCountsAsNone) {
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  for (const std::string& text :
       {deep, R"({"old":[],"x":)" + deep + "}", R"({"old":)" + deep + "}", R"({"new":[],"x":)" + deep + "}",
        R"({"folder":")" + kLeftover + "\",\"x\":" + deep + "}"}) {
    fs::remove_all(out("out"));
    plant("out", text);
    convert();
    EXPECT_TRUE(fs::exists(out("out/config.json")));
    fs::remove_all(out("out"));
    plant(kLeftover, text);
    convert();
    EXPECT_TRUE(fs::exists(out(kLeftover + "/.metal-marlin/place.json")));
    fs::remove_all(out(kLeftover));
  }
}

TEST_F(SharedFolderTest, AListOfVeryManyNamesCountsAsNone) {
  std::string names;
  for (int i = 0; i < 100'000; ++i) names += "\"n" + std::to_string(i) + "\",";
  write("out/.metal-marlin.json", R"({"program":"metal-marlin","files":[)" + names + "\"n0\"]}");
  write("out/n0", "precious");
  const std::string text = message([&] { convert(true); });
  EXPECT_NE(text.find("lists more than 10000 files"), std::string::npos) << text;
  EXPECT_TRUE(fs::exists(out("out/n0")));
}

// Another folder takes OUT's place while files are written: the other one stays as it is.
TEST_F(SharedFolderTest, AFolderThatTakesTheOutputsPlaceIsNotWrittenInto) {
  write("victim/config.json", "precious");
  write("victim/model.safetensors", "precious");
  write("victim/model.awq.safetensors", "precious");
  write("victim/block-00000.json", "precious");
  const auto before = content_of(out("victim"));
  bool done = false;
  const auto swap = [&](const std::string& stage, const std::string& at) {
    if (stage != at || done || !fs::exists(out("out/.metal-marlin"))) return;
    done = true;
    fs::rename(out("out"), out("away"));
    fs::create_directories(out("evil/.metal-marlin"));
    fs::create_directory_symlink(out("victim"), out("evil/.metal-marlin/result"));
    write("evil/config.json", "precious");
    write("evil/.metal-marlin/run.json", "precious");
    fs::rename(out("evil"), out("out"));
  };
  quantize_model(model(), out("whole"), plain(false, Method::kAwq));
  for (const std::string stage : {"load", "forward", "journal", "write", "report", "convert"}) {
    done = false;
    const std::string text = message([&] {
      if (stage == "convert") {
        convert_model(out("q"), out("out"), {.to = "gptq_v2"},
                      observer([&](const std::string& s) { swap(s, "write"); }));
      } else {
        quantize_model(model(), out("out"), plain(false, Method::kAwq),
                       observer([&](const std::string& s) { swap(s, stage); }));
      }
    });
    ASSERT_TRUE(done) << stage;
    EXPECT_NE(text.find("replaced or moved away"), std::string::npos) << stage << ": " << text;
    EXPECT_EQ(content_of(out("victim")), before) << stage;
    EXPECT_EQ(content_of(out("out")),
              (std::map<std::string, std::string>{{"config.json", "precious"}, {".metal-marlin/run.json", "precious"}}))
        << stage;
    fs::remove_all(out("out"));
    // Put back, the folder goes on.
    fs::rename(out("away"), out("out"));
    if (stage != "convert") {
      quantize_model(model(), out("out"), plain(false, Method::kAwq));
      EXPECT_EQ(weights_of(out("out")), weights_of(out("whole"))) << stage;
    }
    fs::remove_all(out("out"));
  }
}

// A link takes the place of a folder inside OUT.
TEST_F(SharedFolderTest, ALinkInsideTheOutputIsNotFollowed) {
  write("victim/config.json", "precious");
  write("victim/model.awq.safetensors", "precious");
  fs::create_directories(out("victim/result"));
  const auto before = content_of(out("victim"));
  for (const std::string stage : {"forward", "journal", "write", "report"}) {
    for (const std::string place : {"out/.metal-marlin", "out/.metal-marlin/result"}) {
      bool done = false;
      const std::string text = message([&] {
        quantize_model(model(), out("out"), plain(false, Method::kAwq), observer([&](const std::string& s) {
                         if (s != stage || done || !fs::exists(out(place))) return;
                         done = true;
                         fs::rename(out(place), out("away"));
                         fs::create_directory_symlink(out("victim"), out(place));
                       }));
      });
      EXPECT_EQ(done, text != "no SystemError") << stage << " " << place << ": " << text;
      EXPECT_EQ(content_of(out("victim")), before) << stage << " " << place;
      fs::remove_all(out("out"));
      fs::remove_all(out("away"));
    }
  }
}

// A real folder of the same user takes the journal's place, or the result's: the journal of another run, say.
TEST_F(SharedFolderTest, AFolderThatTakesTheJournalsPlaceIsNotWrittenInto) {
  quantize_model(model(), out("whole"), plain(false, Method::kAwq));
  for (const std::string stage : {"forward", "journal", "write", "report", "convert"}) {
    for (const std::string place : {"out/.metal-marlin", "out/.metal-marlin/result"}) {
      for (const char* name : {"other/block-00000.json", "other/block-00001.json", "other/run.json",
                               "other/config.json", "other/result/config.json"})
        write(name, "precious");
      const auto before = content_of(out("other"));
      bool done = false;
      const Observer changing = observer([&](const std::string& s) {
        if (s != (stage == "convert" ? "write" : stage) || done || !fs::exists(out(place))) return;
        done = true;
        fs::rename(out(place), out("away"));
        fs::rename(out("other"), out(place));
      });
      const auto run = [&](const Observer& o) {
        if (stage == "convert") {
          convert_model(out("q"), out("out"), {.to = "gptq_v2"}, o);
        } else {
          quantize_model(model(), out("out"), plain(false, Method::kAwq), o);
        }
      };
      const std::string text = message([&] { run(changing); });
      EXPECT_EQ(done, text != "no SystemError") << stage << " " << place << ": " << text;
      if (done) {
        EXPECT_NE(text.find(out(place) + ": was replaced"), std::string::npos) << stage << " " << text;
        EXPECT_EQ(content_of(out(place)), before) << stage << " " << place;
        fs::remove_all(out(place));
        fs::rename(out("away"), out(place));
        run(observer());  // put back, the folder goes on
        if (stage != "convert") {
          EXPECT_EQ(weights_of(out("out")), weights_of(out("whole"))) << stage;
        }
      }
      for (const char* name : {"out", "away", "other"}) fs::remove_all(out(name));
    }
  }
}

TEST_F(SharedFolderTest, WhatBelongsToAnotherUserIsNotOurs) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give files to another user";
  constexpr uid_t kOther = 54321;
  plant(kLeftover, "{\"folder\":\"" + kLeftover + "\"}");
  write(kLeftover + "/thesis", "precious");
  ASSERT_EQ(chown(out(kLeftover).c_str(), kOther, kOther), 0);
  convert();
  EXPECT_TRUE(fs::exists(out(kLeftover + "/thesis")));
  EXPECT_NE(warnings_.find(kLeftover + ": has the name of a leftover of this program, but belongs to"),
            std::string::npos)
      << warnings_;
  fs::remove_all(out("out"));
  fs::create_directories(out("out/.metal-marlin"));
  ASSERT_EQ(chown(out("out/.metal-marlin").c_str(), kOther, kOther), 0);
  for (const auto& command : std::vector<std::function<void()>>{
           [&] { convert(); }, [&] { quantize_model(model(), out("out"), plain(true)); }}) {
    const std::string text = message(command);
    EXPECT_NE(text.find(".metal-marlin: belongs to another user"), std::string::npos) << text;
  }
}

TEST_F(SharedFolderTest, ALinkWithTheNameOfALeftoverIsLeftAndTold) {
  fs::create_directories(out("victim"));
  fs::create_directory_symlink(out("victim"), out(kLeftover));
  convert();
  EXPECT_TRUE(fs::is_symlink(out(kLeftover)));
  EXPECT_NE(warnings_.find("is a symbolic link; it is left as it is"), std::string::npos) << warnings_;
}

TEST_F(SharedFolderTest, AFileSystemWithoutLocksIsToldOf) {
  locks_exist = false;
  convert();
  EXPECT_NE(warnings_.find("out: the file system has no locks"), std::string::npos) << warnings_;
  EXPECT_TRUE(fs::exists(out("out/config.json")));
}

}  // namespace
}  // namespace metal_marlin
