//! Filters and tests that minijinja has too, but otherwise than jinja2: other arguments, other results.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, State};

use crate::builtins;
use crate::faults::{invalid, unsupported};
use crate::given::Given;
use crate::methods;
use crate::numbers::{int, integer};
use crate::operators;
use crate::python;
use crate::sorting::{items_of, pairs_of};
use crate::values::{self, as_tuple, tuple, Range};

/// Python's round(value, places) of a float: the decimal text is exact, and its halves go to the even digit.
fn rounded(value: f64, places: i32) -> f64 {
    if !value.is_finite() || places > 300 {
        return value;
    }
    if places >= 0 {
        return format!("{value:.*}", places as usize).parse().unwrap_or(value);
    }
    let unit = 10f64.powi(-places);
    let scaled = value / unit;
    let whole = scaled.round_ties_even();
    whole * unit
}

fn round(value: Value, args: Rest<Value>) -> Result<Value, Error> {
    let given = Given::new("round", &["precision", "method"], args)?;
    let places = match given.some(0) {
        Some(v) => i32::try_from(v).map_err(|_| invalid("round: the precision is an integer"))?.clamp(-400, 400),
        None => 0,
    };
    // Python's round(x, None) gives an integer.
    let to_integer = given.value(0).is_some_and(|v| v.is_none());
    let method = given.some(1).map_or(Ok("common".to_string()), |v| python::str(&v))?;
    if let ("common", Some(i)) = (method.as_str(), int(&value)) {
        if places >= 0 {
            return integer(Some(i), "round");
        }
        let unit = 10i128.checked_pow(places.unsigned_abs());
        let Some(unit) = unit else { return Ok(Value::from(0)) };
        let (down, rest) = (i.div_euclid(unit), i.rem_euclid(unit));
        let up = rest * 2 > unit || (rest * 2 == unit && down % 2 != 0);
        return integer((down + i128::from(up)).checked_mul(unit), "round");
    }
    let number = match int(&value) {
        Some(i) => i as f64,
        None if value.kind() == ValueKind::Number => f64::try_from(value.clone())?,
        None => return Err(invalid(format!("round: expected a number, found a value of kind {}", value.kind()))),
    };
    match method.as_str() {
        "common" if to_integer => integer(Some(number.round_ties_even() as i128), "round"),
        "common" => Ok(Value::from(rounded(number, places))),
        "floor" | "ceil" => {
            let unit = 10f64.powi(places);
            let scaled = number * unit;
            let whole = if method == "floor" { scaled.floor() } else { scaled.ceil() };
            Ok(Value::from(whole / unit))
        }
        _ => Err(invalid("round: the method is common, ceil or floor")),
    }
}

fn title(value: Value) -> Result<String, Error> {
    let mut out = String::new();
    let mut first = true;
    for c in python::str(&value)?.chars() {
        let breaks = c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<');
        match (breaks, first) {
            (true, _) => out.push(c),
            (false, true) => out.extend(c.to_uppercase()),
            (false, false) => out.extend(c.to_lowercase()),
        }
        first = breaks;
    }
    Ok(out)
}

fn indent(value: Value, args: Rest<Value>) -> Result<String, Error> {
    let given = Given::new("indent", &["width", "first", "blank"], args)?;
    let pad = match given.value(0) {
        None => " ".repeat(4),
        Some(v) => match v.as_str() {
            Some(text) => text.to_string(),
            None => match i64::try_from(v)? {
                width if width > 10_000 => return Err(invalid("indent: a width above 10000")),
                width => " ".repeat(width.max(0) as usize),
            },
        },
    };
    let text = python::str(&value)? + "\n";
    let (first, blank) = (given.flag(1, false), given.flag(2, false));
    let mut out = String::new();
    for (i, line) in methods::lines(&text, false).iter().enumerate() {
        let line = line.as_str().unwrap_or_default();
        if i > 0 {
            out.push('\n');
        }
        if (i > 0 && (blank || !line.is_empty())) || (i == 0 && first) {
            out.push_str(&pad);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn replace(value: Value, args: Rest<Value>) -> Result<String, Error> {
    let given = Given::new("replace", &["old", "new", "count"], args)?;
    let part =
        |i: usize| given.value(i).map_or_else(|| Err(invalid("replace: expected two texts")), |v| python::str(&v));
    let (text, old, new) = (python::str(&value)?, part(0)?, part(1)?);
    let count = given.some(2).map(i64::try_from).transpose()?.and_then(|n| usize::try_from(n).ok());
    Ok(match count {
        Some(n) => text.replacen(&old, &new, n),
        None => text.replace(&old, &new),
    })
}

fn format(format: Value, args: Rest<Value>) -> Result<String, Error> {
    let values = match args.0.last().cloned() {
        Some(last) if last.is_kwargs() => {
            if args.0.len() > 1 {
                return Err(invalid("format: takes values or names, not both"));
            }
            let kwargs = Kwargs::try_from(last)?;
            let mut map = Vec::new();
            for name in kwargs.args() {
                map.push((name.to_string(), kwargs.get::<Value>(name)?));
            }
            map.into_iter().collect::<Value>()
        }
        _ => tuple(args.0),
    };
    crate::printf::printf(&python::str(&format)?, &values)
}

fn attribute(state: &State, value: &Value, name: &Value) -> Result<Value, Error> {
    let name = python::str(name)?;
    if values::is_dict(value) {
        return Ok(values::method_of(value, &name).unwrap_or(Value::UNDEFINED));
    }
    get_attribute(state, value, &name)
}

/// `value.name` where it is not called.
pub fn get_attribute(_: &State, value: &Value, name: &str) -> Result<Value, Error> {
    builtins::check(value)?;
    match values::method_of(value, name) {
        Some(method) => Ok(method),
        None if values::lacks(value, name) => Err(unsupported(&format!(
            "the attribute {name} of a {}",
            if value.kind() == ValueKind::Bool { ValueKind::Number } else { value.kind() }
        ))),
        None => value.get_attr(name),
    }
}

/// `value[key]`: the item, else, for a text, the attribute.
fn item(state: &State, value: &Value, key: &Value) -> Result<Value, Error> {
    builtins::check(value)?;
    let found = value.get_item(key)?;
    match key.as_str() {
        Some(name) if found.is_undefined() => get_attribute(state, value, name),
        _ => Ok(found),
    }
}

/// A name that jinja2 defines in every macro, and that counts here only where the template sets it.
fn of_macro(value: Value, name: &str) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(unsupported(name));
    }
    Ok(value)
}

fn trim(value: Value, args: Rest<Value>) -> Result<String, Error> {
    let given = Given::new("trim", &["chars"], args)?;
    let text = python::str(&value)?;
    Ok(match given.some(0) {
        Some(chars) => {
            let chars = python::str(&chars)?;
            text.trim_matches(|c| chars.contains(c)).to_string()
        }
        None => text.trim().to_string(),
    })
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| invalid(format!("a value of kind {} has no length", value.kind())))
}

fn list(value: &Value) -> Result<Value, Error> {
    items_of("list", value).map(Value::from)
}

/// What a loop runs over.
fn iterated(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None => Err(invalid("a loop over None")),
        _ => Ok(value),
    }
}

fn slice(value: &Value, start: Option<i64>, stop: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(invalid("the step of a slice is 0"));
    }
    let text = value.as_str();
    let items: Vec<Value> = match (text, value.kind()) {
        (Some(text), _) => text.chars().map(Value::from).collect(),
        (None, ValueKind::Seq) => value.try_iter()?.collect(),
        (None, kind) => return Err(invalid(format!("a value of kind {kind} cannot be sliced"))),
    };
    let length = items.len() as i64;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |p: Option<i64>, otherwise: i64| match p {
        None => otherwise,
        Some(p) if p < 0 => p.saturating_add(length).max(low),
        Some(p) => p.min(high),
    };
    let (mut at, end) =
        if step > 0 { (place(start, 0), place(stop, length)) } else { (place(start, high), place(stop, -1)) };
    let mut out = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        out.extend(items.get(at as usize).cloned());
        at = at.saturating_add(step);
    }
    if text.is_some() {
        return Ok(Value::from(out.iter().filter_map(Value::as_str).collect::<String>()));
    }
    Ok(if as_tuple(value).is_some() { tuple(out) } else { Value::from(out) })
}

fn range(start: i64, stop: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = stop.map_or((0, start), |stop| (start, stop));
    let range = Range { start, stop, step: step.unwrap_or(1) };
    if range.step == 0 {
        return Err(invalid("range: the step is 0"));
    }
    // The bound of jinja2's sandbox.
    if range.len() > 100_000 {
        return Err(invalid("range: more than 100000 numbers"));
    }
    Ok(Value::from_object(range))
}

fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
}

fn ordered(op: &'static str, fits: fn(Ordering) -> bool) -> impl Fn(&Value, &Value) -> Result<bool, Error> {
    move |a, b| Ok(operators::order(op, a, b)?.is_some_and(fits))
}

pub fn add_to(env: &mut Environment) {
    use crate::rewrite as names;
    env.add_filter(names::ADD, |a: &Value, b: &Value| operators::add(a, b));
    env.add_filter(names::EQUAL, |a: &Value, b: &Value| operators::equal(a, b));
    env.add_filter(names::UNEQUAL, |a: &Value, b: &Value| !operators::equal(a, b));
    env.add_filter(names::LESS, ordered("<", Ordering::is_lt));
    env.add_filter(names::AT_MOST, ordered("<=", Ordering::is_le));
    env.add_filter(names::MORE, ordered(">", Ordering::is_gt));
    env.add_filter(names::AT_LEAST, ordered(">=", Ordering::is_ge));
    env.add_filter(names::IN, |a: &Value, b: &Value| operators::contains(a, b));
    env.add_filter(names::TUPLE, |value: Value| Ok::<_, Error>(tuple(value.try_iter()?.collect())));
    env.add_filter(names::ATTRIBUTE, |state: &State, value: &Value, name: &str| get_attribute(state, value, name));
    env.add_filter(names::ITEM, item);
    env.add_filter(names::OF_MACRO, of_macro);
    env.add_filter(names::SLICE, slice);
    env.add_filter(names::ITERATED, iterated);
    env.add_filter(names::GENERATOR, |_: Value| -> Result<Value, Error> {
        Err(invalid("an iterator is written instead of its values: add |list"))
    });
    env.add_filter("attr", attribute);
    env.add_filter("round", round);
    env.add_filter("title", title);
    env.add_filter("upper", |value: Value| python::str(&value).map(|s| s.to_uppercase()));
    env.add_filter("lower", |value: Value| python::str(&value).map(|s| s.to_lowercase()));
    env.add_filter("trim", trim);
    env.add_filter("capitalize", |value: Value| python::str(&value).map(|s| methods::capitalize(&s)));
    env.add_filter("pprint", |value: Value| python::pretty(&value));
    env.add_filter("items", |value: &Value| match value.kind() {
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Map => {
            Ok(Value::from(pairs_of(value)?.into_iter().map(|(k, v)| tuple(vec![k, v])).collect::<Vec<_>>()))
        }
        kind => Err(invalid(format!("items: expected a dict, found a value of kind {kind}"))),
    });
    env.add_filter("indent", indent);
    env.add_filter("replace", replace);
    env.add_filter("format", format);
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("list", list);
    env.add_function("range", range);
    env.add_test("sequence", is_sequence);
    env.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    for name in ["eq", "equalto", "=="] {
        env.add_test(name, |a: &Value, b: &Value| operators::equal(a, b));
    }
    for name in ["ne", "!="] {
        env.add_test(name, |a: &Value, b: &Value| !operators::equal(a, b));
    }
    for name in ["lt", "lessthan", "<"] {
        env.add_test(name, ordered("<", Ordering::is_lt));
    }
    for name in ["le", "<="] {
        env.add_test(name, ordered("<=", Ordering::is_le));
    }
    for name in ["gt", "greaterthan", ">"] {
        env.add_test(name, ordered(">", Ordering::is_gt));
    }
    for name in ["ge", ">="] {
        env.add_test(name, ordered(">=", Ordering::is_ge));
    }
    env.add_test("in", |a: &Value, b: &Value| operators::contains(a, b));
}
