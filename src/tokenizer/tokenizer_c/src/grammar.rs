//! Grammars of JSON schemas: which tokens may follow, by llguidance over the bytes of the tokenizer's tokens.

use std::collections::{HashMap, HashSet};
use std::ffi::{c_char, c_int};
use std::sync::Arc;

use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;
use tokenizers::{DecoderWrapper, Model};

use crate::border::{bytes, guarded, within};
use crate::budget::{on_a_thread, Limits, GAVE_UP};
use crate::encode::Tokenizer;
use crate::faults::Failure;
use crate::library::Library;

/// A schema of the size that is accepted takes a few MiB and far less than a second, a step less than 20 ms.
fn limits(schema: usize, vocabulary: usize) -> Limits {
    Limits {
        live: (256 << 20) + 16 * schema + 256 * vocabulary,
        total: (4 << 30) + 4000 * (schema + vocabulary) as u64,
        seconds: 5.0 + 1e-5 * (schema + vocabulary) as f64,
    }
}

/// A schema is walked recursively, as deep as its references go.
const STACK: usize = 256 << 20;

/// Each takes 1 to 2 kB. A text keeps its own.
const LEXER_STATES: usize = 100_000;

/// The trie of tokens has no room for longer ones.
const LONGEST_TOKEN: usize = 1000;

/// Between the parts of a value: a model that prefers white space to an answer comes to an end of it.
const WHITE_SPACE: &str = r"\x20|\r?\n[\x20\t]{0,40}";

/// What the tokens of a grammar stand for, made once per tokenizer and vocabulary. Token `rows` is the end.
pub struct Vocabulary {
    factory: Arc<ParserFactory>,
    rows: usize,
}

pub struct Grammar {
    matcher: Matcher,
    rows: usize,
}

/// How a token's name stands for bytes.
#[derive(Clone, Copy, Default)]
struct Names {
    byte_level: bool,
    byte_fallback: bool,
    space: Option<char>,
}

impl Names {
    fn of(decoder: Option<&DecoderWrapper>) -> Result<Names, Failure> {
        let mut names = Names::default();
        // Without a decoder the library puts a space between the tokens of a text.
        names.add(decoder.ok_or("the tokenizer has no decoder, so the bytes of its tokens are not known")?)?;
        Ok(names)
    }

    fn add(&mut self, decoder: &DecoderWrapper) -> Result<(), Failure> {
        match decoder {
            DecoderWrapper::ByteLevel(_) => self.byte_level = true,
            DecoderWrapper::ByteFallback(_) => self.byte_fallback = true,
            DecoderWrapper::Metaspace(metaspace) => self.space = Some(metaspace.get_replacement()),
            DecoderWrapper::Replace(replace) => {
                // The library keeps the pattern to itself, but writes it.
                let written = serde_json::to_value(replace)?;
                let mut pattern = written["pattern"]["String"].as_str().unwrap_or("").chars();
                match (pattern.next(), pattern.next(), replace.content.as_str()) {
                    (Some(only), None, " ") => self.space = Some(only),
                    _ => return Err("the tokenizer's decoder replaces something else than the sign for a space".into()),
                }
            }
            DecoderWrapper::Sequence(steps) => {
                for step in steps.get_decoders() {
                    self.add(step)?;
                }
            }
            // They change the beginning of a text alone, which is the prompt's.
            DecoderWrapper::Fuse(_) | DecoderWrapper::Strip(_) => {}
            DecoderWrapper::BPE(_) | DecoderWrapper::WordPiece(_) | DecoderWrapper::CTC(_) => {
                return Err("the tokenizer's decoder (BPEDecoder, WordPiece, CTC) makes bytes that depend on the tokens \
                            around"
                    .into());
            }
        }
        Ok(())
    }

    fn bytes(&self, name: &str, alphabet: &HashMap<char, u8>) -> Vec<u8> {
        if self.byte_level {
            // A name with another character was never made from bytes: an added token, which is its own text.
            return match name.chars().map(|c| alphabet.get(&c).copied()).collect::<Option<Vec<u8>>>() {
                Some(bytes) => bytes,
                None => name.as_bytes().to_vec(),
            };
        }
        if self.byte_fallback && name.len() == 6 && name.starts_with("<0x") && name.ends_with('>') {
            if let Some(Ok(byte)) = name.get(3..5).map(|digits| u8::from_str_radix(digits, 16)) {
                return vec![byte];
            }
        }
        match self.space {
            Some(space) => name.replace(space, " ").into_bytes(),
            None => name.as_bytes().to_vec(),
        }
    }
}

/// The characters that stand for bytes in the names of byte-level tokens: GPT-2's bytes_to_unicode.
fn byte_alphabet() -> HashMap<char, u8> {
    let shown = |c: char| matches!(c, '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}');
    let mut next = 0x100u32;
    (0..=255u8)
        .map(|byte| {
            let c = byte as char;
            if shown(c) {
                return (c, byte);
            }
            let stand_in = char::from_u32(next).unwrap_or(c);
            next += 1;
            (stand_in, byte)
        })
        .collect()
}

/// The name of a token that no text of a grammar has.
fn outside(id: usize) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], format!("<[{id}]>").as_bytes()].concat()
}

/// The bytes of each token; of those that end a text, that print nothing or that stand for marks of a conversation:
/// outside().
fn words(library: &Library, rows: usize, ends: &[u32]) -> Result<Vec<Vec<u8>>, Failure> {
    let names = Names::of(library.get_decoder())?;
    let alphabet = byte_alphabet();
    let added = library.get_added_tokens_decoder();
    let ends: HashSet<u32> = ends.iter().copied().collect();
    let word = |id: usize| {
        let id = id as u32;
        if ends.contains(&id) {
            return None;
        }
        let name = match added.get(&id) {
            Some(token) if token.special => return None,
            Some(token) => token.content.clone(),
            None => library.get_model().id_to_token(id)?,
        };
        let word = names.bytes(&name, &alphabet);
        let mark = added.contains_key(&id) && name.starts_with('<') && name.ends_with('>');
        if word.is_empty() || word.len() > LONGEST_TOKEN || (mark && word == name.as_bytes()) {
            return None;
        }
        Some(word)
    };
    Ok((0..rows).map(|id| word(id).unwrap_or_else(|| outside(id))).collect())
}

fn vocabulary(mut words: Vec<Vec<u8>>) -> Result<Vocabulary, Failure> {
    let rows = words.len();
    words.push(outside(rows));
    let trie = TokTrie::from(&TokRxInfo::new(rows as u32 + 1, rows as u32), &words);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory =
        ParserFactory::new(&env, InferenceCapabilities::default(), &SlicedBiasComputer::json_slices()).map_err(said)?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.verbose_errors = false;
    limits.max_lexer_states = LEXER_STATES;
    Ok(Vocabulary { factory: Arc::new(factory), rows })
}

/// The library's message without the state that follows it, in one line.
fn said(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    let end = ["<non-verbose/>", "<state>", "<backtrace>"].iter().filter_map(|mark| text.find(mark)).min();
    let text = &text[..end.unwrap_or(text.len())];
    if text.contains("coerce_one_of") {
        return "oneOf is supported only where its options exclude each other; write anyOf".to_string();
    }
    // The library cuts what it wants to show, and finds that it cut a character.
    if text.contains("not a char boundary") {
        return "a keyword has a value of a type that it cannot have".to_string();
    }
    if text.contains("panic: ") {
        return GAVE_UP.to_string();
    }
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

fn grammar(factory: &ParserFactory, rows: usize, schema: &[u8]) -> Result<Grammar, Failure> {
    let mut schema = match serde_json::from_slice(schema)? {
        Value::Bool(true) => Value::Object(Default::default()),
        Value::Bool(false) => return Err("no value fits: the schema is false".into()),
        other => other,
    };
    let Some(keys) = schema.as_object_mut() else { return Err("expected an object".into()) };
    // A schema's own wishes for the library: with some of them it would let pass what does not fit.
    keys.shift_remove("x-guidance");
    JsonCompileOptions { whitespace_pattern: Some(WHITE_SPACE.to_string()), ..Default::default() }
        .apply_to(&mut schema);
    let parser = factory.create_parser(TopLevelGrammar::from_json_schema(schema)).map_err(said)?;
    let mut matcher = Matcher::new(Ok(parser));
    if let Some(warning) = matcher.grammar_warnings().first() {
        return Err(said(warning).into());
    }
    // The first mask shows what cannot be done with this schema at all.
    step(&mut matcher, |m| m.compute_mask_or_eos()).map_err(|error| match error.to_string().as_str() {
        NO_TOKEN => "no value fits, or the vocabulary has no token to begin one".into(),
        _ => error,
    })?;
    Ok(Grammar { matcher, rows })
}

const NO_TOKEN: &str = "no token of the vocabulary continues the value";

fn step<T, E: std::fmt::Display>(
    matcher: &mut Matcher,
    take: impl FnOnce(&mut Matcher) -> Result<T, E>,
) -> Result<T, Failure> {
    take(matcher).map_err(|error| {
        if matcher.stop_reason() == StopReason::NoExtensionBias || error.to_string().starts_with("NoExtensionBias") {
            return NO_TOKEN.into();
        }
        said(error).into()
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_vocabulary_create(
    tokenizer: *const Tokenizer,
    rows: usize,
    ends: *const u32,
    count: usize,
) -> *mut Vocabulary {
    within(Some(&limits(0, rows)), std::ptr::null_mut(), || {
        if rows >= u32::MAX as usize {
            return Err(format!("a vocabulary of {rows} tokens is too large").into());
        }
        let ends = if ends.is_null() || count == 0 { &[][..] } else { std::slice::from_raw_parts(ends, count) };
        let words = match tokenizer.as_ref() {
            Some(tokenizer) => words(tokenizer.library()?, rows, ends)?,
            None => (0..=255u8).map(|byte| vec![byte]).collect(),
        };
        Ok(Box::into_raw(Box::new(vocabulary(words)?)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_vocabulary_free(vocabulary: *mut Vocabulary) {
    guarded((), || {
        if !vocabulary.is_null() {
            drop(Box::from_raw(vocabulary));
        }
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_grammar_create(
    vocabulary: *const Vocabulary,
    schema: *const c_char,
    size: usize,
) -> *mut Grammar {
    guarded(std::ptr::null_mut(), || {
        let schema = bytes(schema, size).to_vec();
        let rows = (*vocabulary).rows;
        let factory = (*vocabulary).factory.clone();
        let made = on_a_thread(limits(size, rows), STACK, move || grammar(&factory, rows, &schema))?;
        Ok(Box::into_raw(Box::new(made)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_grammar_copy(grammar: *const Grammar) -> *mut Grammar {
    within(Some(&limits(0, (*grammar).rows)), std::ptr::null_mut(), || {
        let Grammar { matcher, rows } = &*grammar;
        Ok(Box::into_raw(Box::new(Grammar { matcher: matcher.deep_clone(), rows: *rows })))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_grammar_free(grammar: *mut Grammar) {
    guarded((), || {
        if !grammar.is_null() {
            drop(Box::from_raw(grammar));
        }
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_grammar_mask(grammar: *mut Grammar, bits: *mut u32, count: usize) -> c_int {
    let Grammar { matcher, rows } = &mut *grammar;
    within(Some(&limits(0, *rows)), -1, || {
        if count != rows.div_ceil(32) {
            return Err(format!("a mask of {count} words for {rows} tokens").into());
        }
        let mask = step(matcher, |m| m.compute_mask_or_eos())?;
        let bits = std::slice::from_raw_parts_mut(bits, count);
        for (word, allowed) in bits.iter_mut().zip(mask.as_slice().iter().copied().chain(std::iter::repeat(0))) {
            *word = allowed;
        }
        if *rows % 32 != 0 {
            bits[count - 1] &= (1 << (*rows % 32)) - 1;
        }
        Ok(c_int::from(mask.is_allowed(*rows as u32)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_grammar_take(grammar: *mut Grammar, token: u32) -> c_int {
    let Grammar { matcher, rows } = &mut *grammar;
    within(Some(&limits(0, *rows)), -1, || {
        step(matcher, |m| m.consume_token(token))?;
        Ok(c_int::from(matcher.is_stopped()))
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_grammar_fitting(
    grammar: *mut Grammar,
    tokens: *const u32,
    count: usize,
) -> i64 {
    let Grammar { matcher, rows } = &mut *grammar;
    within(Some(&limits(count, *rows)), -1, || {
        let tokens = if tokens.is_null() || count == 0 { &[][..] } else { std::slice::from_raw_parts(tokens, count) };
        if matcher.is_stopped() {
            return Ok(0);
        }
        Ok(step(matcher, |m| m.validate_tokens(tokens))? as i64)
    })
}

#[no_mangle]
pub unsafe extern "C" fn tokenizer_c_grammar_may_end(grammar: *mut Grammar) -> c_int {
    let Grammar { matcher, rows } = &mut *grammar;
    within(Some(&limits(0, *rows)), -1, || {
        Ok(c_int::from(matcher.is_stopped() || step(matcher, |m| m.is_accepting())?))
    })
}
