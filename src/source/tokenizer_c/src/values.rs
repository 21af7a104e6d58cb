//! Values of Python that minijinja does not have: tuples, views of a dict, ranges, and methods that are not called.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value, ValueKind};

#[derive(Debug)]
pub struct Tuple {
    pub items: Vec<Value>,
    /// Names of the items, of jinja2's named tuples.
    names: &'static [&'static str],
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = match key.as_str() {
            Some(name) => self.names.iter().position(|n| *n == name)?,
            None => usize::try_from(i64::try_from(key.clone()).ok()?).ok()?,
        };
        self.items.get(index).cloned()
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

pub fn tuple(items: Vec<Value>) -> Value {
    Value::from_object(Tuple { items, names: &[] })
}

pub fn named_tuple(items: Vec<Value>, names: &'static [&'static str]) -> Value {
    Value::from_object(Tuple { items, names })
}

pub fn as_tuple(value: &Value) -> Option<&Tuple> {
    value.downcast_object_ref::<Tuple>()
}

/// What keys(), values() and items() of a dict give.
#[derive(Debug)]
pub struct View {
    pub name: &'static str,
    items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
}

pub fn view(name: &'static str, items: Vec<Value>) -> Value {
    Value::from_object(View { name, items })
}

#[derive(Debug)]
pub struct Range {
    pub start: i64,
    pub stop: i64,
    pub step: i64,
}

impl Range {
    pub fn len(&self) -> usize {
        let span =
            if self.step > 0 { self.stop.saturating_sub(self.start) } else { self.start.saturating_sub(self.stop) };
        if span <= 0 {
            return 0;
        }
        ((span - 1) / self.step.saturating_abs()) as usize + 1
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = usize::try_from(i64::try_from(key.clone()).ok()?).ok()?;
        (index < self.len()).then(|| Value::from(self.start + index as i64 * self.step))
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len())
    }
}

/// `message.items` without a call: in Python the method, whatever keys the dict has.
#[derive(Debug)]
pub struct Method {
    pub name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

const OF_DICT: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
const OF_STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const OF_LIST: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];

/// Whether a value of some kind has a method of this name.
pub fn names_a_method(name: &str) -> bool {
    OF_DICT.contains(&name) || OF_STR.contains(&name) || OF_LIST.contains(&name)
}

/// A dict as templates and conversations make them; not a namespace, a loop or a module.
pub fn is_dict(value: &Value) -> bool {
    value.kind() == ValueKind::Map
        && value.as_object().is_some_and(|o| {
            let name = o.type_name();
            !["Namespace", "Loop", "Macro", "Module", "Closure"].iter().any(|other| name.contains(other))
        })
}

pub fn method_of(value: &Value, name: &str) -> Option<Value> {
    let known = match value.kind() {
        ValueKind::Map => is_dict(value) && OF_DICT.contains(&name),
        ValueKind::String => OF_STR.contains(&name),
        ValueKind::Seq => as_tuple(value).is_none() && OF_LIST.contains(&name),
        _ => false,
    };
    known.then(|| Value::from_object(Method { name: name.to_string() }))
}
