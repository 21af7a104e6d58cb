//! Whether a text may be tokenized in parts that end at line ends, with the same ids as in one.
//!
//! The place: a line feed between a visible ASCII character and an ASCII letter. What is not known to cut there, or to
//! be indifferent, gives "no".

use tokenizers::pre_tokenizers::metaspace::Metaspace;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::tokenizer::Model;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::budget::bounded;
use crate::checked::{Cut, Norm};
use crate::library::{limits, Library};

/// The patterns of a known kind.
#[derive(serde::Deserialize)]
pub struct Patterns {
    /// Cut behind such a line feed, whatever follows or comes before.
    cutting: Vec<String>,
    /// Match the same whether or not the text ends or begins there.
    indifferent: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum LineCut {
    No = 0,
    Behind = 1,
    /// Before the line feed; to every part comes what the tokenizer puts before a text.
    Before = 2,
}

enum Step {
    Cuts,
    Indifferent,
    Unknown,
}

fn step(cut: &Cut, patterns: &Patterns) -> Step {
    match cut {
        Cut::Library(PreTokenizerWrapper::ByteLevel(b)) if !b.add_prefix_space => {
            if b.use_regex { Step::Cuts } else { Step::Indifferent }
        }
        Cut::Library(PreTokenizerWrapper::Digits(_) | PreTokenizerWrapper::Punctuation(_)) => Step::Indifferent,
        Cut::Library(PreTokenizerWrapper::Whitespace(_) | PreTokenizerWrapper::WhitespaceSplit(_)) => Step::Cuts,
        Cut::Split { regex, behavior, invert } => {
            let keeps = match behavior {
                SplitDelimiterBehavior::Isolated => !invert,
                SplitDelimiterBehavior::Removed => *invert,
                _ => false,
            };
            if keeps && patterns.cutting.contains(&regex.pattern) {
                Step::Cuts
            } else if keeps && !invert && patterns.indifferent.contains(&regex.pattern) {
                Step::Indifferent
            } else {
                Step::Unknown
            }
        }
        Cut::Sequence(steps) => {
            let mut all = Step::Indifferent;
            for one in steps {
                match step(one, patterns) {
                    Step::Unknown => return Step::Unknown,
                    Step::Cuts => all = Step::Cuts,
                    Step::Indifferent => {}
                }
            }
            all
        }
        Cut::Library(library) if splits_at_spaces(library) => Step::Indifferent,
        Cut::Library(_) => Step::Unknown,
    }
}

/// None: unknown; else whether it puts something before the text.
fn normalizer(norm: &Norm) -> Option<bool> {
    match norm {
        Norm::Library(library) => match library {
            NormalizerWrapper::NFC(_)
            | NormalizerWrapper::NFD(_)
            | NormalizerWrapper::NFKC(_)
            | NormalizerWrapper::NFKD(_)
            | NormalizerWrapper::Lowercase(_) => Some(false),
            NormalizerWrapper::Prepend(_) => Some(true),
            NormalizerWrapper::Replace(replace) => {
                let written = serde_json::to_value(replace).ok()?;
                let pattern = written["pattern"]["String"].as_str()?;
                (!pattern.contains('\n') && !replace.content.contains('\n')).then_some(false)
            }
            _ => None,
        },
        // SentencePiece's squeezing of spaces; none stands at such a place.
        Norm::Replace { regex, .. } => [r"\A +| +\z", " {2,}"].contains(&regex.pattern.as_str()).then_some(false),
        Norm::Sequence(steps) => {
            let mut prepends = false;
            for one in steps {
                prepends |= normalizer(one)?;
            }
            Some(prepends)
        }
    }
}

/// A split at spaces, which stand beside no such place.
fn splits_at_spaces(cut: &PreTokenizerWrapper) -> bool {
    let PreTokenizerWrapper::Split(split) = cut else { return false };
    matches!(&split.pattern, SplitPattern::String(s) if !s.is_empty() && s.chars().all(|c| c == ' ')) && !split.invert
}

fn never_splits(cut: Option<&Cut>) -> bool {
    match cut {
        None => true,
        Some(Cut::Library(library)) if splits_at_spaces(library) => true,
        Some(Cut::Library(PreTokenizerWrapper::Metaspace(m))) => !Metaspace::get_split(m),
        Some(_) => false,
    }
}

/// Nothing joins a line feed to another character, and alone it is one token.
fn line_feeds_stand_alone(library: &Library) -> bool {
    let model = library.get_model();
    let plain = match &model.library {
        ModelWrapper::BPE(bpe) => bpe.dropout.is_none(),
        ModelWrapper::Unigram(_) => true,
        _ => false,
    };
    let joins = |token: &String| token.contains('\n') && token.bytes().any(|b| b != b'\n');
    if !plain || model.get_vocab().keys().any(joins) {
        return false;
    }
    let encoded = |text: &str| Ok(library.encode_fast(text, false)?.get_ids().to_vec());
    let ids = |text: &str| bounded(Some(&limits(text.len())), || encoded(text)).unwrap_or_default();
    let one = ids("\n");
    let Some(last) = one.last() else { return false };
    library.id_to_token(*last).is_some_and(|token| token == "\n" || token == "<0x0A>") && ids("\na").starts_with(&one)
}

pub fn line_cut(library: &Library, patterns: &Patterns) -> LineCut {
    let added = library.get_added_vocabulary().get_added_tokens_decoder();
    let reaches = added.values().any(|token| {
        let first = token.content.chars().next().unwrap_or('\n');
        token.content.contains('\n') || ((token.lstrip || token.single_word) && first.is_alphanumeric())
    });
    let prepends = library.get_normalizer().map_or(Some(false), normalizer);
    let (false, Some(prepends)) = (reaches, prepends) else { return LineCut::No };
    let cut = library.get_pre_tokenizer();
    if never_splits(cut) {
        return if line_feeds_stand_alone(library) { LineCut::Before } else { LineCut::No };
    }
    match cut.map(|c| step(c, patterns)) {
        Some(Step::Cuts) if !prepends => LineCut::Behind,
        _ => LineCut::No,
    }
}
