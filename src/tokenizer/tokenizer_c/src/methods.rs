//! Methods of Python's str, list and dict that templates call. What changes its object is refused, as transformers'
//! sandbox refuses it; the rest that is missing here is an error that names it.

use minijinja::value::{from_args, Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::faults::invalid;
use crate::values::{tuple, view};
use crate::{builtins, python, sorting};

const CHANGING: [&str; 14] = [
    "append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update", "add",
    "discard", "__setitem__",
];

pub fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    builtins::check(value)?;
    let found = match value.kind() {
        ValueKind::String => text_method(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, args)?,
        ValueKind::Map => map_method(value, method, args)?,
        _ => None,
    };
    if let Some(result) = found {
        return Ok(result);
    }
    match minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args) {
        Err(error) if error.kind() == ErrorKind::UnknownMethod && CHANGING.contains(&method) => {
            Err(invalid(format!("{method}() would change a value, which a template may not")))
        }
        other => other,
    }
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// Positions as Python counts them: `start` and `stop` in characters, from the end where negative.
fn window<'a>(text: &'a str, start: Option<i64>, stop: Option<i64>) -> (&'a str, usize) {
    let length = chars(text) as i64;
    let place = |p: i64| if p < 0 { (p + length).max(0) } else { p.min(length) } as usize;
    let (first, last) = (place(start.unwrap_or(0)), place(stop.unwrap_or(length)));
    let byte = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(i, _)| i);
    if first > last {
        return ("", first);
    }
    (&text[byte(first)..byte(last)], first)
}

fn find(text: &str, what: &str, start: Option<i64>, stop: Option<i64>, last: bool) -> i64 {
    let (part, first) = window(text, start, stop);
    let at = if last { part.rfind(what) } else { part.find(what) };
    at.map_or(-1, |at| (first + chars(&part[..at])) as i64)
}

fn padded(text: &str, args: &[Value], left: impl Fn(usize) -> usize) -> Result<Value, Error> {
    let (width, fill): (i64, Option<String>) = from_args(args)?;
    let fill = fill.unwrap_or_else(|| " ".into());
    if chars(&fill) != 1 {
        return Err(invalid("the fill of a padded string is one character"));
    }
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(chars(text));
    let before = left(missing);
    Ok(Value::from(format!("{}{text}{}", fill.repeat(before), fill.repeat(missing - before))))
}

pub fn center(text: &str, width: i64) -> Result<Value, Error> {
    // Python gives the odd space to the left where the width is odd, too.
    padded(text, &[Value::from(width)], |missing| missing / 2 + (missing & width.max(0) as usize & 1))
}

/// str.split and str.rsplit.
fn split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(v) => Some(v),
        None => kwargs.get::<Option<Value>>("sep")?,
    };
    let most = match most {
        Some(v) => Some(v),
        None => kwargs.get::<Option<i64>>("maxsplit")?,
    };
    kwargs.assert_all_used()?;
    let most = most.and_then(|m| usize::try_from(m).ok()).unwrap_or(usize::MAX - 1);
    let separator = match separator.filter(|v| !v.is_none() && !v.is_undefined()) {
        None => return Ok(Value::from(split_spaces(text, most, from_right))),
        Some(v) => v.as_str().map(str::to_string).ok_or_else(|| invalid("the separator of split() is a string"))?,
    };
    if separator.is_empty() {
        return Err(invalid("the separator of split() is empty"));
    }
    let parts: Vec<Value> = if from_right {
        let mut list: Vec<Value> = text.rsplitn(most + 1, &separator).map(Value::from).collect();
        list.reverse();
        list
    } else {
        text.splitn(most + 1, &separator).map(Value::from).collect()
    };
    Ok(Value::from(parts))
}

fn split_spaces(text: &str, most: usize, from_right: bool) -> Vec<Value> {
    let mut parts: Vec<Value> = Vec::new();
    let mut rest = if from_right { text.trim_end() } else { text.trim_start() };
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(Value::from(if from_right { rest.trim_end() } else { rest.trim_start() }));
            break;
        }
        if from_right {
            let at = rest.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(0, |(i, c)| i + c.len_utf8());
            parts.push(Value::from(&rest[at..]));
            rest = rest[..at].trim_end();
        } else {
            let at = rest.find(char::is_whitespace).unwrap_or(rest.len());
            parts.push(Value::from(&rest[..at]));
            rest = rest[at..].trim_start();
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

pub fn lines(text: &str, keep: bool) -> Vec<Value> {
    let ends = |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        out.push(Value::from(&rest[..if keep { at + end } else { at }]));
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        out.push(Value::from(rest));
    }
    out
}

fn affixed(text: &str, args: &[Value], end: bool) -> Result<Value, Error> {
    let (what, start, stop): (Value, Option<i64>, Option<i64>) = from_args(args)?;
    let (part, _) = window(text, start, stop);
    let fits = |v: &Value| -> Result<bool, Error> {
        let s = v.as_str().ok_or_else(|| invalid("startswith() and endswith() take strings"))?;
        Ok(if end { part.ends_with(s) } else { part.starts_with(s) })
    };
    if what.kind() == ValueKind::String {
        return fits(&what).map(Value::from);
    }
    for one in what.try_iter()? {
        if fits(&one)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn all(text: &str, fits: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(fits)
}

fn cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase()
}

fn is_title(text: &str) -> bool {
    let (mut any, mut before) = (false, false);
    for c in text.chars() {
        if (c.is_uppercase() && before) || (c.is_lowercase() && !before) {
            return false;
        }
        before = cased(c);
        any |= before;
    }
    any
}

fn expand_tabs(text: &str, size: i64) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        if c == '\t' {
            let n = if size > 0 { size - column % size } else { 0 };
            out.push_str(&" ".repeat(n as usize));
            column += n;
        } else {
            out.push(c);
            column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
        }
    }
    out
}

fn text_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let no_args = || from_args::<()>(args);
    let one = || from_args::<(String,)>(args).map(|(s,)| s);
    Ok(Some(match method {
        "casefold" => (no_args()?, Value::from(case_folded(text))).1,
        "title" => (no_args()?, Value::from(titled(text))).1,
        "capitalize" => (no_args()?, Value::from(capitalize(text))).1,
        "format" => return format(text, args),
        "swapcase" => {
            no_args()?;
            let swap = |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "removeprefix" => Value::from(text.strip_prefix(one()?.as_str()).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?.as_str()).unwrap_or(text)),
        "split" => split(text, args, false)?,
        "rsplit" => split(text, args, true)?,
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(kwargs.get("keepends")?);
            kwargs.assert_all_used()?;
            Value::from(lines(text, keep.unwrap_or(false)))
        }
        "partition" | "rpartition" => {
            let separator = one()?;
            let separator = separator.as_str();
            if separator.is_empty() {
                return Err(invalid("the separator of partition() is empty"));
            }
            let last = method == "rpartition";
            let at = if last { text.rfind(separator) } else { text.find(separator) };
            let parts = match at {
                Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            tuple(parts.map(Value::from).to_vec())
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (what, start, stop): (String, Option<i64>, Option<i64>) = from_args(args)?;
            let at = find(text, &what, start, stop, method.starts_with('r'));
            if at < 0 && method.ends_with("index") {
                return Err(invalid(format!("{method}(): substring not found")));
            }
            Value::from(at)
        }
        "count" => {
            let (what, start, stop): (String, Option<i64>, Option<i64>) = from_args(args)?;
            let (part, _) = window(text, start, stop);
            Value::from(if what.is_empty() { chars(part) + 1 } else { part.matches(what.as_str()).count() })
        }
        "startswith" => affixed(text, args, false)?,
        "endswith" => affixed(text, args, true)?,
        "join" => {
            let (list,): (&Value,) = from_args(args)?;
            let mut out = String::new();
            for (i, item) in list.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(text);
                }
                let kind = item.kind();
                out.push_str(item.as_str().ok_or_else(|| {
                    invalid(format!("join(): item {i} is no string but of kind {kind}; the filter join takes any value"))
                })?);
            }
            Value::from(out)
        }
        "ljust" => padded(text, args, |_| 0)?,
        "rjust" => padded(text, args, |missing| missing)?,
        "center" => {
            let (width, fill): (i64, Option<String>) = from_args(args)?;
            let odd = width.max(0) as usize & 1;
            let args = [Value::from(width), Value::from(fill.unwrap_or_else(|| " ".into()))];
            padded(text, &args, |missing| missing / 2 + (missing & odd & 1))?
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let missing = usize::try_from(width).unwrap_or(0).saturating_sub(chars(text));
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }
        "expandtabs" => Value::from(expand_tabs(text, from_args::<(Option<i64>,)>(args)?.0.unwrap_or(8))),
        "islower" => (no_args()?, Value::from(text.chars().any(cased) && !text.chars().any(char::is_uppercase))).1,
        "isupper" => (no_args()?, Value::from(text.chars().any(cased) && !text.chars().any(char::is_lowercase))).1,
        "istitle" => (no_args()?, Value::from(is_title(text))).1,
        "isspace" => (no_args()?, Value::from(all(text, char::is_whitespace))).1,
        "isalpha" => (no_args()?, Value::from(all(text, char::is_alphabetic))).1,
        "isalnum" => (no_args()?, Value::from(all(text, char::is_alphanumeric))).1,
        "isnumeric" => (no_args()?, Value::from(all(text, char::is_numeric))).1,
        // Digits of other scripts count, too, but not fractions and Roman numerals.
        "isdigit" | "isdecimal" => {
            no_args()?;
            let raised = |c| matches!(c as u32, 0xb2 | 0xb3 | 0xb9 | 0x2070..=0x2089);
            let decimal = |c| method == "isdigit" || !raised(c);
            Value::from(all(text, |c| c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && !vulgar(c) && decimal(c))))
        }
        "isidentifier" => {
            no_args()?;
            let starts = text.chars().next().is_some_and(|c| c == '_' || c.is_alphabetic());
            Value::from(starts && text.chars().all(|c| c == '_' || c.is_alphanumeric()))
        }
        "isprintable" => (no_args()?, Value::from(!text.chars().any(|c| c.is_control()))).1,
        _ => return Ok(None),
    }))
}

fn upper_first(c: char) -> String {
    // Letters whose form at the head of a title is a third one.
    match c as u32 {
        0x1c4..=0x1c6 => "\u{1c5}".into(),
        0x1c7..=0x1c9 => "\u{1c8}".into(),
        0x1ca..=0x1cc => "\u{1cb}".into(),
        0x1f1..=0x1f3 => "\u{1f2}".into(),
        _ => {
            let upper: String = c.to_uppercase().collect();
            let mut parts = upper.chars();
            // One letter that becomes several: only the first is large.
            parts.next().map_or_else(String::new, |first| first.to_string() + &parts.as_str().to_lowercase())
        }
    }
}

pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| upper_first(first) + &chars.as_str().to_lowercase())
}

/// Python's str.title(): a letter behind anything but a letter is large.
fn titled(text: &str) -> String {
    let mut out = String::new();
    let mut before = false;
    for c in text.chars() {
        if before {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&upper_first(c));
        }
        before = cased(c);
    }
    out
}

fn case_folded(text: &str) -> String {
    text.to_lowercase().replace('\u{df}', "ss").replace('\u{17f}', "s").replace('\u{3c2}', "\u{3c3}")
}

/// str.format: values that are no text or number are written as Python writes them, unless a field looks into them.
fn format(text: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let looks_in = text.split('{').skip(1).any(|field| {
        let name = field.split(['}', ':', '!']).next().unwrap_or_default();
        name.contains(['.', '['])
    });
    let shown = |v: &Value| -> Result<Value, Error> {
        match v.kind() {
            _ if v.is_kwargs() => Ok(v.clone()),
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined if !looks_in => {
                python::str(v).map(Value::from)
            }
            _ => Ok(v.clone()),
        }
    };
    let mut given = args.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    if let Some(last) = given.last().cloned().filter(Value::is_kwargs) {
        let kwargs = Kwargs::try_from(last)?;
        let mut named = Vec::new();
        for name in kwargs.args() {
            named.push((name.to_string(), shown(&kwargs.get::<Value>(name)?)?));
        }
        given.pop();
        given.push(Kwargs::from_iter(named).into());
    }
    minijinja::format_filter(minijinja::FormatStyle::StrFormat, text, &given).map(|s| Some(Value::from(s)))
}

fn vulgar(c: char) -> bool {
    matches!(c as u32, 0xbc..=0xbe | 0x2150..=0x218b | 0x2460..=0x24ff | 0x3007 | 0x3021..=0x3029)
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "copy" => (from_args::<()>(args)?, Value::from(value.try_iter()?.collect::<Vec<_>>())).1,
        "count" => {
            let (what,): (&Value,) = from_args(args)?;
            Value::from(value.try_iter()?.filter(|v| v == what).count())
        }
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|v| &v == what);
            Value::from(at.ok_or_else(|| invalid("index(): the value is not in the list"))?)
        }
        _ => return Ok(None),
    }))
}

fn map_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "copy" => (from_args::<()>(args)?, value.clone()).1,
        "keys" => (from_args::<()>(args)?, view("dict_keys", value.try_iter()?.collect())).1,
        "values" => {
            from_args::<()>(args)?;
            view("dict_values", sorting::pairs_of(value)?.into_iter().map(|(_, v)| v).collect())
        }
        "items" => {
            from_args::<()>(args)?;
            view("dict_items", sorting::pairs_of(value)?.into_iter().map(|(k, v)| tuple(vec![k, v])).collect())
        }
        _ => return Ok(None),
    }))
}
