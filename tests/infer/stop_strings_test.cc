#include "infer/stop_strings.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "core/random.h"
#include "infer/prompt_lookup.h"

namespace metal_marlin {
namespace {

TEST(StopStrings, TheTextEndsBeforeTheFirst) {
  StopStrings stops({"\n\n", "END"});
  EXPECT_EQ(stops.push("one\n"), "one");
  EXPECT_EQ(stops.push("two E"), "\ntwo ");
  EXPECT_EQ(stops.push("N"), "");
  EXPECT_EQ(stops.push("ough EN"), "ENough ");
  EXPECT_FALSE(stops.stopped());
  EXPECT_EQ(stops.push("D\n\n"), "");
  EXPECT_TRUE(stops.stopped());
  EXPECT_EQ(stops.push("more"), "");
  EXPECT_EQ(stops.finish(), "");
}

TEST(StopStrings, WhatIsHeldBackComesAtTheEnd) {
  StopStrings stops({"abc"});
  EXPECT_EQ(stops.push("xab"), "x");
  EXPECT_EQ(stops.finish(), "ab");
  EXPECT_FALSE(stops.stopped());
  StopStrings none({});
  EXPECT_EQ(none.push("xab"), "xab");
  EXPECT_THROW(StopStrings({""}), ArgumentError);
}

// Any cutting of any text gives what a search in the whole text gives.
TEST(StopStrings, EqualASearchInTheWholeText) {
  Random random(1, 2);
  const auto draw = [&](size_t most) {
    std::string s;
    for (size_t i = 0, n = 1 + static_cast<size_t>(random.uniform() * static_cast<double>(most)); i < n; ++i) {
      s += random.uniform() < 0.5 ? 'a' : 'b';
    }
    return s;
  };
  for (int i = 0; i < 2000; ++i) {
    const std::string text = draw(40);
    const std::vector<std::string> words{draw(5), draw(5)};
    StopStrings stops(words);
    std::string got;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + static_cast<size_t>(random.uniform() * 4);
      got += stops.push(text.substr(at, n));
      at += n;
    }
    got += stops.finish();
    // A string that ends later may begin earlier; by then the text before the other was shown. What ends first counts.
    size_t shown = text.size();
    size_t ended = std::string::npos;
    for (const std::string& word : words) {
      const size_t at = text.find(word);
      if (at != std::string::npos) ended = std::min(ended, at + word.size());
    }
    if (ended != std::string::npos) {
      EXPECT_TRUE(stops.stopped());
      shown = got.size();
      EXPECT_TRUE(std::any_of(words.begin(), words.end(), [&](const auto& w) { return text.find(w) == shown; }))
          << text;
      EXPECT_LE(shown, ended);
    } else {
      EXPECT_FALSE(stops.stopped());
    }
    EXPECT_EQ(got, text.substr(0, shown)) << text << " " << words[0] << " " << words[1];
  }
}

TEST(PromptLookup, GivesWhatFollowedTheLongestEqualEnd) {
  const std::vector<int32_t> tokens{9, 1, 2, 3, 4, 5, 8, 3, 4, 6, 1, 2, 3, 4};
  EXPECT_EQ(prompt_lookup(tokens, 3), (std::vector<int32_t>{5, 8, 3}));
  EXPECT_EQ(prompt_lookup(tokens, 1), (std::vector<int32_t>{5}));
  EXPECT_EQ(prompt_lookup(tokens, 0), (std::vector<int32_t>{}));
  EXPECT_EQ(prompt_lookup(std::vector<int32_t>{3, 4, 6, 3, 4}, 9), (std::vector<int32_t>{6, 3, 4}));
  EXPECT_EQ(prompt_lookup(std::vector<int32_t>{3, 4, 6, 4, 3}, 9), (std::vector<int32_t>{}));
  EXPECT_EQ(prompt_lookup(std::vector<int32_t>{7, 7, 7}, 9), (std::vector<int32_t>{7}));
  EXPECT_EQ(prompt_lookup(std::vector<int32_t>{}, 9), (std::vector<int32_t>{}));
}

}  // namespace
}  // namespace metal_marlin
