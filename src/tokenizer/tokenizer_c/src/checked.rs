//! Normalizers and pre-tokenizers whose patterns fail where the regex engine gives up. In the library a match that takes
//! more than a million steps of backtracking ends the search without a word, and the text is cut otherwise than asked.

use crate::budget::{matched, matching, refuse};

use serde::{Deserialize, Deserializer};
use tokenizers::pattern::{Invert, Pattern};
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, Offsets, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    Result, SplitDelimiterBehavior,
};

pub struct CheckedRegex {
    regex: fancy_regex::Regex,
    pub pattern: String,
}

impl CheckedRegex {
    fn new(pattern: &str) -> std::result::Result<Self, String> {
        let regex = fancy_regex::Regex::new(pattern).map_err(|e| format!("the pattern {pattern:?}: {e}"))?;
        Ok(CheckedRegex { regex, pattern: pattern.to_string() })
    }
}

impl Pattern for &CheckedRegex {
    fn find_matches(&self, inside: &str) -> Result<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut from = 0;
        let mut parts = Vec::new();
        for found in self.regex.find_iter(inside) {
            let found = found.map_err(|e| format!("the pattern {:.80?} of the tokenizer: {e}", self.pattern))?;
            if from != found.start() {
                parts.push(((from, found.start()), false));
            }
            parts.push(((found.start(), found.end()), true));
            matched(found.end() - from)?;
            from = found.end();
        }
        if from != inside.len() {
            parts.push(((from, inside.len()), false));
        }
        matched(inside.len() - from)?;
        Ok(parts)
    }
}

pub enum Cut {
    Library(PreTokenizerWrapper),
    Split { regex: CheckedRegex, behavior: SplitDelimiterBehavior, invert: bool },
    Sequence(Vec<Cut>),
}

impl Cut {
    fn new(library: PreTokenizerWrapper) -> std::result::Result<Self, String> {
        use tokenizers::pre_tokenizers::split::SplitPattern;
        Ok(match library {
            PreTokenizerWrapper::Split(split) => match &split.pattern {
                SplitPattern::Regex(pattern) => {
                    Cut::Split { regex: CheckedRegex::new(pattern)?, behavior: split.behavior, invert: split.invert }
                }
                SplitPattern::String(_) => Cut::Library(PreTokenizerWrapper::Split(split)),
            },
            PreTokenizerWrapper::Sequence(steps) => {
                Cut::Sequence(steps.into_iter().map(Cut::new).collect::<std::result::Result<_, _>>()?)
            }
            other => Cut::Library(other),
        })
    }
}

impl<'de> Deserialize<'de> for Cut {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Cut::new(PreTokenizerWrapper::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

impl PreTokenizer for Cut {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        match self {
            Cut::Library(library) => library.pre_tokenize(text),
            Cut::Split { regex, behavior, invert: false } => {
                matching(|| text.split(|_, part| part.split(regex, *behavior)))
            }
            Cut::Split { regex, behavior, invert: true } => {
                matching(|| text.split(|_, part| part.split(Invert(regex), *behavior)))
            }
            Cut::Sequence(steps) => steps.iter().try_for_each(|step| step.pre_tokenize(text)),
        }
    }
}

pub enum Norm {
    Library(NormalizerWrapper),
    Replace { regex: CheckedRegex, content: String },
    Sequence(Vec<Norm>),
}

impl Norm {
    fn new(library: NormalizerWrapper) -> std::result::Result<Self, String> {
        Ok(match library {
            NormalizerWrapper::Replace(replace) => {
                // The library keeps the pattern to itself, but writes it.
                let written = serde_json::to_value(&replace).map_err(|e| e.to_string())?;
                match written["pattern"]["Regex"].as_str() {
                    Some(pattern) => {
                        Norm::Replace { regex: CheckedRegex::new(pattern)?, content: replace.content.clone() }
                    }
                    None => Norm::Library(NormalizerWrapper::Replace(replace)),
                }
            }
            NormalizerWrapper::Sequence(steps) => {
                Norm::Sequence(steps.into_iter().map(Norm::new).collect::<std::result::Result<_, _>>()?)
            }
            other => Norm::Library(other),
        })
    }
}

impl<'de> Deserialize<'de> for Norm {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        Norm::new(NormalizerWrapper::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// The largest text that normalizers may make, for each byte of theirs and besides. A character of Unicode decomposes
/// into 18 at most, of 33 bytes.
const GROWTH: usize = 32;
const GROWTH_OF_SHORT: usize = 64 << 10;

impl Normalizer for Norm {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        match self {
            Norm::Library(library) => library.normalize(text)?,
            // The library drops the errors of normalizers.
            Norm::Replace { regex, content } => {
                if let Err(error) = matching(|| text.replace(regex, content)) {
                    refuse(error.to_string());
                }
            }
            Norm::Sequence(steps) => steps.iter().try_for_each(|step| step.normalize(text))?,
        }
        let (before, after) = (text.get_original().len(), text.get().len());
        let most = GROWTH * before + GROWTH_OF_SHORT;
        if after > most {
            refuse(format!(
                "the normalizer makes {after} bytes of {before}, more than the limit of {most} ({GROWTH} for each \
                 byte, and {GROWTH_OF_SHORT})"
            ));
        }
        Ok(())
    }
}
