#include "pack/bits/words_along_in.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

#include "core/threads.h"
#include "pack/bits/bit_runs.h"
#include "pack/bits/lanes.h"
#include "pack/bits/nibbles.h"

namespace metal_marlin {
namespace {

constexpr int64_t kPerWord = 8;
// A block is 16 columns by 8 word rows. That is whole cache lines of codes and of words, so each line is touched once,
// even where in_features is a power of two and the rows of codes share a cache set.
constexpr int64_t kColumns = 16;
constexpr int64_t kBlockRows = 8;
using Block = std::array<std::array<uint32_t, kColumns>, kBlockRows>;
// A tile is 64 word rows by 1024 columns. Its words are at most 256 KiB, which stay in the second-level cache while
// they are filled, as do freshly mapped pages, which the system has just cleared. Each column's codes are read in runs
// of 512 bytes.
constexpr int64_t kTileRows = 64;
constexpr int64_t kTileColumns = 1024;

// 32 codes -> 4 words.
Words4 words_of(const uint8_t* codes, Bytes16& seen) noexcept {
  const auto a = load<Bytes16>(codes);
  const auto b = load<Bytes16>(codes + 16);
  seen |= a | b;
  // Of a pair of bytes, the even one takes both codes.
  const auto pairs = [](Bytes16 x) {
    const auto halves = reinterpret_cast<Halves8>(x);
    return reinterpret_cast<Bytes16>(halves | halves >> 4);
  };
  return reinterpret_cast<Words4>(even_bytes(pairs(a), pairs(b)));
}

// Whole block: codes at (n, k), words at row and column of its corner.
void pack_block(const uint8_t* codes, int64_t in_features, Block& block, Bytes16& seen) noexcept {
  for (int64_t c = 0; c < kColumns; c += 4) {
    const uint8_t* column = codes + c * in_features;
    for (int64_t r = 0; r < kBlockRows; r += 4) {
      const uint8_t* at = column + r * kPerWord;
      Words4 x[4];
      for (int64_t i = 0; i < 4; ++i) x[i] = words_of(at + i * in_features, seen);
      transpose(x[0], x[1], x[2], x[3]);
      for (int64_t i = 0; i < 4; ++i) store(&block[static_cast<size_t>(r + i)][static_cast<size_t>(c)], x[i]);
    }
  }
}

int64_t tiles(int64_t all, int64_t of) {
  return (all + of - 1) / of;
}

// Calls fn(first row, rows, first column, columns) for each tile, those of one window of words after each other.
template <typename F>
void for_tiles(int64_t word_rows, int64_t out_features, F fn) {
  const int64_t across = tiles(out_features, kTileColumns);
  parallel_for(tiles(word_rows, kTileRows) * across, [&](int64_t tile) {
    const int64_t row = tile / across * kTileRows;
    const int64_t column = tile % across * kTileColumns;
    fn(row, std::min(kTileRows, word_rows - row), column, std::min(kTileColumns, out_features - column));
  });
}

bool pack_nibbles(const uint8_t* codes, int64_t out_features, int64_t in_features, std::byte* words) {
  std::atomic<bool> bad = false;
  for_tiles(in_features / kPerWord, out_features, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
    Bytes16 seen{};
    uint64_t seen_single = 0;
    Block block;
    for (int64_t c = 0; c < columns; c += kColumns) {
      const int64_t width = std::min(kColumns, columns - c);
      for (int64_t r = 0; r < rows; r += kBlockRows) {
        const int64_t height = std::min(kBlockRows, rows - r);
        const uint8_t* corner = codes + (column + c) * in_features + (row + r) * kPerWord;
        if (width == kColumns && height == kBlockRows) {
          pack_block(corner, in_features, block, seen);
        } else {
          for (int64_t n = 0; n < width; ++n) {
            for (int64_t i = 0; i < height; ++i) {
              const auto eight = load<uint64_t>(corner + n * in_features + i * kPerWord);
              seen_single |= eight;
              block[static_cast<size_t>(i)][static_cast<size_t>(n)] = bytes_to_nibbles(eight);
            }
          }
        }
        std::byte* out = words + 4 * ((row + r) * out_features + column + c);
        for (int64_t i = 0; i < height; ++i) {
          std::memcpy(out + 4 * i * out_features, block[static_cast<size_t>(i)].data(), 4 * static_cast<size_t>(width));
        }
      }
    }
    if (above_15(seen) || (seen_single & kHighNibbles) != 0) bad = true;
  });
  return !bad;
}

void unpack_nibbles(const std::byte* words, int64_t out_features, int64_t in_features, uint8_t* codes) {
  for_tiles(in_features / kPerWord, out_features, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
    Block block;
    for (int64_t c = 0; c < columns; c += kColumns) {
      const int64_t width = std::min(kColumns, columns - c);
      for (int64_t r = 0; r < rows; r += kBlockRows) {
        const int64_t height = std::min(kBlockRows, rows - r);
        const std::byte* in = words + 4 * ((row + r) * out_features + column + c);
        for (int64_t i = 0; i < height; ++i) {
          std::memcpy(block[static_cast<size_t>(i)].data(), in + 4 * i * out_features, 4 * static_cast<size_t>(width));
        }
        uint8_t* corner = codes + (column + c) * in_features + (row + r) * kPerWord;
        for (int64_t n = 0; n < width; ++n) {
          for (int64_t i = 0; i < height; ++i) {
            store(corner + n * in_features + i * kPerWord,
                  nibbles_to_bytes(block[static_cast<size_t>(i)][static_cast<size_t>(n)]));
          }
        }
      }
    }
  });
}

// The widths other than 4, run by run.
bool pack_runs(const uint8_t* codes, int64_t out_features, int64_t in_features, int bits, std::byte* words) {
  std::atomic<bool> bad = false;
  const int64_t run = run_codes(bits);
  const int64_t rows_of_run = run_words(bits);
  for_tiles(in_features / run, out_features, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
    uint32_t seen = 0;
    for (int64_t c = 0; c < columns; c += kColumns) {
      const int64_t width = std::min(kColumns, columns - c);
      for (int64_t r = row; r < row + rows; ++r) {
        std::array<std::array<uint32_t, kColumns>, kMostRunWords> block;
        for (int64_t n = 0; n < width; ++n) {
          const uint8_t* at = codes + (column + c + n) * in_features + r * run;
          for (int64_t i = 0; i < run; ++i) seen |= at[i];
          std::array<uint32_t, kMostRunWords> stream;
          pack_run(at, bits, stream.data());
          for (size_t i = 0; i < static_cast<size_t>(rows_of_run); ++i) block[i][static_cast<size_t>(n)] = stream[i];
        }
        std::byte* out = words + 4 * (r * rows_of_run * out_features + column + c);
        for (int64_t i = 0; i < rows_of_run; ++i) {
          std::memcpy(out + 4 * i * out_features, block[static_cast<size_t>(i)].data(), 4 * static_cast<size_t>(width));
        }
      }
    }
    if (seen >> bits != 0) bad = true;
  });
  return !bad;
}

void unpack_runs(const std::byte* words, int64_t out_features, int64_t in_features, int bits, uint8_t* codes) {
  const int64_t run = run_codes(bits);
  const int64_t rows_of_run = run_words(bits);
  for_tiles(in_features / run, out_features, [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
    for (int64_t c = 0; c < columns; c += kColumns) {
      const int64_t width = std::min(kColumns, columns - c);
      for (int64_t r = row; r < row + rows; ++r) {
        std::array<std::array<uint32_t, kColumns>, kMostRunWords> block;
        const std::byte* in = words + 4 * (r * rows_of_run * out_features + column + c);
        for (int64_t i = 0; i < rows_of_run; ++i) {
          std::memcpy(block[static_cast<size_t>(i)].data(), in + 4 * i * out_features, 4 * static_cast<size_t>(width));
        }
        for (int64_t n = 0; n < width; ++n) {
          std::array<uint32_t, kMostRunWords> stream;
          for (size_t i = 0; i < static_cast<size_t>(rows_of_run); ++i) stream[i] = block[i][static_cast<size_t>(n)];
          unpack_run(stream.data(), bits, codes + (column + c + n) * in_features + r * run);
        }
      }
    }
  });
}

}  // namespace

bool pack_along_in(const uint8_t* codes, int64_t out_features, int64_t in_features, int bits, std::byte* words) {
  return bits == 4 ? pack_nibbles(codes, out_features, in_features, words)
                   : pack_runs(codes, out_features, in_features, bits, words);
}

void unpack_along_in(const std::byte* words, int64_t out_features, int64_t in_features, int bits, uint8_t* codes) {
  if (bits == 4) {
    unpack_nibbles(words, out_features, in_features, codes);
  } else {
    unpack_runs(words, out_features, in_features, bits, codes);
  }
}

}  // namespace metal_marlin
