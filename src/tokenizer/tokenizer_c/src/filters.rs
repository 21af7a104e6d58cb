//! Filters of Jinja that minijinja lacks, or has otherwise. `random` is left out, since texts must repeat; `urlize`,
//! since it makes HTML: both are an error that names them.

use minijinja::value::{from_args, Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error};

use crate::faults::invalid;
use crate::methods;
use crate::numbers::{self, integer};
use crate::operators::{self, escape};
use crate::python;

/// A number in digits of `base`, as Python's int(text, base) reads it; 0: by its prefix.
fn parsed(text: &str, base: u32) -> Option<i128> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let marks = [("0x", 16), ("0o", 8), ("0b", 2)];
    let marked = marks.iter().find(|(mark, of)| lower.starts_with(mark) && (base == 0 || base == *of));
    let (digits, base) = match marked {
        Some((_, of)) => (&lower[2..], *of),
        None if base == 0 => (lower.as_str(), 10),
        None => (lower.as_str(), base),
    };
    // An underscore may stand between digits.
    if digits.starts_with('_') && marked.is_none() || digits.ends_with('_') || digits.contains("__") || digits.is_empty() {
        return None;
    }
    let magnitude = i128::from_str_radix(&digits.replace('_', ""), base).ok()?;
    if digits.starts_with(['-', '+']) {
        return None;
    }
    Some(if negative { -magnitude } else { magnitude })
}

fn int(value: &Value, default: Option<Value>, base: Option<u32>, options: Kwargs) -> Result<Value, Error> {
    let default = default.or(options.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(options.get("base")?).unwrap_or(10);
    options.assert_all_used()?;
    if base == 1 || base > 36 {
        return Err(invalid("int: the base is 0 or 2 to 36"));
    }
    if let Some(i) = numbers::int(value) {
        return integer(Some(i), "int");
    }
    let number = match value.as_str() {
        Some(text) => match parsed(text, base) {
            Some(i) => return integer(Some(i), "int"),
            None => text.trim().replace('_', "").parse::<f64>().ok(),
        },
        None if value.kind() == ValueKind::Number => f64::try_from(value.clone()).ok(),
        None => None,
    };
    match number {
        Some(f) if f.is_finite() && f.abs() < 1e38 => integer(Some(f.trunc() as i128), "int"),
        _ => Ok(default),
    }
}

fn float(value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let default = default.or(options.get("default")?).unwrap_or_else(|| Value::from(0.0));
    options.assert_all_used()?;
    if let Some(i) = numbers::int(value) {
        return Ok(Value::from(i as f64));
    }
    let number = match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse::<f64>().ok(),
        None if value.kind() == ValueKind::Number => f64::try_from(value.clone()).ok(),
        None => None,
    };
    Ok(number.map(Value::from).unwrap_or(default))
}

fn join(value: &Value, separator: Option<Value>, attribute: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let separator = separator.or(options.get("d")?).map_or(Ok(String::new()), |v| python::str(&v))?;
    let attribute = attribute.or(options.get("attribute")?).filter(|v| !v.is_none() && !v.is_undefined());
    options.assert_all_used()?;
    let mut out = String::new();
    if value.is_undefined() {
        return Ok(Value::from(out));
    }
    if value.is_none() {
        return Err(invalid("join: None holds nothing"));
    }
    for (i, mut item) in value.try_iter()?.enumerate() {
        if i > 0 {
            out.push_str(&separator);
        }
        if let Some(path) = &attribute {
            for step in python::str(path)?.split('.') {
                item = match step.parse::<usize>() {
                    Ok(n) => item.get_item(&Value::from(n))?,
                    Err(_) => item.get_attr(step)?,
                };
            }
        }
        out.push_str(&python::str(&item)?);
    }
    Ok(Value::from(out))
}

/// Runs of letters, digits and underscores, as Python's \w+ finds them.
fn word_count(text: Value) -> Result<usize, Error> {
    let text = python::str(&text)?;
    Ok(text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count())
}

fn truncate(text: Value, given: Rest<Value>) -> Result<String, Error> {
    let text = python::str(&text)?;
    type Given = (Option<usize>, Option<bool>, Option<String>, Option<usize>, Kwargs);
    let (length, kill_words, end, leeway, options): Given = from_args(&given.0)?;
    let length = length.or(options.get("length")?).unwrap_or(255);
    let kill_words = kill_words.or(options.get("killwords")?).unwrap_or(false);
    let end = end.or(options.get("end")?).unwrap_or_else(|| "...".into());
    let leeway = leeway.or(options.get("leeway")?).unwrap_or(5);
    options.assert_all_used()?;
    let end_length = end.chars().count();
    if length < end_length {
        return Err(invalid(format!("truncate: expected a length of at least {end_length}, found {length}")));
    }
    if text.chars().count() <= length + leeway {
        return Ok(text);
    }
    let mut cut: String = text.chars().take(length - end_length).collect();
    if !kill_words {
        if let Some(at) = cut.rfind(' ') {
            cut.truncate(at);
        }
    }
    Ok(cut + &end)
}

fn quoted(text: &str, safe_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(byte as char),
            b'/' if safe_slash => out.push('/'),
            b' ' if !safe_slash => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A text quoted for a URL, or pairs as a query.
fn url_encode(value: &Value) -> Result<String, Error> {
    if !matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) {
        return Ok(quoted(&python::str(value)?, true));
    }
    let map = value.kind() == ValueKind::Map;
    let mut pairs = Vec::new();
    for item in value.try_iter()? {
        let (key, found) = match map {
            true => (item.clone(), value.get_item(&item)?),
            false => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
        };
        pairs.push(format!("{}={}", quoted(&python::str(&key)?, false), quoted(&python::str(&found)?, false)));
    }
    Ok(pairs.join("&"))
}

fn xml_attributes(value: &Value, space: Option<bool>) -> Result<String, Error> {
    let mut out = String::new();
    for key in value.try_iter()? {
        let found = value.get_item(&key)?;
        if found.is_none() || found.is_undefined() {
            continue;
        }
        if !out.is_empty() || space.unwrap_or(true) {
            out.push(' ');
        }
        out.push_str(&format!("{}=\"{}\"", escape(&python::str(&key)?), escape(&python::str(&found)?)));
    }
    Ok(out)
}

fn strip_tags(text: Value) -> Result<String, Error> {
    let text = python::str(&text)?;
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find('<') {
        let comment = rest[start..].starts_with("<!--");
        let (end, length) = if comment { ("-->", 3) } else { (">", 1) };
        let Some(stop) = rest[start..].find(end) else { break };
        plain.push_str(&rest[..start]);
        rest = &rest[start + stop + length..];
    }
    plain.push_str(rest);
    let words: Vec<&str> = plain.split_whitespace().collect();
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    Ok(named.iter().fold(words.join(" "), |text, (name, character)| text.replace(name, character)))
}

fn file_size(value: &Value, binary: Option<bool>) -> Result<String, Error> {
    let bytes = float(value, None, Kwargs::from_iter(std::iter::empty::<(&str, Value)>()))?;
    let bytes = f64::try_from(bytes)?;
    let binary = binary.unwrap_or(false);
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes as i64));
    }
    let names = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    for (i, name) in names.iter().enumerate() {
        if bytes < unit * base || i + 1 == names.len() {
            let name = if binary { format!("{}iB", name.to_uppercase()) } else { format!("{name}B") };
            return Ok(format!("{:.1} {name}", bytes / unit));
        }
        unit *= base;
    }
    Ok(String::new())
}

/// Lines of at most `width` characters, cut between words.
fn word_wrap(
    text: Value,
    width: Option<usize>,
    break_words: Option<bool>,
    line_end: Option<String>,
    options: Kwargs,
) -> Result<String, Error> {
    let text = python::str(&text)?;
    let width = width.or(options.get("width")?).unwrap_or(79);
    let break_words = break_words.or(options.get("break_long_words")?).unwrap_or(true);
    let line_end = line_end.or(options.get("wrapstring")?).unwrap_or_else(|| "\n".into());
    options.assert_all_used()?;
    if width == 0 {
        return Err(invalid("wordwrap: expected a width of at least 1"));
    }
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut current = String::new();
        let mut size = 0;
        for word in line.split(' ') {
            let mut word: Vec<char> = word.chars().collect();
            if size > 0 && size + 1 + word.len() > width {
                lines.push(std::mem::take(&mut current).trim_end().to_string());
                size = 0;
            } else if !current.is_empty() {
                current.push(' ');
                size += 1;
            }
            while break_words && word.len() > width {
                let rest = word.split_off(width);
                lines.push(word.into_iter().collect());
                word = rest;
            }
            size += word.len();
            current.extend(word);
        }
        lines.push(current);
    }
    Ok(lines.join(&line_end))
}

pub fn add_to(env: &mut Environment) {
    use crate::rewrite::{CONCAT, DIVIDE, FLOOR_DIV, POWER, REMAINDER, TIMES};
    env.add_filter(FLOOR_DIV, |a: &Value, b: &Value| operators::floor_div(a, b));
    env.add_filter(REMAINDER, |a: &Value, b: &Value| operators::remainder(a, b));
    env.add_filter(POWER, |a: &Value, b: &Value| operators::power(a, b));
    env.add_filter(DIVIDE, |a: &Value, b: &Value| operators::divide(a, b));
    env.add_filter(TIMES, |a: &Value, b: &Value| operators::times(a, b));
    env.add_filter(CONCAT, |a: &Value, b: &Value| operators::concat(a, b));
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("join", join);
    env.add_filter("wordcount", word_count);
    env.add_filter("truncate", truncate);
    env.add_filter("urlencode", url_encode);
    env.add_filter("center", |text: Value, width: Option<i64>| methods::center(&python::str(&text)?, width.unwrap_or(80)));
    env.add_filter("forceescape", |text: Value| Ok::<_, Error>(Value::from_safe_string(escape(&python::str(&text)?))));
    for name in ["escape", "e"] {
        env.add_filter(name, |text: Value| match text.is_safe() {
            true => Ok(text),
            false => Ok::<_, Error>(Value::from_safe_string(escape(&python::str(&text)?))),
        });
    }
    env.add_filter("safe", |text: Value| Ok::<_, Error>(Value::from_safe_string(python::str(&text)?)));
    env.add_filter("xmlattr", xml_attributes);
    env.add_filter("striptags", strip_tags);
    env.add_filter("filesizeformat", file_size);
    env.add_filter("wordwrap", word_wrap);
    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    env.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
    env.add_function("joiner", minijinja_contrib::globals::joiner);
}
