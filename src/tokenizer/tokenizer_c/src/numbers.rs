//! Numbers as Python has them.

use minijinja::value::{Value, ValueKind};
use minijinja::Error;

use crate::faults::invalid;

/// An integer; true and false are 1 and 0, as in Python.
pub fn int(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

pub fn float(value: &Value) -> Option<f64> {
    match int(value) {
        Some(i) => Some(i as f64),
        None if value.kind() == ValueKind::Number => f64::try_from(value.clone()).ok(),
        None => None,
    }
}

pub fn integer(value: Option<i128>, op: &str) -> Result<Value, Error> {
    let value = value.ok_or_else(|| invalid(format!("the result of {op} has more than 128 bits")))?;
    Ok(i64::try_from(value).map(Value::from).unwrap_or_else(|_| Value::from(value)))
}
