// What a report says of the texts of a run.
#pragma once

#include <metal_marlin/record.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

struct FewTokensRecord {
  std::string name;
  int64_t in_features = 0;
  int64_t tokens = 0;

  static void describe(auto& field, auto& self) {
    field("name", self.name, "weight of a linear with less than 4 tokens for each input channel");
    field("in_features", self.in_features, "its input channels");
    field("tokens", self.tokens, "that its statistics are of");
  }
};

struct SourceRecord {
  std::string source;
  std::string kind;
  std::optional<double> weight;
  std::optional<double> share;
  std::optional<int64_t> sequences;
  int64_t tokens = 0;
  std::optional<double> temperature;
  std::optional<uint64_t> seed;
  std::optional<int64_t> sequence_length;

  static void describe(auto& field, auto& self) {
    field("source", self.source, "a file, self or builtin");
    field("kind", self.kind, "text, conversations, self, builtin or statistics");
    field.maybe("weight", self.weight, "its part in the mixture");
    field.maybe("share", self.share, "of the program's own text beside files: its share of the sequences");
    field.maybe("sequences", self.sequences, "before a selection");
    field("tokens", self.tokens, "before a selection");
    field.maybe("temperature", self.temperature, "of self-made text");
    field.maybe("seed", self.seed, "likewise");
    field.maybe("sequence_length", self.sequence_length, "likewise, tokens");
  }
};

struct SelectedRecord {
  std::string source;
  int64_t index = 0;

  static void describe(auto& field, auto& self) {
    field("source", self.source);
    field("index", self.index, "number of the sequence there, from 0");
  }
};

struct SelectionRecord {
  int64_t pool = 0;
  int64_t blocks = 0;
  double coverage = 0;
  std::vector<SelectedRecord> sequences;

  static void describe(auto& field, auto& self) {
    field("pool", self.pool, "sequences to choose from");
    field("blocks", self.blocks, "of the model that they were judged by");
    field("coverage", self.coverage, "share of what the whole pool covers");
    field("sequences", self.sequences, "those that were chosen");
  }
};

// From which text something was made.
struct TextRecord {
  std::vector<SourceRecord> sources;
  std::optional<SelectionRecord> selection;

  static void describe(auto& field, auto& self) {
    field.since("sources", self.sources, "where the text came from");
    field.since("selection", self.selection, "null, or with --select");
  }
};

struct CalibrationRecord : TextRecord {
  std::string source;
  int64_t sequences = 0;
  int64_t tokens = 0;
  double first_token_weight = 1;
  std::vector<FewTokensRecord> few_tokens;
  std::optional<TextRecord> made_from;

  static void describe(auto& field, auto& self) {
    field("source", self.source, "all sources in one text");
    field("sequences", self.sequences, "0 with statistics from a file");
    field("tokens", self.tokens, "that the statistics are of");
    field.since(
        "first_token_weight", self.first_token_weight,
        "how many times first tokens count in the Gram matrices; 1 too where statistics from a file do not know them");
    field.since("few_tokens", self.few_tokens);
    TextRecord::describe(field, self);
    field.maybe("made_from", self.made_from, "of statistics from a file: what the file says of its text");
  }
};

struct HeldBackRecord {
  std::string source;
  std::string kind;
  int64_t chunks = 0;
  int64_t tokens = 0;

  static void describe(auto& field, auto& self) {
    field("source", self.source, "the text of the evaluation");
    field.since("kind", self.kind,
                "self (made by the model), calibration (a held-back part of it), file (--evaluate FILE), none");
    field("chunks", self.chunks);
    field.since("tokens", self.tokens);
  }
};

}  // namespace metal_marlin
