//! The tokenizer's entries.

use std::ffi::{c_char, c_int};

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{PostProcessorWrapper, Tokenizer};

use crate::{bytes, guarded, text, Failure, Ids, Text};

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_create(json: *const c_char, size: usize) -> *mut Tokenizer {
    guarded(std::ptr::null_mut(), || {
        let mut tokenizer = Tokenizer::from_bytes(bytes(json, size))?;
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        Ok(Box::into_raw(Box::new(tokenizer)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_free(tokenizer: *mut Tokenizer) {
    guarded((), || {
        if !tokenizer.is_null() {
            drop(Box::from_raw(tokenizer));
        }
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_set_ends(
    tokenizer: *mut Tokenizer,
    bos: *const c_char,
    bos_size: usize,
    eos: *const c_char,
    eos_size: usize,
) -> c_int {
    guarded(-1, || {
        let tokenizer = &mut *tokenizer;
        let mut ends: Vec<(String, u32)> = Vec::new();
        let mut pieces: Vec<String> = Vec::new();
        let mut end = |data: *const c_char, size: usize, name: &str, pieces: &mut Vec<String>| -> Result<(), Failure> {
            if data.is_null() {
                return Ok(());
            }
            let token = text(data, size)?;
            let id = tokenizer.token_to_id(token).ok_or_else(|| format!("\"{token}\" is not in the vocabulary"))?;
            // Named by role: the template's own syntax would read a ':' or a '$' inside a token's text.
            ends.push((name.to_string(), id));
            pieces.push(name.to_string());
            Ok(())
        };
        end(bos, bos_size, "bos", &mut pieces)?;
        pieces.push("$A".to_string());
        end(eos, eos_size, "eos", &mut pieces)?;
        let processor = TemplateProcessing::builder().try_single(pieces)?.special_tokens(ends).build()?;
        tokenizer.with_post_processor(Some(PostProcessorWrapper::Template(processor)));
        Ok(0)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_has_post_processor(tokenizer: *const Tokenizer) -> c_int {
    guarded(-1, || Ok(c_int::from((*tokenizer).get_post_processor().is_some())))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_encode(
    tokenizer: *const Tokenizer,
    data: *const c_char,
    size: usize,
    add_special_tokens: c_int,
) -> Ids {
    guarded(Ids::NONE, || {
        let encoding = (*tokenizer).encode_fast(text(data, size)?, add_special_tokens != 0)?;
        Ok(Ids::new(encoding.get_ids().to_vec()))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    count: usize,
    skip_special_tokens: c_int,
) -> Text {
    guarded(Text::NONE, || {
        let ids = if ids.is_null() || count == 0 { &[][..] } else { std::slice::from_raw_parts(ids, count) };
        Ok(Text::new((*tokenizer).decode(ids, skip_special_tokens != 0)?))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_vocab_size(tokenizer: *const Tokenizer) -> i64 {
    guarded(-1, || Ok((*tokenizer).get_vocab_size(true) as i64))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_token_to_id(tokenizer: *const Tokenizer, token: *const c_char, size: usize) -> i64 {
    guarded(-2, || Ok((*tokenizer).token_to_id(text(token, size)?).map_or(-1, i64::from)))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_id_to_token(tokenizer: *const Tokenizer, id: u32) -> Text {
    guarded(Text::NONE, || {
        let token = (*tokenizer).id_to_token(id).ok_or_else(|| format!("there is no token {id}"))?;
        Ok(Text::new(token))
    })
}
