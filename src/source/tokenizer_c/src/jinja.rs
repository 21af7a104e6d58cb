//! Filters and tests that minijinja has too, but otherwise than jinja2: other arguments, other results.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, State};

use crate::methods;
use crate::operators::{self, int, integer, invalid};
use crate::python;
use crate::values::{self, as_tuple, tuple, Range};

/// The arguments of a filter by name, wherever the template gives them; the last may be named already.
struct Given {
    values: Vec<Option<Value>>,
}

impl Given {
    fn new(filter: &str, names: &[&str], args: Rest<Value>) -> Result<Given, Error> {
        let mut args = args.0;
        let mut values: Vec<Option<Value>> = vec![None; names.len()];
        let named = match args.last().cloned().map(Kwargs::try_from) {
            Some(Ok(kwargs)) if args.last().is_some_and(Value::is_kwargs) => {
                args.pop();
                Some(kwargs)
            }
            _ => None,
        };
        if args.len() > names.len() {
            return Err(invalid(format!("{filter}: takes at most {} arguments, found {}", names.len(), args.len())));
        }
        for (slot, arg) in values.iter_mut().zip(args) {
            *slot = Some(arg);
        }
        if let Some(kwargs) = named {
            for (slot, name) in values.iter_mut().zip(names) {
                if kwargs.has(name) {
                    *slot = Some(kwargs.get(name)?);
                }
            }
            kwargs.assert_all_used()?;
        }
        Ok(Given { values })
    }

    fn value(&self, index: usize) -> Option<Value> {
        self.values[index].clone()
    }
    fn some(&self, index: usize) -> Option<Value> {
        self.value(index).filter(|v| !v.is_none() && !v.is_undefined())
    }
    fn flag(&self, index: usize, otherwise: bool) -> bool {
        self.value(index).map_or(otherwise, |v| v.is_true())
    }
}

/// A value at "a.b.0" of an item.
fn at_path(item: &Value, path: &Value) -> Result<Value, Error> {
    let mut found = item.clone();
    for step in python::str(path)?.split('.') {
        found = match step.parse::<usize>() {
            Ok(n) => found.get_item(&Value::from(n))?,
            Err(_) => found.get_item(&Value::from(step))?,
        };
    }
    Ok(found)
}

fn folded(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    }
}

fn items_of(filter: &str, value: &Value) -> Result<Vec<Value>, Error> {
    if value.is_none() {
        return Err(invalid(format!("{filter}: None holds nothing")));
    }
    Ok(value.try_iter()?.collect())
}

/// Values with their keys, by the keys.
fn sorted(op: &str, mut list: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<Value>, Error> {
    let mut failed = None;
    list.sort_by(|(a, _), (b, _)| {
        let (a, b) = if reverse { (b, a) } else { (a, b) };
        match operators::order(op, a, b) {
            Ok(found) => found.unwrap_or(Ordering::Equal),
            Err(error) => {
                failed.get_or_insert(error);
                Ordering::Equal
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(list.into_iter().map(|(_, value)| value).collect()),
    }
}

fn keyed(list: Vec<Value>, path: Option<Value>, case_sensitive: bool) -> Result<Vec<(Value, Value)>, Error> {
    let key = |item: &Value| -> Result<Value, Error> {
        Ok(folded(path.as_ref().map_or(Ok(item.clone()), |p| at_path(item, p))?, case_sensitive))
    };
    list.into_iter().map(|item| Ok((key(&item)?, item))).collect()
}

fn sort(value: Value, args: Rest<Value>) -> Result<Value, Error> {
    let given = Given::new("sort", &["reverse", "case_sensitive", "attribute"], args)?;
    let mut list: Vec<(Vec<Value>, Value)> = Vec::new();
    // Several attributes stand in one text, with commas.
    let paths: Vec<Value> = match given.some(2) {
        Some(p) => python::str(&p)?.split(',').map(Value::from).collect(),
        None => Vec::new(),
    };
    for item in items_of("sort", &value)? {
        let mut keys = Vec::new();
        for path in &paths {
            keys.push(folded(at_path(&item, path)?, given.flag(1, false)));
        }
        if paths.is_empty() {
            keys.push(folded(item.clone(), given.flag(1, false)));
        }
        list.push((keys, item));
    }
    let list =
        list.into_iter().map(|(mut k, v)| (if k.len() == 1 { k.remove(0) } else { Value::from(k) }, v)).collect();
    sorted("sort", list, given.flag(0, false)).map(Value::from)
}

fn unique(value: Value, args: Rest<Value>) -> Result<Value, Error> {
    let given = Given::new("unique", &["case_sensitive", "attribute"], args)?;
    let mut seen: Vec<Value> = Vec::new();
    let mut out = Vec::new();
    for (key, item) in keyed(items_of("unique", &value)?, given.some(1), given.flag(0, false))? {
        if !seen.iter().any(|s| operators::equal(s, &key)) {
            seen.push(key);
            out.push(item);
        }
    }
    Ok(Value::from(out))
}

fn extreme(filter: &'static str, wanted: Ordering) -> impl Fn(Value, Rest<Value>) -> Result<Value, Error> {
    move |value, args| {
        let given = Given::new(filter, &["case_sensitive", "attribute"], args)?;
        let mut best: Option<(Value, Value)> = None;
        for (key, item) in keyed(items_of(filter, &value)?, given.some(1), given.flag(0, false))? {
            let better = match &best {
                None => true,
                Some((found, _)) => operators::order(filter, &key, found)? == Some(wanted),
            };
            if better {
                best = Some((key, item));
            }
        }
        Ok(best.map_or(Value::UNDEFINED, |(_, item)| item))
    }
}

pub fn pairs_of(value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect()
}

fn dict_sort(value: Value, args: Rest<Value>) -> Result<Value, Error> {
    let given = Given::new("dictsort", &["case_sensitive", "by", "reverse"], args)?;
    if value.kind() != ValueKind::Map {
        return Err(invalid(format!("dictsort: expected a dict, found a value of kind {}", value.kind())));
    }
    let by = given.some(1).map_or(Ok("key".to_string()), |v| python::str(&v))?;
    if by != "key" && by != "value" {
        return Err(invalid("dictsort: sorts by \"key\" or \"value\""));
    }
    let mut list = Vec::new();
    for (key, found) in pairs_of(&value)? {
        let by_this = folded(if by == "key" { key.clone() } else { found.clone() }, given.flag(0, false));
        list.push((by_this, tuple(vec![key, found])));
    }
    sorted("dictsort", list, given.flag(2, false)).map(Value::from)
}

fn group_by(value: Value, args: Rest<Value>) -> Result<Value, Error> {
    let given = Given::new("groupby", &["attribute", "default", "case_sensitive"], args)?;
    let path = given.some(0).ok_or_else(|| invalid("groupby: expected an attribute"))?;
    let case_sensitive = given.flag(2, false);
    let mut list = Vec::new();
    for item in items_of("groupby", &value)? {
        let mut key = at_path(&item, &path)?;
        if key.is_undefined() {
            key = given.value(1).unwrap_or(Value::UNDEFINED);
        }
        list.push((folded(key.clone(), case_sensitive), tuple(vec![key, item])));
    }
    let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
    for pair in sorted("groupby", list, false)? {
        let key = pair.get_item(&Value::from(0))?;
        let item = pair.get_item(&Value::from(1))?;
        let same = folded(key.clone(), case_sensitive);
        match groups.last_mut() {
            Some((last, _, members)) if operators::equal(last, &same) => members.push(item),
            _ => groups.push((same, key, vec![item])),
        }
    }
    let named = |(_, key, members)| values::named_tuple(vec![key, Value::from(members)], &["grouper", "list"]);
    Ok(Value::from(groups.into_iter().map(named).collect::<Vec<_>>()))
}

fn sum(value: Value, args: Rest<Value>) -> Result<Value, Error> {
    let given = Given::new("sum", &["attribute", "start"], args)?;
    let mut total = given.value(1).unwrap_or_else(|| Value::from(0));
    if total.kind() == ValueKind::String {
        return Err(invalid("sum: texts are not summed up; the filter join joins them"));
    }
    for item in items_of("sum", &value)? {
        let item = given.some(0).map_or(Ok(item.clone()), |p| at_path(&item, &p))?;
        total = operators::add(&total, &item)?;
    }
    Ok(total)
}

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
    match values::method_of(value, name) {
        Some(method) => Ok(method),
        None => value.get_attr(name),
    }
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
    env.add_filter(names::SLICE, slice);
    env.add_filter(names::ITERATED, iterated);
    env.add_filter(names::GENERATOR, |_: Value| -> Result<Value, Error> {
        Err(invalid("an iterator is written instead of its values: add |list"))
    });
    env.add_filter("attr", attribute);
    env.add_filter("round", round);
    env.add_filter("sum", sum);
    env.add_filter("title", title);
    env.add_filter("upper", |value: Value| python::str(&value).map(|s| s.to_uppercase()));
    env.add_filter("lower", |value: Value| python::str(&value).map(|s| s.to_lowercase()));
    env.add_filter("trim", trim);
    env.add_filter("capitalize", |value: Value| python::str(&value).map(|s| methods::capitalize(&s)));
    env.add_filter("pprint", |value: Value| python::pretty(&value));
    env.add_filter("sort", sort);
    env.add_filter("unique", unique);
    env.add_filter("min", extreme("min", Ordering::Less));
    env.add_filter("max", extreme("max", Ordering::Greater));
    env.add_filter("dictsort", dict_sort);
    env.add_filter("groupby", group_by);
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

/// jinja2's own filters and tests; of these the environment lacks random and urlize.
pub const FILTERS: [&str; 52] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
    "xmlattr",
];
pub const TESTS: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];
