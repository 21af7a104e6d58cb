//! The tokenizer's entries.

use std::ffi::{c_char, c_int};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper, PostProcessorWrapper};

use crate::border::{bytes, guarded, text, Ids, Text};
use crate::budget::{bounded, on_a_thread, processor_seconds, Limits};
use crate::faults::Failure;
use crate::library::{limits, load_limits, Library, SECONDS, SECONDS_PER_BYTE};
use crate::line_cut::line_cut;
use crate::stated::{check_added, Stated};

/// Shared with threads whose caller did not wait for them.
pub struct Tokenizer {
    library: Option<Arc<Library>>,
    decodes_by_regex: bool,
    /// By all calls so far: bytes of text, and nanoseconds of the processor.
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Tokenizer {
    fn shared(&self) -> Result<&Arc<Library>, Failure> {
        self.library.as_ref().ok_or_else(|| "an earlier call that failed has left no tokenizer".into())
    }

    pub fn library(&self) -> Result<&Library, Failure> {
        self.shared().map(|library| library.as_ref())
    }

    /// Where the caller fails to give it back, the tokenizer is of no more use.
    fn take(&mut self) -> Result<Library, Failure> {
        let library = self.library.take().and_then(Arc::into_inner);
        library.ok_or_else(|| "an earlier call still uses the tokenizer".into())
    }

    /// Of a call with `size` bytes. What earlier calls left of the time of their bytes does not end a later one, but
    /// many slow calls do.
    fn limits(&self, size: usize) -> Limits {
        const CALL: u64 = 64; // bytes that take as long as what is the same for all calls
        let bytes = self.bytes.fetch_add(size as u64 + CALL, Ordering::Relaxed) + size as u64 + CALL;
        let spent = self.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9;
        let limits = limits(size);
        let left = 2.0 * SECONDS + SECONDS_PER_BYTE * bytes as f64 - spent;
        Limits { seconds: limits.seconds.min(left.max(0.01)), ..limits }
    }

    fn spend(&self, seconds: f64) {
        self.nanoseconds.fetch_add((seconds * 1e9) as u64, Ordering::Relaxed);
    }

    /// Runs `body` within the limits for `size` bytes, here where it is short.
    fn run<T: Send + 'static>(
        &self,
        size: usize,
        short: bool,
        body: impl FnOnce(&Library) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let limits = self.limits(size);
        let library = self.shared()?.clone();
        if short {
            let before = processor_seconds();
            let result = bounded(Some(&limits), || body(&library));
            self.spend(processor_seconds() - before);
            return result;
        }
        let result = on_a_thread(limits, STACK, move || Ok((body(&library)?, processor_seconds())));
        self.spend(result.as_ref().map_or(limits.seconds, |(_, seconds)| *seconds));
        result.map(|(value, _)| value)
    }
}

/// Without merges no token of several characters is ever made: every text would become single characters.
fn check_merges(library: &Library) -> Result<(), Failure> {
    let ModelWrapper::BPE(bpe) = &library.get_model().library else { return Ok(()) };
    if library.get_model().merges > 0 {
        return Ok(());
    }
    let added = library.get_added_vocabulary().get_vocab();
    let prefix = bpe.continuing_subword_prefix.as_deref().unwrap_or_default();
    let suffix = bpe.end_of_word_suffix.as_deref().unwrap_or_default();
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

/// Shorter texts are encoded without a thread of their own: a single match that takes long on so few bytes ends by
/// itself.
const SHORT: usize = 1024;
const STACK: usize = 16 << 20;

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_create(json: *const c_char, size: usize) -> *mut Tokenizer {
    guarded(std::ptr::null_mut(), || {
        let json = bytes(json, size).to_vec();
        let (library, decodes_by_regex) = on_a_thread(load_limits(size), STACK, move || {
            let stated = Stated::new(&json)?;
            let mut library = Library::from_bytes(&json)?;
            check_merges(&library)?;
            library.with_truncation(None)?;
            library.with_padding(None);
            Ok((library, stated.decodes_by_regex))
        })?;
        Ok(Box::into_raw(Box::new(Tokenizer {
            library: Some(Arc::new(library)),
            decodes_by_regex,
            bytes: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
        })))
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
        let owner = &mut *tokenizer;
        let tokenizer = owner.library()?;
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
        let mut library = owner.take()?;
        library.with_post_processor(Some(PostProcessorWrapper::Template(processor)));
        owner.library = Some(Arc::new(library));
        Ok(0)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_has_post_processor(tokenizer: *const Tokenizer) -> c_int {
    guarded(-1, || Ok(c_int::from((*tokenizer).library()?.get_post_processor().is_some())))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_encode(
    tokenizer: *const Tokenizer,
    data: *const c_char,
    size: usize,
    add_special_tokens: c_int,
) -> Ids {
    let special = add_special_tokens != 0;
    guarded(Ids::NONE, || {
        let text = text(data, size)?.to_string();
        let encode = move |library: &Library| Ok(library.encode_fast(text.as_str(), special)?.get_ids().to_vec());
        (*tokenizer).run(size, size <= SHORT, encode).map(Ids::new)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    count: usize,
    skip_special_tokens: c_int,
) -> Text {
    let skip = skip_special_tokens != 0;
    guarded(Text::NONE, || {
        let ids = if ids.is_null() || count == 0 { &[][..] } else { std::slice::from_raw_parts(ids, count) }.to_vec();
        let here = !(*tokenizer).decodes_by_regex;
        (*tokenizer).run(16 * count, here, move |library| Ok(library.decode(&ids, skip)?)).map(Text::new)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_vocab_size(tokenizer: *const Tokenizer) -> i64 {
    guarded(-1, || Ok((*tokenizer).library()?.get_vocab_size(true) as i64))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_line_cut(tokenizer: *const Tokenizer, json: *const c_char, size: usize) -> c_int {
    guarded(-1, || Ok(line_cut((*tokenizer).library()?, &serde_json::from_slice(bytes(json, size))?) as c_int))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_last_id(tokenizer: *const Tokenizer) -> i64 {
    guarded(-1, || {
        let library = (*tokenizer).library()?;
        let added = library.get_added_vocabulary().get_vocab().values().copied().max();
        let last = library.get_model().last_id.max(added);
        last.map(i64::from).ok_or_else(|| "the tokenizer has no tokens".into())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_add_tokens(tokenizer: *mut Tokenizer, json: *const c_char, size: usize) -> c_int {
    guarded(-1, || {
        let tokens: Vec<AddedToken> = serde_json::from_slice(bytes(json, size))?;
        tokens.iter().try_for_each(|token| check_added(token.content.len()))?;
        let mut library = (*tokenizer).take()?;
        let library = on_a_thread(load_limits(size), STACK, move || {
            library.add_tokens(tokens)?;
            Ok(library)
        })?;
        (*tokenizer).library = Some(Arc::new(library));
        Ok(0)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_token_to_id(tokenizer: *const Tokenizer, token: *const c_char, size: usize) -> i64 {
    guarded(-2, || Ok((*tokenizer).library()?.token_to_id(text(token, size)?).map_or(-1, i64::from)))
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_id_to_token(tokenizer: *const Tokenizer, id: u32) -> Text {
    guarded(Text::NONE, || {
        let token = (*tokenizer).library()?.id_to_token(id).ok_or_else(|| format!("there is no token {id}"))?;
        Ok(Text::new(token))
    })
}
