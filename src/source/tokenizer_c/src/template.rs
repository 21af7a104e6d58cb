//! Chat templates, rendered as transformers renders them.

use std::error::Error as _;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use crate::python::{self, JsonStyle};
use crate::Failure;

/// Instructions that one rendering may take: a template of a file may loop without end.
const FUEL: u64 = 50_000_000;

fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<Value>>("indent")?.filter(|v| !v.is_none() && !v.is_undefined());
    let indent = match indent {
        None => None,
        Some(v) if v.kind() == ValueKind::String => Some(v.as_str().unwrap_or_default().to_string()),
        Some(v) => Some(" ".repeat(i64::try_from(v)?.clamp(0, 64) as usize)),
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators wants two strings")),
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
    };
    let style = JsonStyle {
        indent,
        item_separator,
        key_separator,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(&value, 0, &mut out)?;
    Ok(Value::from(out))
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime(format: &str, now: i64) -> Result<String, Error> {
    let failed = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {what}"));
    if format.is_empty() {
        return Ok(String::new());
    }
    let moment = if now >= 0 {
        now
    } else {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map(|d| d.as_secs() as i64).map_err(|_| failed("the system's clock is before 1970"))?
    };
    let pattern = std::ffi::CString::new(format).map_err(|_| failed("NUL in the format"))?;
    let mut buffer = [0u8; 512];
    let size = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&(moment as libc::time_t), &mut parts).is_null() {
            return Err(failed("no such moment"));
        }
        libc::strftime(buffer.as_mut_ptr() as *mut libc::c_char, buffer.len(), pattern.as_ptr(), &parts)
    };
    if size == 0 {
        return Err(failed("the result is empty or longer than 511 bytes"));
    }
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

/// transformers' {% generation %} only marks a span: it becomes {% if true %}, with the same trimming of white space.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inside = &rest[start + 2..start + length];
        let trims = |c| matches!(c, '-' | '+');
        let word = inside.trim_start_matches(trims).trim_end_matches(trims).trim();
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&format!("{{%{}%}}", inside.replace("generation", "if true"))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", inside.replace("endgeneration", "endif"))),
            _ => out.push_str(&rest[start..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    out + rest
}

fn environment<'a>(now: i64) -> Environment<'a> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_formatter(|out, _, value| out.write_str(&python::str(value)?).map_err(Error::from));
    env.add_filter("tojson", to_json);
    env.add_filter("string", |value: Value| python::str(&value));
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: String| strftime(&format, now));
    env
}

/// The error and its causes: minijinja's own text names the template's line, a cause may hold raise_exception's message.
fn described(error: Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text.into()
}

pub fn render(source: &str, context: &str, now: i64) -> Result<String, Failure> {
    let context: serde_json::Value = serde_json::from_str(context)?;
    if !context.is_object() {
        return Err("the template's context is no JSON object".into());
    }
    let env = environment(now);
    let source = without_generation(source);
    let template = env.template_from_named_str("chat_template", &source).map_err(described)?;
    template.render(Value::from_serialize(&context)).map_err(described)
}
