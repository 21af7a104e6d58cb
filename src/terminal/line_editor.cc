#include "terminal/line_editor.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "platform/terminal.h"
#include "tokenizer/tokenizer_c/tokenizer_c.h"

namespace metal_marlin {

struct LineEditor::Handle {
  explicit Handle(tokenizer_c_editor* e) : editor(e) {}
  ~Handle() { tokenizer_c_editor_free(editor); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  tokenizer_c_editor* editor;
};

LineEditor::LineEditor(size_t most) {
  tokenizer_c_editor* editor = tokenizer_c_editor_create(most);
  if (editor == nullptr) {
    throw SystemError(fmt::format("the terminal cannot be used: {}", tokenizer_c_last_error()));
  }
  handle_ = std::make_unique<Handle>(editor);
}

LineEditor::~LineEditor() = default;

LineEditor::Event LineEditor::read(const std::string& prompt, std::string& line) {
  tokenizer_c_text text{};
  int event = 0;
  {
    const TerminalKeeper keeper;
    event = tokenizer_c_editor_read(handle_->editor, prompt.data(), prompt.size(), &text);
  }
  switch (event) {
    case TOKENIZER_C_LINE:
      line.assign(text.data, text.size);
      tokenizer_c_text_free(text);
      return Event::kLine;
    case TOKENIZER_C_END:
      return Event::kEnd;
    case TOKENIZER_C_INTERRUPTED:
      return Event::kInterrupted;
    case TOKENIZER_C_DROPPED:
      return Event::kDropped;
    default:
      throw SystemError(fmt::format("the terminal cannot be read: {}", tokenizer_c_last_error()));
  }
}

void LineEditor::remember(const std::string& text) {
  static_cast<void>(tokenizer_c_editor_remember(handle_->editor, text.data(), text.size()));
}

}  // namespace metal_marlin
