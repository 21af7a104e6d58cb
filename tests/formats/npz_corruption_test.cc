#include "formats/npz.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

using test::Corruption;
using test::expect;
using test::little;

std::string npy(const std::string& header, const std::string& data = std::string(8, '\0'), char major = 1) {
  std::string bytes = std::string("\x93NUMPY") + major + '\0';
  bytes += major == 1 ? little(static_cast<uint16_t>(header.size())) : little(static_cast<uint32_t>(header.size()));
  return bytes + header + data;
}
std::string dict(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
}
const std::string kGood = dict("'<f4'", "(2,)");

class NpyCorruption : public testing::TestWithParam<Corruption> {};

TEST_P(NpyCorruption, IsRefused) {
  test::check_error(GetParam().expected, [&] { parse_npy(test::as_bytes(GetParam().bytes), "bad.npy"); });
}

TEST(NpyCorruptionBase, UndamagedIsRead) {
  for (const std::string& header :
       {kGood, dict("\"<f4\"", "(2L,)"), dict("'=f4'", "( 2 , )"), dict("'|u1'", "(2, 4)", "True"),
        std::string("{'shape': (2,), 'fortran_order': False, 'descr': '<f4'}")}) {
    EXPECT_NO_THROW(parse_npy(test::as_bytes(npy(header)), "good")) << header;
  }
  EXPECT_NO_THROW(parse_npy(test::as_bytes(npy(kGood, std::string(8, '\0'), 3)), "good"));
}

TEST(NpyCorruptionBase, EveryPrefixIsRefused) {
  const std::string bytes = npy(kGood);
  for (size_t n = 0; n < bytes.size(); ++n) {
    test::check_error(expect<FormatError>({"bad.npy"}),
                      [&] { parse_npy(test::as_bytes(std::string_view(bytes).substr(0, n)), "bad.npy"); });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Named, NpyCorruption,
    testing::Values(
        Corruption{"bad_magic", "PK\3\4" + npy(kGood), expect<FormatError>({"bad.npy", "NUMPY"})},
        Corruption{"bad_version_0", npy(kGood, "", 0), expect<UnsupportedError>({"bad.npy", "version 0.0"})},
        Corruption{"bad_version_4", npy(kGood, "", 4), expect<UnsupportedError>({"bad.npy", "version 4.0"})},
        Corruption{"header_length_huge", std::string("\x93NUMPY\2\0\xff\xff\xff\xff{}", 14),
                   expect<FormatError>({"bad.npy", "4294967295"})},
        Corruption{"header_past_end", std::string("\x93NUMPY\1\0\xff\x7f{}", 12),
                   expect<FormatError>({"bad.npy", "cut off"})},
        Corruption{"no_dictionary", npy("[]"), expect<FormatError>({"bad.npy", "'{'"})},
        Corruption{"descr_missing", npy("{'fortran_order': False, 'shape': (2,)}"),
                   expect<FormatError>({"bad.npy", "lacks descr"})},
        Corruption{"descr_twice", npy("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"),
                   expect<FormatError>({"repeated", "descr"})},
        Corruption{"unknown_key", npy("{'descr': '<f4', 'more': 1}"), expect<FormatError>({"more"})},
        Corruption{"python_objects", npy(dict("'|O'", "(2,)")), expect<UnsupportedError>({"bad.npy", "pickle"})},
        Corruption{"records", npy(dict("[('x', '<f4')]", "(2,)")), expect<UnsupportedError>({"bad.npy", "records"})},
        Corruption{"complex_numbers", npy(dict("'<c8'", "(1,)")), expect<UnsupportedError>({"<c8"})},
        Corruption{"text_elements", npy(dict("'<U4'", "(1,)")), expect<UnsupportedError>({"<U4"})},
        Corruption{"order_is_a_number", npy(dict("'<f4'", "(2,)", "0")), expect<FormatError>({"fortran_order"})},
        Corruption{"shape_not_a_tuple", npy(dict("'<f4'", "(2)")), expect<FormatError>({"tuple"})},
        Corruption{"shape_negative", npy(dict("'<f4'", "(-2,)")), expect<FormatError>({"-2"})},
        Corruption{"shape_fraction", npy(dict("'<f4'", "(2.0,)")), expect<FormatError>({"bad.npy", "comma"})},
        Corruption{"shape_above_int64", npy(dict("'<f4'", "(9223372036854775808,)")),
                   expect<FormatError>({"9223372036854775808"})},
        Corruption{"shape_overflows", npy(dict("'<f4'", "(4611686018427387904, 4)")),
                   expect<FormatError>({"overflows"})},
        Corruption{"shape_overflow_behind_zero", npy(dict("'<f4'", "(0, 4611686018427387904, 4)"), ""),
                   expect<FormatError>({"overflows"})},
        Corruption{"shape_without_end", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,"),
                   expect<FormatError>({"bad.npy"})},
        Corruption{"string_without_end", npy("{'descr"), expect<FormatError>({"does not end"})},
        Corruption{"text_after_dictionary", npy(kGood + "x"), expect<FormatError>({"follows"})},
        Corruption{"data_short", npy(kGood, "1234567"), expect<FormatError>({"[2]", "7 are there"})},
        Corruption{"data_long", npy(kGood, "123456789"), expect<FormatError>({"[2]", "9 are there"})}),
    test::corruption_name);

// A zip of one stored or "deflated" member whose headers may lie.
struct ZipParts {
  std::string name = "x.npy";
  std::string content = npy(kGood);
  uint16_t method = 0;
  uint16_t flags = 0;
  uint32_t crc_change = 0;
  int64_t claimed_size = -1;
  int members = 1;

  static uint32_t crc32(std::string_view bytes) {
    uint32_t crc = ~0u;
    for (const char c : bytes) {
      crc ^= static_cast<unsigned char>(c);
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0u);
    }
    return ~crc;
  }
  std::string bytes() const {
    const auto compressed = static_cast<uint32_t>(content.size());
    const auto size = claimed_size < 0 ? compressed : static_cast<uint32_t>(claimed_size);
    const std::string common = little(uint16_t{20}) + little(flags) + little(method) + little(uint16_t{0}) +
                               little(uint16_t{0x21}) + little(crc32(content) ^ crc_change) + little(compressed) +
                               little(size) + little(static_cast<uint16_t>(name.size())) + little(uint16_t{0});
    std::string out;
    std::string central;
    for (int i = 0; i < members; ++i) {
      central += "PK\1\2" + little(uint16_t{20}) + common + std::string(10, '\0') +
                 little(static_cast<uint32_t>(out.size())) + name;
      out += "PK\3\4" + common + name + content;
    }
    const auto start = static_cast<uint32_t>(out.size());
    out += central;
    out += "PK\5\6" + std::string(4, '\0') + little(static_cast<uint16_t>(members)) +
           little(static_cast<uint16_t>(members)) + little(static_cast<uint32_t>(central.size())) + little(start) +
           std::string(2, '\0');
    return out;
  }
};

template <typename Change>
std::string zip_with(Change change) {
  ZipParts parts;
  change(parts);
  return parts.bytes();
}

class NpzCorruption : public testing::TestWithParam<Corruption> {};

TEST_P(NpzCorruption, IsRefused) {
  test::check_error(GetParam().expected, [&] {
    const NpzFile file(test::as_bytes(GetParam().bytes), "bad.npz");
    file.load("x");
  });
}

TEST(NpzCorruptionBase, UndamagedIsRead) {
  const std::string bytes = ZipParts{}.bytes();
  const NpzFile file(test::as_bytes(bytes), "good");
  EXPECT_EQ(file.load("x").shape, std::vector<int64_t>{2});
  const std::string other = zip_with([](ZipParts& z) { z.name = "readme.txt"; });
  EXPECT_TRUE(NpzFile(test::as_bytes(other), "good").names().empty());
}

TEST(NpzCorruptionBase, MissingFileIsASystemError) {
  test::check_error(expect<SystemError>({"/nowhere/x.npz"}), [] { NpzFile file("/nowhere/x.npz"); });
}

TEST(NpzCorruptionBase, NoZipOnDiskIsAFormatError) {
  const test::TemporaryFolder folder;
  const std::string path = folder.write("x.npz", "no zip at all");
  test::check_error(expect<FormatError>({"x.npz", "expected an .npz", "no zip archive", "make it again"}),
                    [&] { NpzFile file(path); });
}

// A wrong checksum is found when rows are streamed, too.
TEST(NpzCorruptionBase, ChecksumWhenStreaming) {
  const std::string bytes = zip_with([](ZipParts& z) { z.crc_change = 1; });
  const NpzFile file(test::as_bytes(bytes), "bad.npz");
  float out[2];
  test::check_error(expect<FormatError>({"bad.npz", "\"x\"", "CRC"}), [&] { file.rows("x").read(1, out); });
}

INSTANTIATE_TEST_SUITE_P(
    Named, NpzCorruption,
    testing::Values(
        Corruption{"empty_file", "", expect<FormatError>({"bad.npz"})},
        Corruption{"no_zip", std::string(100, 'x'),
                   expect<FormatError>({"bad.npz", "expected an .npz", "no zip archive"})},
        Corruption{"directory_cut_off", zip_with([](ZipParts&) {}).substr(0, 150), expect<FormatError>({"bad.npz"})},
        Corruption{"member_missing", zip_with([](ZipParts& z) { z.name = "y.npy"; }),
                   expect<FormatError>({"bad.npz", "\"x\"", "\"y\""})},
        Corruption{"duplicate_member", zip_with([](ZipParts& z) { z.members = 2; }),
                   expect<FormatError>({"bad.npz", "\"x\"", "duplicate"})},
        Corruption{"wrong_checksum", zip_with([](ZipParts& z) { z.crc_change = 1; }),
                   expect<FormatError>({"\"x\"", "CRC"})},
        Corruption{"method_bzip2", zip_with([](ZipParts& z) { z.method = 12; }),
                   expect<UnsupportedError>({"\"x\"", "method 12"})},
        Corruption{"encrypted", zip_with([](ZipParts& z) { z.flags = 1; }),
                   expect<UnsupportedError>({"\"x\"", "encrypted"})},
        Corruption{"stored_size_differs", zip_with([](ZipParts& z) { z.claimed_size = 1000; }),
                   expect<FormatError>({"\"x\"", "1000"})},
        Corruption{"size_bomb", zip_with([](ZipParts& z) {
                     z.method = 8;
                     z.claimed_size = 4000000000;
                   }),
                   expect<FormatError>({"\"x\"", "4000000000"})},
        Corruption{"deflate_garbage", zip_with([](ZipParts& z) { z.method = 8; }), expect<FormatError>({"\"x\""})},
        Corruption{"member_empty", zip_with([](ZipParts& z) { z.content = ""; }),
                   expect<FormatError>({"\"x\"", "NUMPY"})},
        Corruption{"member_no_npy", zip_with([](ZipParts& z) { z.content = std::string(100, 'x'); }),
                   expect<FormatError>({"\"x\"", "NUMPY"})},
        Corruption{"member_header_cut", zip_with([](ZipParts& z) { z.content.resize(30); }),
                   expect<FormatError>({"\"x\"", "cut off"})},
        Corruption{"member_data_short", zip_with([](ZipParts& z) { z.content.pop_back(); }),
                   expect<FormatError>({"\"x\"", "the member has 7"})},
        Corruption{"member_shape_huge",
                   zip_with([](ZipParts& z) { z.content = npy(dict("'<f8'", "(1000000, 1000000, 1000)")); }),
                   expect<FormatError>({"\"x\"", "the member has 8"})},
        Corruption{"member_pickle", zip_with([](ZipParts& z) { z.content = npy(dict("'|O'", "(2,)")); }),
                   expect<UnsupportedError>({"bad.npz", "\"x\"", "pickle"})}),
    test::corruption_name);

}  // namespace
}  // namespace metal_marlin
