// Text to token ids and back, by the Hugging Face tokenizers library, with the special tokens and chat template that
// belong to the model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_files.h"

struct tokenizer_c;

namespace metal_marlin {

// Movable. All const members may be called from many threads at once.
class Tokenizer {
 public:
  // Throws FormatError. `file` opens the messages.
  static Tokenizer from_json(std::string_view tokenizer_json, const std::string& file);
  // The files make one tokenizer, as in transformers: to the vocabulary come the tokens of added_tokens_decoder in
  // tokenizer_config.json, of added_tokens.json, and the special tokens that tokenizer_config.json and
  // special_tokens_map.json name. FormatError where a new token cannot have the id that its file states; where a token
  // has another id in the vocabulary, that counts, with a warning.
  // Which special tokens encode() adds is decided as transformers does it: by the post-processor of tokenizer.json,
  // replaced where tokenizer_config.json states add_bos_token or add_eos_token.
  // `folder` opens the messages. `model_vocab`: rows of the model's embedding, 0: unknown; FormatError when a token has
  // an id beyond them.
  static Tokenizer from_files(const TokenizerFiles& files, const std::string& folder, int64_t model_vocab = 0);
  // Reads tokenizer.json, or tokenizer.model (SentencePiece) where there is none, and the files beside it.
  // Throws SystemError (neither is there), FormatError, UnsupportedError (a tokenizer.model of another kind).
  static Tokenizer from_folder(const std::string& folder, int64_t model_vocab = 0);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Special tokens that are written out in the text become their ids, as in transformers. Throws FormatError when the
  // text is not UTF-8, and when the tokenizer takes far more memory or time for it than any in use. About 0.5 s per
  // MiB.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;
  // Ids that no token has are left out; bytes that form no character come as U+FFFD. Throws ArgumentError for a
  // negative id.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // Where a text may be cut so that the ids of its parts are those of the whole: at a line feed between a visible ASCII
  // character and an ASCII letter, or nowhere that is known.
  enum class LineCut : uint8_t { kNowhere, kBehind, kBefore };
  LineCut line_cut() const;
  // The ids of a part of a text that does not begin it and was cut there.
  std::vector<int32_t> encode_rest(std::string_view part) const;

  int64_t vocab_size() const noexcept { return vocab_size_; }  // with added tokens
  std::optional<int32_t> token_to_id(std::string_view token) const;
  std::string id_to_token(int32_t id) const;  // as it stands in the vocabulary; ArgumentError: no such id

  // Absent where the settings name none, or one that is not in the vocabulary.
  std::optional<int32_t> bos_id() const noexcept { return bos_id_; }
  std::optional<int32_t> eos_id() const noexcept { return eos_id_; }
  // Every token that ends a generation: eos_id() and those of generation_config.json, each once.
  const std::vector<int32_t>& eos_ids() const noexcept { return eos_ids_; }
  const std::string& bos_token() const noexcept { return bos_token_; }  // empty: none
  const std::string& eos_token() const noexcept { return eos_token_; }
  const std::string& unk_token() const noexcept { return unk_token_; }
  const std::string& pad_token() const noexcept { return pad_token_; }
  // Whether encode(text, true) begins with bos_id(): found by encoding.
  bool adds_bos() const noexcept { return adds_bos_; }
  // Jinja source of the template named "default"; empty: there is none.
  const std::string& chat_template() const noexcept { return chat_template_; }
  // Where it stands, for messages: "FOLDER/chat_template.jinja", "FOLDER/tokenizer_config.json: chat_template", ...
  const std::string& chat_template_place() const noexcept { return chat_template_place_; }
  // What the files leave open or contradict each other in, one line each; a caller shows them once.
  const std::vector<std::string>& warnings() const noexcept { return warnings_; }

  // For the crate's other functions; lives as long as this.
  const ::tokenizer_c* handle() const noexcept;

 private:
  struct Handle;
  Tokenizer();
  void add_tokens(const TokenizerFiles& files, const std::string& folder, int64_t model_vocab);
  int64_t next_id() const;  // one more than the largest id
  void read_settings(const TokenizerFiles& files, const std::string& folder);

  std::unique_ptr<Handle> handle_;
  int64_t vocab_size_ = 0;
  std::optional<int32_t> bos_id_, eos_id_;
  std::vector<int32_t> eos_ids_;
  std::string bos_token_, eos_token_, unk_token_, pad_token_;
  bool adds_bos_ = false;
  std::string place_;  // opens messages: the file
  std::string chat_template_, chat_template_place_;
  std::vector<std::string> warnings_;
};

// Text of a growing sequence of tokens, piece by piece: the pieces joined are the decoded sequence. A character whose
// bytes are not complete yet is held back. The tokenizer must outlive it. Not for many threads at once.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // What became readable with this token; often empty.
  std::string push(int32_t id);
  // What is still held back, incomplete characters as U+FFFD.
  std::string finish();

 private:
  std::string take(bool whole);

  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  // ids_[0, read_) have been handed out and stay as context: decoders treat the first token unlike the others.
  std::vector<int32_t> ids_;
  size_t read_ = 0;
};

}  // namespace metal_marlin
