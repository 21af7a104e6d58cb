//! What passes between C and the crate: texts, ids, and the last error.

use std::cell::RefCell;
use std::ffi::{c_char, CString};

use crate::budget::{bounded, Limits};
use crate::faults::Failure;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::new(CString::default());
}

fn remember(message: &str) {
    let text: String = message.chars().map(|c| if c == '\0' { '?' } else { c }).collect();
    LAST_ERROR.with(|last| *last.borrow_mut() = CString::new(text).unwrap_or_default());
}

/// Runs `body`; an error, a panic or the end of memory is remembered and becomes `failed`.
pub fn guarded<T>(failed: T, body: impl FnOnce() -> Result<T, Failure>) -> T {
    within(None, failed, body)
}

/// The same within limits.
pub fn within<T>(limits: Option<&Limits>, failed: T, body: impl FnOnce() -> Result<T, Failure>) -> T {
    match bounded(limits, body) {
        Ok(value) => value,
        Err(error) => {
            remember(&error.to_string());
            failed
        }
    }
}

#[repr(C)]
pub struct Text {
    data: *mut c_char,
    size: usize,
}

impl Text {
    pub const NONE: Text = Text { data: std::ptr::null_mut(), size: 0 };

    pub fn new(text: String) -> Text {
        let bytes = text.into_bytes().into_boxed_slice();
        let size = bytes.len();
        Text { data: Box::into_raw(bytes) as *mut c_char, size }
    }
}

#[repr(C)]
pub struct Ids {
    data: *mut u32,
    size: usize,
}

impl Ids {
    pub const NONE: Ids = Ids { data: std::ptr::null_mut(), size: 0 };

    pub fn new(ids: Vec<u32>) -> Ids {
        let ids = ids.into_boxed_slice();
        let size = ids.len();
        Ids { data: Box::into_raw(ids) as *mut u32, size }
    }
}

pub unsafe fn bytes<'a>(data: *const c_char, size: usize) -> &'a [u8] {
    if data.is_null() || size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data as *const u8, size)
    }
}

pub unsafe fn text<'a>(data: *const c_char, size: usize) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes(data, size)).map_err(|e| format!("not UTF-8 after byte {}", e.valid_up_to()).into())
}

#[no_mangle]
pub extern "C" fn tokenizer_c_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr())
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_ids_free(ids: Ids) {
    if !ids.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(ids.data, ids.size)));
    }
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_text_free(text: Text) {
    if !text.data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(text.data as *mut u8, text.size)));
    }
}
