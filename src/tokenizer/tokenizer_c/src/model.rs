//! The model of a tokenizer, read straight from the file. On its way through the library's own reading it stands in
//! memory three times, as generic values: 20 bytes for each byte of a file like Gemma's, for which this takes 5.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use tokenizers::models::bpe::{BpeBuilder, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::models::TrainerWrapper;
use tokenizers::{Model, ModelWrapper, Result, Token};

/// The largest vocabularies in use have 262,144 tokens and 514,906 merges.
const MOST_TOKENS: usize = 1 << 20;
const MOST_MERGES: usize = 1 << 21;

pub struct ReadModel {
    pub library: ModelWrapper,
    /// The largest id; nothing where there are no tokens.
    pub last_id: Option<u32>,
    /// Of BPE.
    pub merges: usize,
}

enum Words {
    Ids(Vocab),
    Scores(Vec<(String, f64)>),
}

struct WordsVisitor;

fn too_many(key: &str, most: usize) -> String {
    format!("model.{key}: expected at most {most}, found more")
}

/// Room for what a list says of its length, as far as memory should be taken for it beforehand.
fn room(hint: Option<usize>) -> usize {
    hint.unwrap_or(0).min(1 << 16)
}

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tokens and ids, or a list of tokens and scores")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Words, M::Error> {
        let mut ids = Vocab::new();
        while let Some((token, id)) = map.next_entry::<String, u32>()? {
            ids.insert(token, id);
            if ids.len() > MOST_TOKENS {
                return Err(Error::custom(too_many("vocab", MOST_TOKENS)));
            }
        }
        Ok(Words::Ids(ids))
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> std::result::Result<Words, S::Error> {
        let mut scores = Vec::with_capacity(room(list.size_hint()));
        while let Some(entry) = list.next_element::<(String, f64)>()? {
            scores.push(entry);
            if scores.len() > MOST_TOKENS {
                return Err(Error::custom(too_many("vocab", MOST_TOKENS)));
            }
        }
        Ok(Words::Scores(scores))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(WordsVisitor)
    }
}

/// Two tokens, or a line of an older file that holds them.
enum Merge {
    Pair(String, String),
    Line(String),
}

struct MergeVisitor;

impl<'de> Visitor<'de> for MergeVisitor {
    type Value = Merge;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("two tokens, or a text with a space between them")
    }
    fn visit_str<E: Error>(self, line: &str) -> std::result::Result<Merge, E> {
        Ok(match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') && !line.starts_with("#version") => {
                Merge::Pair(left.to_string(), right.to_string())
            }
            _ => Merge::Line(line.to_string()),
        })
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> std::result::Result<Merge, S::Error> {
        let none = || Error::custom("model.merges: expected two tokens, found fewer");
        let left = list.next_element()?.ok_or_else(none)?;
        let right = list.next_element()?.ok_or_else(none)?;
        if list.next_element::<IgnoredAny>()?.is_some() {
            return Err(Error::custom("model.merges: expected two tokens, found more"));
        }
        Ok(Merge::Pair(left, right))
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(MergeVisitor)
    }
}

struct MergeList(Merges);

struct MergeListVisitor;

impl<'de> Visitor<'de> for MergeListVisitor {
    type Value = MergeList;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> std::result::Result<MergeList, S::Error> {
        let mut merges = Vec::with_capacity(room(list.size_hint()));
        while let Some(merge) = list.next_element()? {
            match merge {
                Merge::Pair(left, right) => merges.push((left, right)),
                Merge::Line(line) if line.starts_with("#version") => continue,
                Merge::Line(_) => {
                    let number = merges.len() + 1;
                    return Err(Error::custom(format!("model.merges: number {number}: expected two tokens")));
                }
            }
            if merges.len() > MOST_MERGES {
                return Err(Error::custom(too_many("merges", MOST_MERGES)));
            }
        }
        Ok(MergeList(merges))
    }
}

impl<'de> Deserialize<'de> for MergeList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_seq(MergeListVisitor)
    }
}

#[derive(Default)]
struct Parts {
    kind: Option<String>,
    words: Option<Words>,
    merges: Option<Merges>,
    rest: Map<String, Value>,
}

impl Parts {
    /// A setting that may be missing or null.
    fn setting<T: DeserializeOwned>(&mut self, key: &str) -> std::result::Result<Option<T>, String> {
        let value = self.rest.remove(key).unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|e| format!("model.{key}: {e}"))
    }

    fn bpe(mut self) -> std::result::Result<ReadModel, String> {
        let (Some(Words::Ids(ids)), Some(merges)) = (self.words.take(), self.merges.take()) else {
            return Err("model: expected a vocab of tokens and ids, and merges".to_string());
        };
        let mut builder = BpeBuilder::new();
        if let Some(dropout) = self.setting("dropout")? {
            builder = builder.dropout(dropout);
        }
        if let Some(token) = self.setting("unk_token")? {
            builder = builder.unk_token(token);
        }
        let mut cut = 0;
        if let Some(prefix) = self.setting::<String>("continuing_subword_prefix")? {
            // The library cuts so many bytes off the second token of each merge, whatever they are.
            if let Some((_, token)) = merges.iter().find(|(_, right)| !right.starts_with(&prefix)) {
                return Err(format!(
                    "model.merges: expected second tokens that begin with the continuing_subword_prefix \
                     {prefix:.40?}, found {token:.40?}"
                ));
            }
            cut = prefix.len();
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.setting("end_of_word_suffix")? {
            builder = builder.end_of_word_suffix(suffix);
        }
        if let Some(fuses) = self.setting("fuse_unk")? {
            builder = builder.fuse_unk(fuses);
        }
        if let Some(falls_back) = self.setting("byte_fallback")? {
            builder = builder.byte_fallback(falls_back);
        }
        if let Some(ignores) = self.setting("ignore_merges")? {
            builder = builder.ignore_merges(ignores);
        }
        // The library joins the two tokens in a buffer as long as the longest token.
        let longest = ids.keys().map(String::len).max().unwrap_or(0);
        if let Some((left, right)) = merges.iter().find(|(left, right)| left.len() + right.len() - cut > longest) {
            return Err(format!("model.merges: no token is {left:.40?} and {right:.40?} together"));
        }
        let (last_id, count) = (ids.values().copied().max(), merges.len());
        let bpe = builder.vocab_and_merges(ids, merges).build().map_err(|e| e.to_string())?;
        Ok(ReadModel { library: ModelWrapper::BPE(bpe), last_id, merges: count })
    }

    fn unigram(mut self) -> std::result::Result<ReadModel, String> {
        let Some(Words::Scores(scores)) = self.words.take() else {
            return Err("model.vocab: expected a list of tokens and scores".to_string());
        };
        let unknown = self.setting("unk_id")?;
        let falls_back = self.setting("byte_fallback")?.unwrap_or(false);
        let last_id = scores.len().checked_sub(1).map(|last| last as u32);
        let unigram = Unigram::from(scores, unknown, falls_back).map_err(|e| e.to_string())?;
        Ok(ReadModel { library: ModelWrapper::Unigram(unigram), last_id, merges: 0 })
    }

    /// Kinds that no language model of today has, by the library's own reading.
    fn other(mut self) -> std::result::Result<ReadModel, String> {
        if let Some(kind) = self.kind {
            self.rest.insert("type".to_string(), Value::from(kind));
        }
        match self.words {
            Some(Words::Ids(ids)) => {
                let ids: Map<String, Value> = ids.into_iter().map(|(token, id)| (token, id.into())).collect();
                self.rest.insert("vocab".to_string(), Value::Object(ids));
            }
            Some(Words::Scores(scores)) => {
                self.rest.insert("vocab".to_string(), serde_json::to_value(scores).map_err(|e| e.to_string())?);
            }
            None => {}
        }
        let library: ModelWrapper = serde_json::from_value(Value::Object(self.rest)).map_err(|e| e.to_string())?;
        let last_id = library.get_vocab().into_values().max();
        Ok(ReadModel { library, last_id, merges: 0 })
    }

    fn model(self) -> std::result::Result<ReadModel, String> {
        match self.kind.as_deref() {
            Some("BPE") => self.bpe(),
            Some("Unigram") => self.unigram(),
            None if self.merges.is_some() => self.bpe(),
            _ => self.other(),
        }
    }
}

struct ModelVisitor;

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = ReadModel;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the object of a tokenizer's model")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<ReadModel, M::Error> {
        let mut parts = Parts::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "type" => parts.kind = map.next_value()?,
                "vocab" => parts.words = Some(map.next_value()?),
                "merges" => parts.merges = map.next_value::<Option<MergeList>>()?.map(|list| list.0),
                _ => {
                    parts.rest.insert(key, map.next_value()?);
                }
            }
        }
        parts.model().map_err(Error::custom)
    }
}

impl<'de> Deserialize<'de> for ReadModel {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_map(ModelVisitor)
    }
}

impl Model for ReadModel {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        self.library.tokenize(text)
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.library.id_to_token(id)
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        self.library.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.library.get_vocab_size()
    }
    fn save(&self, folder: &Path, name: Option<&str>) -> Result<Vec<PathBuf>> {
        self.library.save(folder, name)
    }
    fn get_trainer(&self) -> TrainerWrapper {
        self.library.get_trainer()
    }
}
