// The three streams of a run: the calibration text through the source's blocks, and the held-back text through the
// source's and through the quantized ones, in lockstep. Their states are saved in the journal now and then.
#pragma once

#include <metal_marlin/quantize.h>

#include <cstdint>
#include <memory>
#include <string>

#include "core/progress.h"
#include "model/stream.h"
#include "recipe/recipe.h"
#include "run/journal/journal.h"
#include "text/texts.h"

namespace metal_marlin {

struct RunStreams {
  std::unique_ptr<Stream> calibration;  // no rows where the statistics come from a file
  std::unique_ptr<Stream> reference;    // no rows where nothing is evaluated
  std::unique_ptr<Stream> quantized;    // as many as that

  bool evaluates() const { return reference->rows() > 0; }
};

// What the first format of a run rounds of embedding and head; empty: nothing. `source` must outlive it. ArgumentError
// as outer_type().
RowRounding outer_rounding(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options);
// Streams without states yet. scratch_folder: for the scratch files of their states; empty: they are held in memory.
RunStreams make_streams(const ModelSource& source, const Recipe& recipe, const RunTexts& texts,
                        const std::string& scratch_folder, const RowRounding& rounding = {});
// Sets all states to the embeddings of the texts.
void embed_texts(const RunTexts& texts, RunStreams& streams);

// The states that enter `layer`, which must be in memory, written to the journal in place of older ones.
void save_states(int64_t layer, const RunStreams& streams, Journal& journal);
// Takes those states back. FormatError when the journal holds others.
void restore_states(int64_t layer, const Journal& journal, RunStreams& streams);

// Says when states are worth saving, so that a resumed run need not compute all blocks again: every two minutes, and so
// rarely that writing takes less than a tenth of the time.
class SnapshotClock {
 public:
  // METAL_MARLIN_SNAPSHOT_SECONDS in the environment sets the interval; ArgumentError when it is no number of seconds.
  SnapshotClock();
  bool due() const;
  void saved(double seconds);  // now; it took so long

 private:
  double fixed_interval_ = -1;  // negative: there is none
  double last_;
  double cost_ = 0;
};

}  // namespace metal_marlin
