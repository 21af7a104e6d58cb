//! The arguments of a filter, as jinja2 takes them: by place or by name.

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::Error;

use crate::faults::invalid;

/// The arguments of a filter by name, wherever the template gives them; the last may be named already.
pub struct Given {
    values: Vec<Option<Value>>,
}

impl Given {
    pub fn new(filter: &str, names: &[&str], args: Rest<Value>) -> Result<Given, Error> {
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

    pub fn value(&self, index: usize) -> Option<Value> {
        self.values[index].clone()
    }
    pub fn some(&self, index: usize) -> Option<Value> {
        self.value(index).filter(|v| !v.is_none() && !v.is_undefined())
    }
    pub fn flag(&self, index: usize, otherwise: bool) -> bool {
        self.value(index).map_or(otherwise, |v| v.is_true())
    }
}
