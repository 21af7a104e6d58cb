//! Pages of this program: its own template, and values that a stranger may have written.

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};

use crate::budget::{on_a_thread, Limits};
use crate::faults::Failure;

/// Neither the template nor a value of parsed JSON (128 levels) takes more.
const STACK: usize = 16 << 20;

fn render_here(source: &str, context: &str) -> Result<String, Failure> {
    let context: serde_json::Value = serde_json::from_str(context)?;
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_keep_trailing_newline(true);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    Ok(env.render_named_str("page", source, Value::from_serialize(&context))?)
}

pub fn render(source: &str, context: &str) -> Result<String, Failure> {
    let size = source.len() + context.len();
    let limits = Limits {
        live: (64 << 20) + 32 * size,
        total: (1 << 30) + 256 * size as u64,
        seconds: 10.0 + size as f64 / (1 << 20) as f64,
    };
    let (source, context) = (source.to_string(), context.to_string());
    on_a_thread(limits, STACK, move || render_here(&source, &context))
}
