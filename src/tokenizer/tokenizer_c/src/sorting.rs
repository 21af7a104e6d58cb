//! Filters that order, group and sum up the items of a value.

use std::cmp::Ordering;

use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error};

use crate::faults::invalid;
use crate::given::Given;
use crate::operators;
use crate::python;
use crate::values::{self, tuple};

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

pub fn items_of(filter: &str, value: &Value) -> Result<Vec<Value>, Error> {
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

pub fn add_to(env: &mut Environment) {
    env.add_filter("sum", sum);
    env.add_filter("sort", sort);
    env.add_filter("unique", unique);
    env.add_filter("min", extreme("min", Ordering::Less));
    env.add_filter("max", extreme("max", Ordering::Greater));
    env.add_filter("dictsort", dict_sort);
    env.add_filter("groupby", group_by);
}
