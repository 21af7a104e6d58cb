//! Operators as Python defines them, where minijinja has others.

use minijinja::value::{Value, ValueKind};
use minijinja::Error;

use crate::faults::invalid;
use crate::numbers::{float, int, integer};
use crate::printf::printf;
use crate::python;
use crate::values::{as_tuple, tuple};

enum Numbers {
    Int(i128, i128),
    Float(f64, f64),
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
        if left.is_safe() {
            return Err(invalid("% of a text that is marked as safe is not supported"));
        }
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
            let repeated = text.repeat(count);
            return Ok(if many.is_safe() { Value::from_safe_string(repeated) } else { Value::from(repeated) });
        }
        if matches!(many.kind(), ValueKind::Seq | ValueKind::Iterable) {
            let once: Vec<Value> = many.try_iter()?.collect();
            let mut all = Vec::new();
            for _ in 0..if once.is_empty() { 0 } else { count } {
                all.extend(once.iter().cloned());
            }
            return Ok(if as_tuple(many).is_some() { tuple(all) } else { Value::from(all) });
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

pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

pub fn add(left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        // A text marked as safe escapes what it is added to, as markupsafe does.
        return Ok(match (left.is_safe(), right.is_safe()) {
            (false, false) => Value::from([a, b].concat()),
            (true, false) => Value::from_safe_string(a.to_string() + &escape(b)),
            (false, true) => Value::from_safe_string(escape(a) + b),
            (true, true) => Value::from_safe_string([a, b].concat()),
        });
    }
    if left.kind() == ValueKind::Seq && right.kind() == ValueKind::Seq {
        let tuples = as_tuple(left).is_some();
        if tuples != as_tuple(right).is_some() {
            return Err(invalid("unable to calculate + of a list and a tuple"));
        }
        let all: Vec<Value> = left.try_iter()?.chain(right.try_iter()?).collect();
        return Ok(if tuples { tuple(all) } else { Value::from(all) });
    }
    match numbers("+", left, right)? {
        Numbers::Int(a, b) => integer(a.checked_add(b), "+"),
        Numbers::Float(a, b) => Ok(Value::from(a + b)),
    }
}

pub fn equal(left: &Value, right: &Value) -> bool {
    if left.kind() == ValueKind::Seq && right.kind() == ValueKind::Seq {
        if as_tuple(left).is_some() != as_tuple(right).is_some() || left.len() != right.len() {
            return false;
        }
        if let (Ok(a), Ok(b)) = (left.try_iter(), right.try_iter()) {
            return a.zip(b).all(|(a, b)| equal(&a, &b));
        }
    }
    if let (Some(a), Some(b)) = (int(left), int(right)) {
        return a == b;
    }
    if let (Some(a), Some(b)) = (float(left), float(right)) {
        return a == b;
    }
    left == right
}

/// The order of two values that Python can compare.
pub fn order(op: &str, left: &Value, right: &Value) -> Result<Option<std::cmp::Ordering>, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    if left.kind() == ValueKind::Seq && right.kind() == ValueKind::Seq {
        if as_tuple(left).is_some() != as_tuple(right).is_some() {
            return Err(invalid(format!("unable to calculate {op} of a list and a tuple")));
        }
        for (a, b) in left.try_iter()?.zip(right.try_iter()?) {
            if !equal(&a, &b) {
                return order(op, &a, &b);
            }
        }
        return Ok(left.len().partial_cmp(&right.len()));
    }
    Ok(match numbers(op, left, right)? {
        Numbers::Int(a, b) => Some(a.cmp(&b)),
        Numbers::Float(a, b) => a.partial_cmp(&b),
    })
}

pub fn contains(item: &Value, container: &Value) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        let part = item.as_str().ok_or_else(|| invalid(format!("in: a text holds no value of kind {}", item.kind())))?;
        return Ok(text.contains(part));
    }
    match container.kind() {
        ValueKind::Undefined => Ok(false),
        ValueKind::Map => match item.kind() {
            ValueKind::Seq if as_tuple(item).is_none() => Err(invalid("in: a list is no key")),
            ValueKind::Map => Err(invalid("in: a dict is no key")),
            _ => Ok(container.try_iter()?.any(|key| equal(&key, item))),
        },
        ValueKind::Seq | ValueKind::Iterable => Ok(container.try_iter()?.any(|v| equal(&v, item))),
        kind => Err(invalid(format!("in: a value of kind {kind} holds nothing"))),
    }
}
