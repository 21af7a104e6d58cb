//! Errors: of the crate's functions, and of what a template does.

use minijinja::{Error, ErrorKind};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn unsupported(what: &str) -> Error {
    invalid(format!("{what} is not supported"))
}
