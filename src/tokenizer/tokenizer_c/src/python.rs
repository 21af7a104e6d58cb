//! Values written as Python writes them: str(), repr() and json.dumps().

use minijinja::value::{Value, ValueKind};
use minijinja::Error;

use crate::builtins;
use crate::faults::invalid;
use crate::values::{as_tuple, is_dict, Method, Range, View};

/// Nesting of a printed value; deeper ones are refused before they exhaust the stack.
const DEEPEST: usize = 128;

fn check(depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(invalid(format!("a value is nested more than {DEEPEST} deep")));
    }
    Ok(())
}

/// Python's repr of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{value}");
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c as u32 == 0xad => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn scalar(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::None => Some("None".into()),
        ValueKind::Bool => Some(if value.is_true() { "True".into() } else { "False".into() }),
        ValueKind::Number if value.is_integer() => Some(value.to_string()),
        ValueKind::Number => Some(f64::try_from(value.clone()).map(float).unwrap_or_else(|_| value.to_string())),
        _ => None,
    }
}

fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    check(depth)?;
    if let Some(text) = scalar(value) {
        out.push_str(&text);
        return Ok(());
    }
    if let Some(range) = value.downcast_object_ref::<Range>() {
        let step = if range.step == 1 { String::new() } else { format!(", {}", range.step) };
        out.push_str(&format!("range({}, {}{step})", range.start, range.stop));
        return Ok(());
    }
    if let Some(method) = value.downcast_object_ref::<Method>() {
        return Err(invalid(format!("the method {0} is written instead of its result: write {0}()", method.name)));
    }
    builtins::check(value)?;
    match value.kind() {
        ValueKind::String => out.push_str(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Seq | ValueKind::Iterable => {
            let view = value.downcast_object_ref::<View>().map(|v| v.name);
            if value.kind() == ValueKind::Iterable && view.is_none() {
                return Err(invalid("an iterator is written instead of its values: add |list"));
            }
            let tuple = as_tuple(value).is_some();
            out.push_str(view.unwrap_or_default());
            out.push_str(if view.is_some() { "([" } else if tuple { "(" } else { "[" });
            let mut count = 0;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push_str(", ");
                }
                repr(&item, depth + 1, out)?;
                count += 1;
            }
            if tuple && count == 1 {
                out.push(',');
            }
            out.push_str(if view.is_some() { "])" } else if tuple { ")" } else { "]" });
        }
        ValueKind::Map if !is_dict(value) => return Err(invalid("a namespace, a loop or a macro is written as a text")),
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                repr(&key, depth + 1, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Plain => return Err(invalid("a function is written instead of its result")),
        ValueKind::Invalid => return Err(invalid(value.to_string())),
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// Python's str().
pub fn str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_string()),
        _ => {
            let mut out = String::new();
            repr(value, 0, &mut out)?;
            Ok(out)
        }
    }
}

/// Python's repr().
pub fn repr_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    repr(value, 0, &mut out)?;
    Ok(out)
}

/// Python's ascii().
pub fn ascii_of(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    for c in repr_of(value)?.chars() {
        match c as u32 {
            0..=0x7f => out.push(c),
            code @ 0x80..=0xff => out.push_str(&format!("\\x{code:02x}")),
            code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    Ok(out)
}

/// Python's pprint.pformat(): lines of at most 80 characters, dicts by key.
pub fn pretty(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    pretty_into(value, 0, 0, 0, &mut out)?;
    Ok(out)
}

fn sorted_keys(value: &Value) -> Result<Vec<Value>, Error> {
    let mut keys: Vec<Value> = value.try_iter()?.collect();
    keys.sort();
    Ok(keys)
}

/// On one line, with dicts by key.
fn plain(value: &Value, depth: usize) -> Result<String, Error> {
    check(depth)?;
    let mut parts = Vec::new();
    match value.kind() {
        ValueKind::Map => {
            for key in sorted_keys(value)? {
                parts.push(format!("{}: {}", repr_of(&key)?, plain(&value.get_item(&key)?, depth + 1)?));
            }
            Ok(format!("{{{}}}", parts.join(", ")))
        }
        ValueKind::Seq if value.downcast_object_ref::<Range>().is_none() => {
            for item in value.try_iter()? {
                parts.push(plain(&item, depth + 1)?);
            }
            let list = parts.join(", ");
            Ok(match (as_tuple(value).is_some(), parts.len()) {
                (true, 1) => format!("({list},)"),
                (true, _) => format!("({list})"),
                (false, _) => format!("[{list}]"),
            })
        }
        _ => repr_of(value),
    }
}

fn pretty_into(value: &Value, indent: usize, allowance: usize, depth: usize, out: &mut String) -> Result<(), Error> {
    const WIDTH: usize = 80;
    let line = plain(value, depth)?;
    if line.chars().count() <= WIDTH.saturating_sub(indent + allowance) {
        out.push_str(&line);
        return Ok(());
    }
    let pad = format!(",\n{}", " ".repeat(indent + 1));
    match value.kind() {
        ValueKind::Map => {
            let keys = sorted_keys(value)?;
            out.push('{');
            for (i, key) in keys.iter().enumerate() {
                if i > 0 {
                    out.push_str(&pad);
                }
                let name = repr_of(key)?;
                out.push_str(&name);
                out.push_str(": ");
                let last = i + 1 == keys.len();
                let at = indent + 1 + name.chars().count() + 2;
                pretty_into(&value.get_item(key)?, at, if last { allowance + 1 } else { 1 }, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::Seq if value.downcast_object_ref::<Range>().is_none() => {
            let items: Vec<Value> = value.try_iter()?.collect();
            let tuple = as_tuple(value).is_some();
            let end = if !tuple { "]" } else if items.len() == 1 { ",)" } else { ")" };
            out.push(if tuple { '(' } else { '[' });
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(&pad);
                }
                let last = i + 1 == items.len();
                pretty_into(item, indent + 1, if last { allowance + end.len() } else { 1 }, depth + 1, out)?;
            }
            out.push_str(end);
        }
        // Python cuts it between words.
        ValueKind::String => return Err(invalid("pprint: a text that is longer than a line is not supported")),
        _ => out.push_str(&line),
    }
    Ok(())
}

pub struct JsonStyle {
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
    pub ensure_ascii: bool,
}

impl JsonStyle {
    fn string(&self, text: &str, out: &mut String) -> Result<(), Error> {
        let json = serde_json::to_string(text).map_err(|e| invalid(e.to_string()))?;
        if !self.ensure_ascii {
            out.push_str(&json);
            return Ok(());
        }
        for c in json.chars() {
            if c.is_ascii() {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0u16; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn number(value: &Value) -> Option<String> {
        Some(match value.kind() {
            ValueKind::None => "null".into(),
            ValueKind::Bool => if value.is_true() { "true" } else { "false" }.into(),
            ValueKind::Number => match scalar(value)?.as_str() {
                "nan" => "NaN".into(),
                "inf" => "Infinity".into(),
                "-inf" => "-Infinity".into(),
                other => other.to_string(),
            },
            _ => return None,
        })
    }

    /// Python's json.dumps().
    pub fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        check(depth)?;
        if value.downcast_object_ref::<Range>().is_some() || value.downcast_object_ref::<View>().is_some() {
            return Err(invalid("a range or a view of a dict has no JSON: add |list"));
        }
        if let Some(text) = Self::number(value) {
            out.push_str(&text);
            return Ok(());
        }
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out)?,
            ValueKind::Seq | ValueKind::Iterable => {
                let mut empty = true;
                out.push('[');
                for item in value.try_iter()? {
                    if !empty {
                        out.push_str(&self.item_separator);
                    }
                    empty = false;
                    self.new_line(depth + 1, out);
                    self.write(&item, depth + 1, out)?;
                }
                if !empty {
                    self.new_line(depth, out);
                }
                out.push(']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    if i > 0 {
                        out.push_str(&self.item_separator);
                    }
                    self.new_line(depth + 1, out);
                    let name = match Self::number(key) {
                        Some(text) => text,
                        None => key.as_str().ok_or_else(|| invalid("a key is no string, number, boolean or none"))?.into(),
                    };
                    self.string(&name, out)?;
                    out.push_str(&self.key_separator);
                    self.write(&value.get_item(key)?, depth + 1, out)?;
                }
                if !keys.is_empty() {
                    self.new_line(depth, out);
                }
                out.push('}');
            }
            kind => return Err(invalid(format!("a value of kind {kind} has no JSON"))),
        }
        Ok(())
    }
}
