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
        match key.as_str() {
            Some("start") => return Some(Value::from(self.start)),
            Some("stop") => return Some(Value::from(self.stop)),
            Some("step") => return Some(Value::from(self.step)),
            _ => {}
        }
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

const OF_TUPLE: [&str; 2] = ["count", "index"];

/// What Python has and these values lack.
const OF_NUMBER: [&str; 13] = [
    "as_integer_ratio",
    "bit_count",
    "bit_length",
    "conjugate",
    "denominator",
    "from_bytes",
    "fromhex",
    "hex",
    "imag",
    "is_integer",
    "numerator",
    "real",
    "to_bytes",
];
const OF_VIEW: [&str; 2] = ["isdisjoint", "mapping"];
const OF_LOOP: [&str; 2] = ["changed", "cycle"];
const OF_MACRO: [&str; 2] = ["catch_kwargs", "catch_varargs"];

/// Whether a value of some kind has a method or another attribute of this name, beside what minijinja knows.
pub fn names_an_attribute(name: &str) -> bool {
    let lists: [&[&str]; 7] = [&OF_DICT, &OF_STR, &OF_LIST, &OF_NUMBER, &OF_VIEW, &OF_LOOP, &OF_MACRO];
    lists.iter().any(|list| list.contains(&name))
}

fn has_type(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|o| o.type_name().contains(name))
}

/// Whether Python's value has an attribute `name` that this one lacks.
pub fn lacks(value: &Value, name: &str) -> bool {
    match value.kind() {
        ValueKind::Number | ValueKind::Bool => OF_NUMBER.contains(&name),
        ValueKind::Iterable => OF_VIEW.contains(&name) && value.downcast_object_ref::<View>().is_some(),
        _ => {
            (OF_LOOP.contains(&name) && has_type(value, "Loop"))
                || (OF_MACRO.contains(&name) && has_type(value, "Macro"))
        }
    }
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
        ValueKind::Seq if as_tuple(value).is_some() || value.downcast_object_ref::<Range>().is_some() => {
            OF_TUPLE.contains(&name)
        }
        ValueKind::Seq => OF_LIST.contains(&name),
        _ => false,
    };
    known.then(|| Value::from_object(Method { name: name.to_string() }))
}
