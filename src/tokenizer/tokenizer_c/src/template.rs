//! Chat templates, rendered as transformers renders them.

use std::error::Error as _;

use minijinja::machinery::ast::Stmt;
use minijinja::machinery::{make_string_output, parse, tokenize, CodeGenerator, Token, Vm, WhitespaceConfig};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error};

use crate::budget::{on_a_thread, Limits};
use crate::faults::{invalid, Failure};
use crate::python::{self, JsonStyle};
use crate::{builtins, filters, jinja, methods, rewrite, sorting};

/// Instructions that one rendering may take: a template of a file may loop without end. The largest templates in use
/// take some 300 for each message.
const FUEL: u64 = 10_000_000;

/// Largest template, in bytes, and most tokens between two braces: the parser and what follows it go one stack frame
/// deeper for each operator of a chain.
const LARGEST: usize = 1 << 20;
const LONGEST_TAG: usize = 10_000;

/// Largest text that a template may make, for each byte of the conversation and besides: it is tokenized afterwards,
/// which takes hundreds of times its size.
const GROWTH: usize = 8;
const GROWTH_OF_SHORT: usize = 512 << 10;

fn to_json(value: Value, ensure_ascii: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<Value>>("indent")?.filter(|v| !v.is_none() && !v.is_undefined());
    let indent = match indent {
        None => None,
        Some(v) if v.kind() == ValueKind::String => Some(v.as_str().unwrap_or_default().to_string()),
        Some(v) => Some(" ".repeat(i64::try_from(v)?.clamp(0, 64) as usize)),
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("tojson: separators wants two strings")),
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
    };
    let style = JsonStyle {
        indent,
        item_separator,
        key_separator,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: match ensure_ascii {
            Some(given) => given.is_true(),
            None => options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        },
    };
    options.assert_all_used()?;
    let mut out = String::new();
    style.write(&value, 0, &mut out)?;
    Ok(Value::from(out))
}

/// What raise_exception of a template says.
#[derive(Debug)]
struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{REFUSED}{}", self.0)
    }
}

impl std::error::Error for Refusal {}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(invalid(message.clone()).with_source(Refusal(message)))
}

fn strftime(format: &str, now: i64) -> Result<String, Error> {
    let failed = |what: &str| invalid(format!("strftime_now: {what}"));
    if format.is_empty() {
        return Ok(String::new());
    }
    let moment = if now >= 0 {
        now
    } else {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map(|d| d.as_secs() as i64).map_err(|_| failed("the system's clock is before 1970"))?
    };
    let pattern = std::ffi::CString::new(format).map_err(|_| failed("NUL in the format"))?;
    let mut buffer = [0u8; 512];
    let size = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&(moment as libc::time_t), &mut parts).is_null() {
            return Err(failed("no such moment"));
        }
        libc::strftime(buffer.as_mut_ptr() as *mut libc::c_char, buffer.len(), pattern.as_ptr(), &parts)
    };
    if size == 0 {
        return Err(failed("the result is empty or longer than 511 bytes"));
    }
    Ok(String::from_utf8_lossy(&buffer[..size]).into_owned())
}

/// transformers' {% generation %} only marks a span: it becomes {% if true %}, with the same trimming of white space.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inside = &rest[start + 2..start + length];
        let trims = |c| matches!(c, '-' | '+');
        let word = inside.trim_start_matches(trims).trim_end_matches(trims).trim();
        out.push_str(&rest[..start]);
        match word {
            "generation" => out.push_str(&format!("{{%{}%}}", inside.replace("generation", "if true"))),
            "endgeneration" => out.push_str(&format!("{{%{}%}}", inside.replace("endgeneration", "endif"))),
            _ => out.push_str(&rest[start..start + length + 2]),
        }
        rest = &rest[start + length + 2..];
    }
    out + rest
}

fn environment<'a>(now: i64) -> Environment<'a> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(methods::call);
    env.set_formatter(|out, _, value| out.write_str(&python::str(value)?).map_err(Error::from));
    filters::add_to(&mut env);
    builtins::add_to(&mut env);
    jinja::add_to(&mut env);
    sorting::add_to(&mut env);
    env.add_filter("tojson", to_json);
    env.add_filter("string", |value: Value| python::str(&value));
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", move |format: String| strftime(&format, now));
    env
}

/// The error and its causes: minijinja's own text names the template's line, a cause may hold more. The message of raise_exception
/// stands alone.
fn described(error: Error) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<Refusal>() {
            return inner.to_string().into();
        }
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text.into()
}

fn parsing(error: &str) -> Failure {
    format!("{UNPARSED}{error}").into()
}

/// What opens the message of a template that raises an exception.
const REFUSED: &str = "the chat template refuses this conversation: ";

/// What opens the message of a template that cannot be parsed, whatever the conversation.
const UNPARSED: &str = "the template cannot be parsed: ";

fn check_size(source: &str, syntax: &SyntaxConfig, white_space: WhitespaceConfig) -> Result<(), Failure> {
    if source.len() > LARGEST {
        return Err(parsing(&format!("it has {} bytes, more than the limit of {LARGEST}", source.len())));
    }
    let mut count = 0;
    for token in tokenize(source, false, syntax.clone(), white_space) {
        // What is no token is named by the parser.
        let Ok((token, span)) = token else { return Ok(()) };
        match token {
            Token::VariableStart | Token::BlockStart => count = 0,
            _ => count += 1,
        }
        if count > LONGEST_TAG {
            let line = span.start_line;
            return Err(parsing(&format!("the tag in line {line} has more than {LONGEST_TAG} parts")));
        }
    }
    Ok(())
}

const NAME: &str = "chat_template";

/// What is done with a template once it is parsed, and rewritten as Python has it.
fn with_parsed<T>(source: &str, then: impl FnOnce(&str, &Stmt) -> Result<T, Failure>) -> Result<T, Failure> {
    let syntax = SyntaxConfig::default();
    let white_space = WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    let source = without_generation(source);
    check_size(&source, &syntax, white_space)?;
    let parsed = parse(&source, NAME, syntax, white_space).map_err(|e| parsing(&described(e).to_string()))?;
    let rewriter = rewrite::Rewriter::new(&source);
    let ours = rewriter.stmt(&parsed);
    drop(parsed);
    match rewriter.fault.take() {
        Some(fault) => Err(parsing(&fault)),
        None => then(&source, &ours),
    }
}

fn render_here(source: &str, context: &str, now: i64) -> Result<String, Failure> {
    let size = context.len();
    let context: serde_json::Value = serde_json::from_str(context)?;
    if !context.is_object() {
        return Err("the template's context is no JSON object".into());
    }
    with_parsed(source, |source, ours| {
        let env = environment(now);
        let mut generator = CodeGenerator::new(NAME, source);
        generator.compile_stmt(ours);
        let (instructions, blocks) = generator.finish();
        let mut text = String::new();
        let root = Value::from_serialize(&context);
        let vm = Vm::new(&env);
        let output = &mut make_string_output(&mut text);
        vm.eval(&instructions, root, &blocks, output, AutoEscape::None).map_err(described)?;
        let most = GROWTH * size + GROWTH_OF_SHORT;
        if text.len() > most {
            return Err(format!(
                "it takes more than the limit of {most} bytes of text for this conversation, namely {}",
                text.len()
            )
            .into());
        }
        Ok(text)
    })
}

fn limits(size: usize) -> Limits {
    Limits { live: (64 << 20) + 16 * size, total: (4 << 30) + 64 * size as u64, seconds: 1.5 }
}

/// Whether the template can be parsed, and all its filters and tests are known.
pub fn check(source: &str) -> Result<(), Failure> {
    let limits = limits(source.len());
    let source = source.to_string();
    on_a_thread(limits, 8 * limits.live, move || with_parsed(&source, |_, _| Ok(())))
}

pub fn render(source: &str, context: &str, now: i64) -> Result<String, Failure> {
    let limits = limits(source.len() + context.len());
    // A value of nested lists is freed by recursion; each level takes more of the allowance than of the stack.
    let stack = 8 * limits.live;
    let (source, context) = (source.to_string(), context.to_string());
    on_a_thread(limits, stack, move || render_here(&source, &context, now))
}
