//! Names that jinja2 defines and this engine does not have. Each use of one is an error that names it, because an
//! undefined name would be written as an empty text.

use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, Value};
use minijinja::{Environment, Error, State};

use crate::faults::unsupported;

/// Of every template. `self.block()` never asks for the value of `self`.
const GLOBALS: [&str; 2] = ["self", "lipsum"];

/// Of every macro, where no argument has the name.
pub const OF_MACRO: [&str; 2] = ["varargs", "kwargs"];

#[derive(Debug)]
pub struct Missing {
    name: &'static str,
}

impl Missing {
    pub fn fault(&self) -> Error {
        unsupported(self.name)
    }
}

impl Object for Missing {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::from(self.fault()))
    }
    fn call(self: &Arc<Self>, _: &State, _: &[Value]) -> Result<Value, Error> {
        Err(self.fault())
    }
    fn call_method(self: &Arc<Self>, _: &State, _: &str, _: &[Value]) -> Result<Value, Error> {
        Err(self.fault())
    }
}

/// An error where `value` stands for something that is missing.
pub fn check(value: &Value) -> Result<(), Error> {
    value.downcast_object_ref::<Missing>().map_or(Ok(()), |missing| Err(missing.fault()))
}

pub fn add_to(env: &mut Environment) {
    for name in GLOBALS {
        env.add_global(name, Value::from_object(Missing { name }));
    }
    // minijinja's own.
    env.remove_global("debug");
}
