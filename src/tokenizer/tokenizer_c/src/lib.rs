//! C interface to the Hugging Face tokenizer, to Jinja chat templates, to grammars of JSON schemas and to an editor of
//! lines on a terminal; tokenizer_c.h is the contract.

#![feature(alloc_error_hook)]

mod border;
mod budget;
mod builtins;
mod checked;
mod encode;
mod faults;
mod filters;
mod given;
mod grammar;
mod jinja;
mod library;
mod line_cut;
mod line_editor;
mod methods;
mod model;
mod names;
mod numbers;
mod operators;
mod page;
mod printf;
mod python;
mod rewrite;
mod sorting;
mod stated;
mod template;
mod values;

use std::ffi::{c_char, c_int};

use border::{guarded, text, Text};

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_render(
    source: *const c_char,
    source_size: usize,
    context: *const c_char,
    context_size: usize,
    now: i64,
) -> Text {
    guarded(Text::NONE, || {
        template::render(text(source, source_size)?, text(context, context_size)?, now).map(Text::new)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_check_template(source: *const c_char, size: usize) -> c_int {
    guarded(-1, || template::check(text(source, size)?).map(|()| 0))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_render_page(
    source: *const c_char,
    source_size: usize,
    context: *const c_char,
    context_size: usize,
) -> Text {
    guarded(Text::NONE, || {
        page::render(text(source, source_size)?, text(context, context_size)?).map(Text::new)
    })
}

#[no_mangle]
pub extern "C" fn tokenizer_c_set_stop(asked: Option<extern "C" fn() -> c_int>) {
    budget::set_stop(asked);
}
