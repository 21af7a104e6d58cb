#include "model/state_store.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <filesystem>

namespace metal_marlin {
namespace {

class StateStoreTest : public testing::TestWithParam<bool> {
 protected:
  std::string scratch() const {
    return GetParam() ? (std::filesystem::temp_directory_path() / ("state_store_" + std::to_string(getpid()))).string()
                      : "";
  }
};

TEST_P(StateStoreTest, BatchesAreWholeSequencesAndKeepTheirRows) {
  StateStore store({3, 4, 5, 20, 1}, 6, scratch(), 8);
  ASSERT_EQ(store.batches().size(), 4u);  // 3+4 | 5 | 20 (longer than a batch) | 1
  EXPECT_EQ(store.batches()[0].lengths, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(store.batches()[2].first_row, 12);
  EXPECT_EQ(store.batches()[2].first_sequence, 3);
  EXPECT_EQ(store.rows(), 33);
  for (const auto& batch : store.batches()) {
    Matrix m(batch.rows, 6);
    for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(batch.first_row * 6 + i);
    store.write(batch, m);
  }
  Matrix all(33, 6);
  store.read_rows(0, 33, all.data());
  for (int64_t i = 0; i < all.size(); ++i) EXPECT_EQ(all.data()[i], static_cast<float>(i));
  EXPECT_EQ(store.read(store.batches()[3])(0, 0), 32 * 6);
  EXPECT_FALSE(GetParam() && std::filesystem::exists(scratch()));  // vanishes with the process, whatever happens
}

TEST_P(StateStoreTest, LanesAreApart) {
  StateStore store({3, 2}, 4, scratch(), 8, 3);
  ASSERT_EQ(store.batches().size(), 1u);
  EXPECT_EQ(store.rows(), 5);
  for (int64_t lane = 0; lane < 3; ++lane) {
    Matrix m(5, 4);
    for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(100 * lane + i);
    store.write(store.batches()[0], m, lane);
  }
  for (int64_t lane = 0; lane < 3; ++lane) {
    const Matrix m = store.read(store.batches()[0], lane);
    for (int64_t i = 0; i < m.size(); ++i) ASSERT_EQ(m.data()[i], static_cast<float>(100 * lane + i));
    float row[4];
    store.read_rows(4, 1, row, lane);
    EXPECT_EQ(row[3], static_cast<float>(100 * lane + 19));
  }
}

TEST_P(StateStoreTest, NothingToHold) {
  StateStore store({}, 6, scratch(), 8);
  EXPECT_TRUE(store.batches().empty());
}

INSTANTIATE_TEST_SUITE_P(Where, StateStoreTest, testing::Bool(),
                         [](const auto& i) { return i.param ? "Scratch" : "Memory"; });

TEST(StateStore, AnImpossibleScratchFileIsAnError) {
  EXPECT_THROW(StateStore({4}, 6, "/nonexistent/scratch", 8), SystemError);
}

}  // namespace
}  // namespace metal_marlin
