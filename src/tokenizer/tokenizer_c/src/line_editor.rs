//! Lines that a person types at a terminal: keys, earlier lines, pasted text.

use std::cell::Cell;
use std::ffi::{c_char, c_int};

use rustyline::completion::Completer;
use rustyline::config::{BellStyle, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Behavior, ColorMode, Context, Editor, Helper};

use crate::{guarded, text, Text};

/// Sees what the line holds after every key, since an interrupt does not tell.
struct Watcher {
    empty: Cell<bool>,
}

impl Hinter for Watcher {
    type Hint = String;
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.empty.set(line.is_empty());
        None
    }
}

impl Completer for Watcher {
    type Candidate = String;
}
impl Highlighter for Watcher {}
impl Validator for Watcher {}
impl Helper for Watcher {}

pub struct LineEditor(Editor<Watcher, MemHistory>);

/// As tokenizer_c.h names them.
const LINE: c_int = 1;
const END: c_int = 2;
const INTERRUPTED: c_int = 3;
const DROPPED: c_int = 4;

#[no_mangle]
pub extern "C" fn tokenizer_c_editor_create(most: usize) -> *mut LineEditor {
    guarded(std::ptr::null_mut(), || {
        let config = Config::builder()
            .max_history_size(most)?
            .history_ignore_dups(true)?
            .behavior(Behavior::PreferTerm)
            .bell_style(BellStyle::None)
            .color_mode(ColorMode::Disabled)
            .build();
        let history = MemHistory::with_config(&config);
        let mut editor = Editor::with_history(config, history)?;
        editor.set_helper(Some(Watcher { empty: Cell::new(true) }));
        Ok(Box::into_raw(Box::new(LineEditor(editor))))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_editor_free(editor: *mut LineEditor) {
    if !editor.is_null() {
        drop(Box::from_raw(editor));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_editor_remember(
    editor: *mut LineEditor,
    line: *const c_char,
    size: usize,
) -> c_int {
    guarded(-1, || {
        (*editor).0.add_history_entry(text(line, size)?)?;
        Ok(0)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_editor_read(
    editor: *mut LineEditor,
    prompt: *const c_char,
    size: usize,
    line: *mut Text,
) -> c_int {
    guarded(-1, || {
        let editor = &mut (*editor).0;
        if let Some(watcher) = editor.helper() {
            watcher.empty.set(true);
        }
        match editor.readline(text(prompt, size)?) {
            Ok(read) => {
                *line = Text::new(read);
                Ok(LINE)
            }
            Err(ReadlineError::Eof) => Ok(END),
            Err(ReadlineError::Interrupted) => {
                let empty = editor.helper().map_or(true, |watcher| watcher.empty.get());
                Ok(if empty { INTERRUPTED } else { DROPPED })
            }
            // The terminal is gone.
            Err(ReadlineError::Io(error)) if error.raw_os_error() == Some(libc::EIO) => Ok(END),
            Err(error) => Err(error.into()),
        }
    })
}
