//! What a tokenizer.json states that the library takes without a bound, checked before the library sees it.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::Deserialize;
use serde_json::Value;

use crate::budget::held;
use crate::faults::Failure;

/// Most patterns, the longest one and all of them in bytes. Tokenizers in use have some twenty, of 500 bytes at most.
const MOST_PATTERNS: usize = 256;
const LONGEST_PATTERN: usize = 32 << 10;
const ALL_PATTERNS: usize = 128 << 10;
/// Bytes that all patterns take once compiled. The patterns of GPT-4, Llama 3, Qwen and DeepSeek take less than 2 MB.
const COMPILED: isize = 24 << 20;
/// Characters that a decoder strips at one end, and bytes of a prefix or suffix of tokens.
const MOST_STRIPPED: u64 = 1000;
const LONGEST_AFFIX: usize = 256;
/// Bytes of an added token, for which the library takes a hundred times its size.
const LONGEST_ADDED: usize = 32 << 10;

pub fn check_added(bytes: usize) -> Result<(), Failure> {
    if bytes > LONGEST_ADDED {
        return Err(format!("added_tokens: expected tokens of at most {LONGEST_ADDED} bytes, found {bytes}").into());
    }
    Ok(())
}

#[derive(Deserialize)]
struct Added {
    content: String,
}

#[derive(Default)]
pub struct Stated {
    patterns: usize,
    bytes: usize,
    compiled: isize,
    /// Whether the decoder matches regular expressions.
    pub decodes_by_regex: bool,
}

/// An object's members of the names wanted; a name that comes twice counts twice.
struct Members<'a>(&'a [&'a str]);

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "model" && self.0.contains(&"model") {
                let affixes = map.next_value::<Affixes>()?;
                found.extend(affixes.0);
            } else if name == "added_tokens" && self.0.contains(&"model") {
                for token in map.next_value::<Vec<Added>>()? {
                    check_added(token.content.len()).map_err(serde::de::Error::custom)?;
                }
            } else if self.0.contains(&name.as_str()) {
                found.push((name, map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

struct Affixes(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Affixes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Members(&["continuing_subword_prefix", "end_of_word_suffix"])).map(Affixes)
    }
}

impl Stated {
    /// JSON that is not valid is left to the library's message.
    pub fn new(json: &[u8]) -> Result<Stated, Failure> {
        let mut stated = Stated::default();
        let mut reader = serde_json::Deserializer::from_slice(json);
        let members = match reader.deserialize_map(Members(&["normalizer", "pre_tokenizer", "decoder", "model"])) {
            Ok(members) => members,
            Err(error) if error.to_string().starts_with("added_tokens: ") => return Err(error.into()),
            Err(_) => return Ok(stated),
        };
        for (name, value) in members {
            match &value {
                Value::String(affix) if affix.len() > LONGEST_AFFIX => {
                    return Err(format!(
                        "model.{name}: expected at most {LONGEST_AFFIX} bytes, found {}",
                        affix.len()
                    )
                    .into());
                }
                _ => stated.part(&name, &value)?,
            }
        }
        Ok(stated)
    }

    fn part(&mut self, place: &str, value: &Value) -> Result<(), Failure> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.part(place, item)),
            Value::Object(members) => {
                if let Some(Value::Object(pattern)) = members.get("pattern") {
                    for (kind, text) in pattern {
                        let Some(text) = text.as_str() else { continue };
                        self.pattern(place, kind == "Regex", text)?;
                    }
                }
                if place == "decoder" {
                    for end in ["start", "stop"] {
                        match members.get(end).and_then(Value::as_u64) {
                            Some(count) if count > MOST_STRIPPED => {
                                return Err(format!(
                                    "decoder: Strip: {end}: expected at most {MOST_STRIPPED} characters, found {count}"
                                )
                                .into());
                            }
                            _ => {}
                        }
                    }
                }
                members.values().try_for_each(|member| self.part(place, member))
            }
            _ => Ok(()),
        }
    }

    fn pattern(&mut self, place: &str, is_regex: bool, text: &str) -> Result<(), Failure> {
        let too_much = |what: &str, most: usize, found: usize| -> Result<(), Failure> {
            Err(format!("{place}: expected {what} of at most {most} bytes, found {found}").into())
        };
        if place == "normalizer" && text.is_empty() {
            return Err("normalizer: Replace: the pattern is empty".into());
        }
        if text.len() > LONGEST_PATTERN {
            return too_much("a pattern", LONGEST_PATTERN, text.len());
        }
        self.bytes += text.len();
        if self.bytes > ALL_PATTERNS {
            return too_much("patterns that together are", ALL_PATTERNS, self.bytes);
        }
        self.decodes_by_regex |= is_regex && place == "decoder";
        if !is_regex {
            return Ok(());
        }
        self.patterns += 1;
        if self.patterns > MOST_PATTERNS {
            return Err(format!("{place}: more than the limit of {MOST_PATTERNS} regular expressions").into());
        }
        let before = held();
        let Ok(regex) = fancy_regex::Regex::new(text) else { return Ok(()) };
        self.compiled += held() - before;
        drop(regex);
        if self.compiled > COMPILED {
            return Err(format!(
                "{place}: the regular expressions take more than the limit of {} MB once compiled, at the latest with \
                 {:.80?}",
                COMPILED >> 20,
                text
            )
            .into());
        }
        Ok(())
    }
}
