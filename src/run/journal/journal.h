// What survives an interruption: OUT/.metal-marlin holds
//   run.json            the fingerprint of model, options, texts and version, and what they are
//   tokens.safetensors  the calibration and held-back tokens (text that the model made itself is costly)
//   block-00000.*       one file per finished block: its codes, scales, zeros and folded norms (.safetensors), its
//                       report (.json)
//   states-00007.safetensors  now and then the states that enter a block, so that a long run need not replay all blocks
//   result/, place.json the finished checkpoint on its way to its place (output_folder.h)
// Each file is written under a temporary name, flushed and renamed: a block counts as done when its .json is there.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "records/block_record.h"
#include "records/journal_records.h"
#include "stages/finished_block.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

class Folder;
class HeldFolder;

// Of each JSON file in a journal.
inline constexpr uint64_t kLargestJournalText = uint64_t{64} << 20;

class Journal {
 public:
  // The folder is made at the first write.
  explicit Journal(const std::string& output);
  ~Journal();

  const std::string& folder() const noexcept { return folder_; }
  // SystemError when something other than a folder has its name.
  bool exists() const;
  // Of run.json; nothing when there is none. FormatError when the file is damaged. Of an earlier version it is shorter.
  std::optional<std::string> fingerprint() const;
  // What run.json says of the run (run_identity.h); nothing where it does not. FormatError when it is damaged.
  std::optional<IdentityRecord> identity() const;
  // Where run.json is missing: the first file beside it that a run of quantize wrote, "block-00000.safetensors". Empty:
  // there is none, or run.json is there.
  std::string file_without_run() const;
  // Starts afresh: removes what is there. `fingerprint`: a digest's text (core/digest.h).
  void begin(const std::string& fingerprint);
  void begin(const std::string& fingerprint, const IdentityRecord& identity);
  // Goes on with the journal that is there. From now on, as after begin(), all that is written or read by paths in it
  // stays in this very folder: SystemError where another one takes its place.
  void resume();
  void remove();
  // The same for the output folder `output`. SystemError when the journal's folder holds a file that no run of ours
  // writes there: then nothing is removed.
  static void remove_from(const Folder& output);

  void write_tokens(const TokenSet& calibration, const TokenSet& held_back);
  bool read_tokens(TokenSet& calibration, TokenSet& held_back) const;  // false: none; any numbers may stand there
  std::string tokens_path() const;

  int64_t finished_blocks() const;  // 0 .. n-1 are done
  std::string block_path(int64_t layer, const char* ending) const;
  void write_block(int64_t layer, const FinishedBlock& block, const BlockRecord& record);
  FinishedBlock read_block(int64_t layer) const;  // as the file has it: check_finished() compares it with the model
  BlockRecord read_block_record(int64_t layer) const;  // FormatError where it is damaged

  // States that enter `layer`; older ones are removed.
  void write_states(int64_t layer, std::span<const TensorView> states);
  std::optional<int64_t> states_layer() const;
  std::vector<OwnedTensor> read_states(int64_t layer) const;

 private:
  RunNote read_run() const;  // run.json, checked; the fingerprint is a text
  void write_run(const RunNote& run);
  [[noreturn]] void fail_damaged(const std::string& what) const;  // of run.json
  std::string states_path(int64_t layer) const;
  std::string folder_;
  std::unique_ptr<HeldFolder> held_;
};

}  // namespace metal_marlin
