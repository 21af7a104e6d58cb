//! Python's `format % values`.

use minijinja::value::{Value, ValueKind};
use minijinja::Error;

use crate::faults::invalid;
use crate::numbers::int;
use crate::python;
use crate::values::as_tuple;

/// Largest width and precision: what a template may ask for.
const WIDEST: usize = 10_000;

struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    fn padded(&self, sign: &str, body: &str, zeros: bool) -> String {
        let missing = self.width.saturating_sub(sign.chars().count() + body.chars().count());
        match (self.left, zeros && self.zero) {
            (true, _) => format!("{sign}{body}{}", " ".repeat(missing)),
            (false, true) => format!("{sign}{}{body}", "0".repeat(missing)),
            (false, false) => format!("{}{sign}{body}", " ".repeat(missing)),
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, _, _) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        }
    }
}

fn wants(what: &str, conversion: char, found: &Value) -> Error {
    invalid(format!("%{conversion} wants {what}, found a value of kind {}", found.kind()))
}

fn integral(conversion: char, value: &Value, truncates: bool) -> Result<i128, Error> {
    if let Some(i) = int(value) {
        return Ok(i);
    }
    match value.kind() {
        ValueKind::Number if truncates => match f64::try_from(value.clone()) {
            Ok(f) if f.is_finite() && f.abs() < 1e38 => Ok(f.trunc() as i128),
            _ => Err(invalid(format!("%{conversion}: the number is too large"))),
        },
        _ => Err(wants(if truncates { "a number" } else { "an integer" }, conversion, value)),
    }
}

fn exponential(magnitude: f64, precision: usize, upper: bool) -> String {
    let text = format!("{magnitude:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mark = if upper { 'E' } else { 'e' };
    format!("{digits}{mark}{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn general(magnitude: f64, precision: usize, upper: bool, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let scientific = format!("{magnitude:.*e}", precision - 1);
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let fixed = exponent >= -4 && exponent < precision as i32;
    let text = match fixed {
        true => format!("{magnitude:.*}", (precision as i32 - 1 - exponent).max(0) as usize),
        false => exponential(magnitude, precision - 1, upper),
    };
    if keep_zeros || !text.contains('.') {
        return text;
    }
    match text.find(['e', 'E']) {
        Some(at) => {
            let digits = text[..at].trim_end_matches('0').trim_end_matches('.');
            format!("{digits}{}", &text[at..])
        }
        None => text.trim_end_matches('0').trim_end_matches('.').to_string(),
    }
}

fn converted(spec: &Spec, conversion: char, value: &Value) -> Result<String, Error> {
    let text = |s: String| {
        let s: String = match spec.precision {
            Some(n) => s.chars().take(n).collect(),
            None => s,
        };
        spec.padded("", &s, false)
    };
    match conversion {
        's' => Ok(text(python::str(value)?)),
        'r' => Ok(text(python::repr_of(value)?)),
        'a' => Ok(text(python::ascii_of(value)?)),
        'c' => match value.as_str() {
            Some(s) if s.chars().count() == 1 => Ok(spec.padded("", s, false)),
            _ => {
                let code = u32::try_from(integral('c', value, false)?).ok().and_then(char::from_u32);
                let c = code.ok_or_else(|| wants("a character or its number", 'c', value))?;
                Ok(spec.padded("", &c.to_string(), false))
            }
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let i = integral(conversion, value, matches!(conversion, 'd' | 'i' | 'u'))?;
            let magnitude = i.unsigned_abs();
            let (mark, digits) = match conversion {
                'x' => ("0x", format!("{magnitude:x}")),
                'X' => ("0X", format!("{magnitude:X}")),
                'o' => ("0o", format!("{magnitude:o}")),
                _ => ("", format!("{magnitude}")),
            };
            let digits = format!("{}{digits}", "0".repeat(spec.precision.unwrap_or(0).saturating_sub(digits.len())));
            let sign = format!("{}{}", spec.sign(i < 0), if spec.alternate { mark } else { "" });
            Ok(spec.padded(&sign, &digits, true))
        }
        _ => {
            let f = match int(value) {
                Some(i) => i as f64,
                None if value.kind() == ValueKind::Number => f64::try_from(value.clone())?,
                None => return Err(wants("a number", conversion, value)),
            };
            let sign = spec.sign(f.is_sign_negative() && !f.is_nan());
            let upper = conversion.is_ascii_uppercase();
            if !f.is_finite() {
                let name = if f.is_nan() { "nan" } else { "inf" };
                let name = if upper { name.to_uppercase() } else { name.to_string() };
                return Ok(spec.padded(sign, &name, false));
            }
            let precision = spec.precision.unwrap_or(6);
            let body = match conversion {
                'e' | 'E' => exponential(f.abs(), precision, upper),
                'g' | 'G' => general(f.abs(), precision, upper, spec.alternate),
                _ => format!("{:.precision$}", f.abs()),
            };
            Ok(spec.padded(sign, &body, true))
        }
    }
}

/// `format % value`: a tuple gives its items one by one, a dict by name, anything else is one value.
pub fn printf(format: &str, value: &Value) -> Result<String, Error> {
    let given: Vec<Value> = match as_tuple(value) {
        Some(tuple) => tuple.items.clone(),
        None => vec![value.clone()],
    };
    // Python counts what it took only for tuples and for values that cannot be asked for an item.
    let counted = as_tuple(value).is_some() || !matches!(value.kind(), ValueKind::Map | ValueKind::Seq);
    let mut next = 0;
    let mut take = || {
        let found = given.get(next).cloned().ok_or_else(|| invalid("not enough values for the format string"))?;
        next += 1;
        Ok::<Value, Error>(found)
    };
    let number = |v: Value| -> Result<i128, Error> { int(&v).ok_or_else(|| wants("an integer", '*', &v)) };
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut key = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let mut name = String::new();
            let mut depth = 1;
            for c in chars.by_ref() {
                depth += i32::from(c == '(') - i32::from(c == ')');
                if depth == 0 {
                    break;
                }
                name.push(c);
            }
            if depth != 0 {
                return Err(invalid("a key of the format string does not end"));
            }
            key = Some(name);
        }
        let mut spec =
            Spec { left: false, plus: false, space: false, zero: false, alternate: false, width: 0, precision: None };
        while let Some(flag) = chars.peek().copied() {
            match flag {
                '-' => spec.left = true,
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                '0' => spec.zero = true,
                '#' => spec.alternate = true,
                _ => break,
            }
            chars.next();
        }
        let size = |chars: &mut std::iter::Peekable<std::str::Chars>,
                    take: &mut dyn FnMut() -> Result<Value, Error>| {
            if chars.peek() == Some(&'*') {
                chars.next();
                return number(take()?);
            }
            let mut n: i128 = 0;
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                n = (n * 10 + i128::from(digit)).min(WIDEST as i128 + 1);
                chars.next();
            }
            Ok(n)
        };
        let width = size(&mut chars, &mut take)?;
        spec.left = spec.left || width < 0;
        spec.width = width.unsigned_abs() as usize;
        if chars.peek() == Some(&'.') {
            chars.next();
            spec.precision = Some(size(&mut chars, &mut take)?.max(0) as usize);
        }
        if spec.width > WIDEST || spec.precision.unwrap_or(0) > WIDEST {
            return Err(invalid(format!("a width or precision above {WIDEST}")));
        }
        while matches!(chars.peek(), Some('h' | 'l' | 'L')) {
            chars.next();
        }
        let conversion = chars.next().ok_or_else(|| invalid("the format string ends inside of a conversion"))?;
        if conversion == '%' {
            out.push('%');
            continue;
        }
        if !"diouxXeEfFgGcrsa".contains(conversion) {
            return Err(invalid(format!("the format string has the unknown conversion %{conversion}")));
        }
        let found = match key {
            Some(name) if value.kind() == ValueKind::Map => {
                let found = value.get_item(&Value::from(name.as_str()))?;
                if found.is_undefined() {
                    return Err(invalid(format!("the format string names {name:?}, which the dict does not have")));
                }
                found
            }
            Some(_) => return Err(invalid("a format string with keys wants a dict")),
            None => take()?,
        };
        out.push_str(&converted(&spec, conversion, &found)?);
    }
    if counted && next < given.len() {
        return Err(invalid("not all values are used by the format string"));
    }
    Ok(out)
}
