// What the files of a run's journal say (run/journal/journal.h); those of its blocks are in block_record.h.
#pragma once

#include <metal_marlin/report_records.h>
#include <metal_marlin/text_records.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

// run.json.
struct RunNote {
  OptionValue fingerprint;  // a digest's text; in earlier versions a number
  std::optional<IdentityRecord> identity;

  static void describe(auto& field, auto& self) {
    field.since("fingerprint", self.fingerprint);
    field.maybe("identity", self.identity);
  }
};

// texts.json. The tokens are beside it.
struct StoredTextsRecord {
  std::string held_back_source;
  TextRecord calibration;
  std::vector<std::string> warnings;

  static void describe(auto& field, auto& self) {
    field("held_back_source", self.held_back_source);
    field("calibration", self.calibration);
    field("warnings", self.warnings);
  }
};

// What the codes of a linear are.
struct StoredCodesRecord {
  int64_t bits = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;
  bool symmetric = false;
  std::string scale_type;  // F16 or BF16

  static void describe(auto& field, auto& self) {
    field("bits", self.bits);
    field("in_features", self.in_features);
    field("group_size", self.group_size);
    field("symmetric", self.symmetric);
    field("scale_type", self.scale_type);
  }
};

// The same of blocks of a ggml type.
struct StoredBlocksRecord {
  std::string type;
  int64_t in_features = 0;

  static void describe(auto& field, auto& self) {
    field("type", self.type);
    field("in_features", self.in_features);
  }
};

// The entry "linears" in the metadata of a block's tensors.
struct StoredLinearsRecord {
  std::map<std::string, StoredCodesRecord> codes;    // by the weight's name
  std::map<std::string, StoredBlocksRecord> blocks;  // likewise

  static void describe(auto& field, auto& self) {
    field("codes", self.codes);
    field("blocks", self.blocks);
  }
};

}  // namespace metal_marlin
