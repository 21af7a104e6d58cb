//! The tokenizer's entries.

use std::ffi::{c_char, c_int};
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::Deserialize;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, DecoderWrapper, Model, ModelWrapper, PostProcessorWrapper, TokenizerImpl};

use crate::budget::{on_a_thread, Limits};
use crate::checked::{Cut, Norm};
use crate::line_cut::line_cut;
use crate::{bytes, guarded, text, within, Failure, Ids, Text};

pub type Library = TokenizerImpl<ModelWrapper, Norm, Cut, PostProcessorWrapper, DecoderWrapper>;

/// Shared with threads whose caller did not wait for them.
pub struct Tokenizer(Arc<Library>);

impl Tokenizer {
    pub fn library(&self) -> &Library {
        &self.0
    }

    fn change(&mut self) -> Result<&mut Library, Failure> {
        Arc::get_mut(&mut self.0).ok_or_else(|| "an earlier call still uses the tokenizer".into())
    }
}

/// Of a text of `size` bytes. The library takes 130 bytes and 0.5 us for each byte of prose, and less than twice that
/// for any text with the tokenizers in use; sanitizers and a busy machine take ten times that.
fn limits(size: usize) -> Limits {
    Limits { live: (64 << 20) + 400 * size, total: (1 << 30) + 4000 * size as u64, seconds: 1.0 + 1.5e-5 * size as f64 }
}

#[derive(Deserialize)]
struct File {
    model: BpeModel,
}
#[derive(Deserialize)]
struct BpeModel {
    merges: Option<Vec<IgnoredAny>>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

/// Without merges no token of several characters is ever made: every text would become single characters.
fn check_merges(library: &Library, json: &[u8]) -> Result<(), Failure> {
    let ModelWrapper::BPE(bpe) = library.get_model() else { return Ok(()) };
    let stated = serde_json::from_slice::<File>(json)?.model;
    if stated.merges.is_some_and(|list| !list.is_empty()) {
        return Ok(());
    }
    let added = library.get_added_vocabulary().get_vocab();
    let prefix = stated.continuing_subword_prefix.as_deref().unwrap_or_default();
    let suffix = stated.end_of_word_suffix.as_deref().unwrap_or_default();
    let long = |token: &str| {
        // Special tokens and <0xXX> are made otherwise.
        let marked =
            (token.starts_with('<') && token.ends_with('>')) || (token.starts_with('[') && token.ends_with(']'));
        let bare = token.strip_prefix(prefix).unwrap_or(token);
        !marked && !added.contains_key(token) && bare.strip_suffix(suffix).unwrap_or(bare).chars().nth(1).is_some()
    };
    match bpe.get_vocab().into_iter().filter(|(token, _)| long(token)).min_by_key(|(_, id)| *id) {
        None => Ok(()),
        Some((token, id)) => Err(format!(
            "model.merges is empty, but the vocabulary holds tokens of several characters, the first: {token:?} (id \
             {id}), and no text would ever be cut into them"
        )
        .into()),
    }
}

/// Shorter texts are encoded without a thread of their own: a pattern that takes long on so few bytes ends by itself.
const SHORT: usize = 4096;
const STACK: usize = 16 << 20;

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_create(json: *const c_char, size: usize) -> *mut Tokenizer {
    guarded(std::ptr::null_mut(), || {
        let json = bytes(json, size);
        let mut library = Library::from_bytes(json)?;
        check_merges(&library, json)?;
        library.with_truncation(None)?;
        library.with_padding(None);
        Ok(Box::into_raw(Box::new(Tokenizer(Arc::new(library)))))
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
        let tokenizer = (*tokenizer).change()?;
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
    guarded(-1, || Ok(c_int::from((*tokenizer).0.get_post_processor().is_some())))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_encode(
    tokenizer: *const Tokenizer,
    data: *const c_char,
    size: usize,
    add_special_tokens: c_int,
) -> Ids {
    let special = add_special_tokens != 0;
    if size <= SHORT {
        return within(Some(&limits(size)), Ids::NONE, || {
            let encoding = (*tokenizer).0.encode_fast(text(data, size)?, special)?;
            Ok(Ids::new(encoding.get_ids().to_vec()))
        });
    }
    guarded(Ids::NONE, || {
        let library = (*tokenizer).0.clone();
        let text = text(data, size)?.to_string();
        let ids = on_a_thread(limits(size), STACK, move || {
            Ok(library.encode_fast(text.as_str(), special)?.get_ids().to_vec())
        })?;
        Ok(Ids::new(ids))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    count: usize,
    skip_special_tokens: c_int,
) -> Text {
    within(Some(&limits(16 * count)), Text::NONE, || {
        let ids = if ids.is_null() || count == 0 { &[][..] } else { std::slice::from_raw_parts(ids, count) };
        Ok(Text::new((*tokenizer).0.decode(ids, skip_special_tokens != 0)?))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_vocab_size(tokenizer: *const Tokenizer) -> i64 {
    guarded(-1, || Ok((*tokenizer).0.get_vocab_size(true) as i64))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_line_cut(tokenizer: *const Tokenizer, json: *const c_char, size: usize) -> c_int {
    guarded(-1, || Ok(line_cut(&(*tokenizer).0, &serde_json::from_slice(bytes(json, size))?) as c_int))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_last_id(tokenizer: *const Tokenizer) -> i64 {
    guarded(-1, || {
        let library = &(*tokenizer).0;
        let added = library.get_added_vocabulary().get_vocab().values().copied().max();
        let last = library.get_model().get_vocab().into_values().max().max(added);
        last.map(i64::from).ok_or_else(|| "the tokenizer has no tokens".into())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_add_tokens(tokenizer: *mut Tokenizer, json: *const c_char, size: usize) -> c_int {
    guarded(-1, || {
        let tokens: Vec<AddedToken> = serde_json::from_slice(bytes(json, size))?;
        (*tokenizer).change()?.add_tokens(tokens)?;
        Ok(0)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_token_to_id(tokenizer: *const Tokenizer, token: *const c_char, size: usize) -> i64 {
    guarded(-2, || Ok((*tokenizer).0.token_to_id(text(token, size)?).map_or(-1, i64::from)))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_id_to_token(tokenizer: *const Tokenizer, id: u32) -> Text {
    guarded(Text::NONE, || {
        let token = (*tokenizer).0.id_to_token(id).ok_or_else(|| format!("there is no token {id}"))?;
        Ok(Text::new(token))
    })
}
