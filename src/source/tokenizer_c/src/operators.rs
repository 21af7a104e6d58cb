//! Operators as Python defines them, where minijinja has others.

use minijinja::value::{Value, ValueKind};
use minijinja::{format_filter, Error, ErrorKind, FormatStyle};

use crate::python;

enum Numbers {
    Int(i128, i128),
    Float(f64, f64),
}

pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// An integer; true and false are 1 and 0, as in Python.
pub fn int(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f64> {
    match int(value) {
        Some(i) => Some(i as f64),
        None if value.kind() == ValueKind::Number => f64::try_from(value.clone()).ok(),
        None => None,
    }
}

fn numbers(op: &str, left: &Value, right: &Value) -> Result<Numbers, Error> {
    if let (Some(a), Some(b)) = (int(left), int(right)) {
        return Ok(Numbers::Int(a, b));
    }
    match (float(left), float(right)) {
        (Some(a), Some(b)) => Ok(Numbers::Float(a, b)),
        _ => Err(invalid(format!("unable to calculate {} {op} {}", left.kind(), right.kind()))),
    }
}

pub fn integer(value: Option<i128>, op: &str) -> Result<Value, Error> {
    let value = value.ok_or_else(|| invalid(format!("the result of {op} has more than 128 bits")))?;
    Ok(i64::try_from(value).map(Value::from).unwrap_or_else(|_| Value::from(value)))
}

fn zero(op: &str) -> Error {
    invalid(format!("{op} by zero"))
}

pub fn floor_div(left: &Value, right: &Value) -> Result<Value, Error> {
    match numbers("//", left, right)? {
        Numbers::Int(_, 0) => Err(zero("//")),
        Numbers::Float(_, b) if b == 0.0 => Err(zero("//")),
        Numbers::Int(a, b) => {
            let uneven = a.checked_rem(b).unwrap_or(0) != 0 && (a < 0) != (b < 0);
            integer(a.checked_div(b).map(|q| q - i128::from(uneven)), "//")
        }
        Numbers::Float(a, b) => Ok(Value::from((a / b).floor())),
    }
}

pub fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        return printf(format, right).map(Value::from);
    }
    match numbers("%", left, right)? {
        Numbers::Int(_, 0) => Err(zero("%")),
        Numbers::Float(_, b) if b == 0.0 => Err(zero("%")),
        Numbers::Int(a, b) => {
            let r = a.checked_rem(b).unwrap_or(0);
            integer(Some(if r != 0 && (r < 0) != (b < 0) { r + b } else { r }), "%")
        }
        Numbers::Float(a, b) => {
            let r = a % b;
            Ok(Value::from(if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }))
        }
    }
}

/// Conversions that a printf format asks for; `%%` asks for none.
fn conversions(format: &str) -> usize {
    format.replace("%%", "").matches('%').count()
}

/// `format % value`: a sequence gives as many values as there are conversions, anything else is one value.
fn printf(format: &str, value: &Value) -> Result<String, Error> {
    let one = std::slice::from_ref(value);
    let shown = |v: &Value| -> Result<Value, Error> {
        // %s writes what Python's str() gives.
        match v.kind() {
            ValueKind::Number | ValueKind::String => Ok(v.clone()),
            ValueKind::Bool if !format.contains("%s") => Ok(v.clone()),
            _ => python::str(v).map(Value::from),
        }
    };
    if value.kind() == ValueKind::Map {
        return format_filter(FormatStyle::Printf, format, one);
    }
    let list: Vec<Value> = match value.kind() {
        ValueKind::Seq | ValueKind::Iterable if value.len() == Some(conversions(format)) => value.try_iter()?.collect(),
        _ => one.to_vec(),
    };
    let list = list.iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    format_filter(FormatStyle::Printf, format, &list)
}

pub fn power(left: &Value, right: &Value) -> Result<Value, Error> {
    match numbers("**", left, right)? {
        Numbers::Int(a, b) if b >= 0 => integer(u32::try_from(b).ok().and_then(|b| a.checked_pow(b)), "**"),
        Numbers::Int(0, _) => Err(zero("0 ** a negative number is a division")),
        Numbers::Int(a, b) => Ok(Value::from((a as f64).powf(b as f64))),
        Numbers::Float(a, b) if a == 0.0 && b < 0.0 => Err(zero("0 ** a negative number is a division")),
        Numbers::Float(a, b) => Ok(Value::from(a.powf(b))),
    }
}

pub fn divide(left: &Value, right: &Value) -> Result<Value, Error> {
    let (a, b) = match numbers("/", left, right)? {
        Numbers::Int(a, b) => (a as f64, b as f64),
        Numbers::Float(a, b) => (a, b),
    };
    if b == 0.0 {
        return Err(zero("/"));
    }
    Ok(Value::from(a / b))
}

pub fn times(left: &Value, right: &Value) -> Result<Value, Error> {
    for (many, count) in [(left, right), (right, left)] {
        let Some(count) = int(count) else { continue };
        let count = usize::try_from(count.max(0)).map_err(|_| invalid("* by too large a number"))?;
        if let Some(text) = many.as_str() {
            if text.len().checked_mul(count).is_none_or(|n| n > isize::MAX as usize) {
                return Err(invalid("* makes too long a string"));
            }
            return Ok(Value::from(text.repeat(count)));
        }
        if matches!(many.kind(), ValueKind::Seq | ValueKind::Iterable) {
            let once: Vec<Value> = many.try_iter()?.collect();
            let mut all = Vec::new();
            for _ in 0..if once.is_empty() { 0 } else { count } {
                all.extend(once.iter().cloned());
            }
            return Ok(Value::from(all));
        }
    }
    match numbers("*", left, right)? {
        Numbers::Int(a, b) => integer(a.checked_mul(b), "*"),
        Numbers::Float(a, b) => Ok(Value::from(a * b)),
    }
}

pub fn concat(left: &Value, right: &Value) -> Result<Value, Error> {
    let mut text = python::str(left)?;
    text.push_str(&python::str(right)?);
    Ok(Value::from(text))
}
