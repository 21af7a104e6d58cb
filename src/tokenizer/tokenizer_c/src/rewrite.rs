//! A parsed template with what Python defines otherwise than minijinja turned into filters of ours, and a look at the
//! names of its filters and tests: jinja2 refuses unknown ones before it renders anything.

use std::cell::{Cell, RefCell};

use minijinja::machinery::ast::{self, BinOpKind, CallArg, Expr, Spanned, Stmt};
use minijinja::machinery::Span;

use crate::builtins::OF_MACRO as OF_MACRO_NAMES;
use crate::names::{FILTERS, TESTS};
use crate::values;

/// The filter that stands for an operator; a name that no template can write.
pub const FLOOR_DIV: &str = "//";
pub const REMAINDER: &str = "%";
pub const POWER: &str = "**";
pub const DIVIDE: &str = "/";
pub const TIMES: &str = "*";
pub const CONCAT: &str = "~";
pub const ADD: &str = "+";
pub const EQUAL: &str = "==";
pub const UNEQUAL: &str = "!=";
pub const LESS: &str = "<";
pub const AT_MOST: &str = "<=";
pub const MORE: &str = ">";
pub const AT_LEAST: &str = ">=";
pub const IN: &str = "&in";
pub const TUPLE: &str = "(,)";
pub const ATTRIBUTE: &str = ".";
pub const ITEM: &str = "[]";
pub const OF_MACRO: &str = "&macro";
pub const SLICE: &str = "[:]";
pub const ITERATED: &str = "&for";
pub const GENERATOR: &str = "&text";

/// Filters that give an iterator in jinja2, whose text nobody wants.
const GENERATORS: [&str; 8] = ["map", "select", "reject", "selectattr", "rejectattr", "unique", "batch", "slice"];

/// Filters of a whole value.
const TAKING_WHOLE: [&str; 14] = [
    "tojson",
    "string",
    "trim",
    "upper",
    "lower",
    "title",
    "capitalize",
    "replace",
    "indent",
    "length",
    "count",
    "pprint",
    "center",
    "truncate",
];

fn operator(op: BinOpKind) -> Option<&'static str> {
    Some(match op {
        BinOpKind::FloorDiv => FLOOR_DIV,
        BinOpKind::Rem => REMAINDER,
        BinOpKind::Pow => POWER,
        BinOpKind::Div => DIVIDE,
        BinOpKind::Mul => TIMES,
        BinOpKind::Concat => CONCAT,
        BinOpKind::Add => ADD,
        BinOpKind::Eq => EQUAL,
        BinOpKind::Ne => UNEQUAL,
        BinOpKind::Lt => LESS,
        BinOpKind::Lte => AT_MOST,
        BinOpKind::Gt => MORE,
        BinOpKind::Gte => AT_LEAST,
        BinOpKind::In => IN,
        _ => return None,
    })
}

fn again<T, F: FnOnce(&T) -> T>(node: &Spanned<T>, make: F) -> Spanned<T> {
    Spanned::new(make(node), node.span())
}

/// A filter of ours on `value`.
fn filtered<'a>(name: &'static str, value: Expr<'a>, more: Vec<Expr<'a>>, span: Span) -> Expr<'a> {
    let args = more.into_iter().map(CallArg::Pos).collect();
    Expr::Filter(Spanned::new(ast::Filter { name, expr: Some(value), args }, span))
}

fn constant<'a>(value: minijinja::Value, span: Span) -> Expr<'a> {
    Expr::Const(Spanned::new(ast::Const { value }, span))
}

pub struct Rewriter<'s> {
    source: &'s str,
    /// The first fault of the template.
    pub fault: RefCell<Option<String>>,
    /// Directly within a condition, where jinja2 leaves unknown names until they are used.
    soft: Cell<bool>,
    /// Names that jinja2 would define here, within a macro.
    lacking: RefCell<Vec<&'static str>>,
}

impl<'s> Rewriter<'s> {
    pub fn new(source: &'s str) -> Self {
        Rewriter { source, fault: RefCell::new(None), soft: Cell::new(false), lacking: RefCell::default() }
    }

    fn refuse(&self, what: &str, span: Span) {
        self.fault.borrow_mut().get_or_insert_with(|| format!("{what} (in line {})", span.start_line));
    }

    fn within<T>(&self, soft: bool, rewrite: impl FnOnce() -> T) -> T {
        let before = self.soft.replace(soft);
        let result = rewrite();
        self.soft.set(before);
        result
    }

    fn check_filter(&self, name: &str, span: Span) {
        if self.soft.get() {
            return;
        }
        if matches!(name, "random" | "urlize") {
            self.refuse(&format!("the filter {name} is not supported"), span);
        } else if !FILTERS.contains(&name) {
            self.refuse(&format!("No filter named '{name}'"), span);
        }
    }

    /// minijinja reads tuples as lists; the source tells.
    fn is_tuple(&self, list: &ast::List, span: Span) -> bool {
        if list.items.first().is_some_and(|first| first.span().start_offset < span.start_offset) {
            return true;
        }
        self.source.as_bytes().get(span.start_offset as usize) != Some(&b'[')
    }

    fn may_name_an_attribute(&self, subscript: &Expr) -> bool {
        match subscript.as_const() {
            Some(key) => key.as_str().is_some_and(values::names_an_attribute),
            None => true,
        }
    }

    /// Names that are assigned to.
    fn target<'a>(&self, e: &Expr<'a>) -> Expr<'a> {
        match e {
            Expr::List(n) => {
                Expr::List(again(n, |n| ast::List { items: n.items.iter().map(|i| self.target(i)).collect() }))
            }
            Expr::GetAttr(n) => Expr::GetAttr(again(n, |n| ast::GetAttr { expr: self.expr(&n.expr), name: n.name })),
            Expr::Var(n) => Expr::Var(again(n, |n| ast::Var { id: n.id })),
            _ => self.expr(e),
        }
    }

    fn maybe<'a>(&self, e: &Option<Expr<'a>>) -> Option<Expr<'a>> {
        e.as_ref().map(|e| self.expr(e))
    }

    fn exprs<'a>(&self, list: &[Expr<'a>]) -> Vec<Expr<'a>> {
        list.iter().map(|e| self.expr(e)).collect()
    }

    fn args<'a>(&self, list: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
        let one = |arg: &CallArg<'a>| match arg {
            CallArg::Pos(e) => CallArg::Pos(self.expr(e)),
            CallArg::Kwarg(name, e) => CallArg::Kwarg(name, self.expr(e)),
            CallArg::PosSplat(e) => CallArg::PosSplat(self.expr(e)),
            CallArg::KwargSplat(e) => CallArg::KwargSplat(self.expr(e)),
        };
        list.iter().map(one).collect()
    }

    fn call<'a>(&self, c: &Spanned<ast::Call<'a>>) -> Spanned<ast::Call<'a>> {
        let called = match &c.expr {
            Expr::GetAttr(n) => Expr::GetAttr(again(n, |n| ast::GetAttr { expr: self.expr(&n.expr), name: n.name })),
            other => self.expr(other),
        };
        again(c, |c| ast::Call { expr: called, args: self.args(&c.args) })
    }

    fn body<'a>(&self, list: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
        self.within(false, || list.iter().map(|s| self.stmt(s)).collect())
    }

    fn expr<'a>(&self, e: &Expr<'a>) -> Expr<'a> {
        match e {
            Expr::Var(n) if self.lacking.borrow().contains(&n.id) => {
                let name = constant(n.id.into(), n.span());
                filtered(OF_MACRO, Expr::Var(again(n, |n| ast::Var { id: n.id })), vec![name], n.span())
            }
            Expr::Var(n) => Expr::Var(again(n, |n| ast::Var { id: n.id })),
            Expr::Const(n) => Expr::Const(again(n, |n| ast::Const { value: n.value.clone() })),
            Expr::Slice(n) => {
                let bound = |e: &Option<Expr<'a>>| {
                    self.maybe(e).unwrap_or_else(|| constant(minijinja::Value::from(()), n.span()))
                };
                let bounds = vec![bound(&n.start), bound(&n.stop), bound(&n.step)];
                filtered(SLICE, self.expr(&n.expr), bounds, n.span())
            }
            Expr::UnaryOp(n) => Expr::UnaryOp(again(n, |n| ast::UnaryOp {
                op: match n.op {
                    ast::UnaryOpKind::Not => ast::UnaryOpKind::Not,
                    ast::UnaryOpKind::Neg => ast::UnaryOpKind::Neg,
                },
                expr: self.expr(&n.expr),
            })),
            // minijinja folds `and` of constants to a truth value; Python gives one of the two.
            Expr::BinOp(n) if matches!(n.op, BinOpKind::ScAnd) && n.left.as_const().is_some() => {
                let truth = n.left.as_const().is_some_and(|v| v.is_true());
                let (left, right) = (self.expr(&n.left), self.expr(&n.right));
                if truth {
                    right
                } else {
                    left
                }
            }
            Expr::BinOp(n) => match operator(n.op) {
                Some(name) => Expr::Filter(Spanned::new(
                    ast::Filter { name, expr: Some(self.expr(&n.left)), args: vec![CallArg::Pos(self.expr(&n.right))] },
                    n.span(),
                )),
                None => Expr::BinOp(again(n, |n| ast::BinOp {
                    op: n.op,
                    left: self.expr(&n.left),
                    right: self.expr(&n.right),
                })),
            },
            Expr::Compare(n) => Expr::Compare(again(n, |n| ast::Compare {
                expr: self.expr(&n.expr),
                ops: n.ops.iter().map(|o| ast::CompareOp { op: o.op, expr: self.expr(&o.expr) }).collect(),
            })),
            Expr::IfExpr(n) => Expr::IfExpr(again(n, |n| ast::IfExpr {
                test_expr: self.within(true, || self.expr(&n.test_expr)),
                true_expr: self.within(true, || self.expr(&n.true_expr)),
                false_expr: self.within(true, || self.maybe(&n.false_expr)),
            })),
            Expr::Filter(n) => {
                self.check_filter(n.name, n.span());
                let iterates = matches!(&n.expr, Some(Expr::Filter(f)) if GENERATORS.contains(&f.name));
                let of = self.maybe(&n.expr);
                // An iterator has no JSON, and no text.
                let of = match of {
                    Some(e) if iterates && TAKING_WHOLE.contains(&n.name) => {
                        Some(filtered(GENERATOR, e, Vec::new(), n.span()))
                    }
                    other => other,
                };
                Expr::Filter(again(n, |n| ast::Filter { name: n.name, expr: of, args: self.args(&n.args) }))
            }
            Expr::Test(n) => {
                if !self.soft.get() && !TESTS.contains(&n.name) {
                    self.refuse(&format!("No test named '{}'", n.name), n.span());
                }
                Expr::Test(again(n, |n| ast::Test { name: n.name, expr: self.expr(&n.expr), args: self.args(&n.args) }))
            }
            Expr::GetAttr(n) if values::names_an_attribute(n.name) => {
                filtered(ATTRIBUTE, self.expr(&n.expr), vec![constant(n.name.into(), n.span())], n.span())
            }
            Expr::GetAttr(n) => Expr::GetAttr(again(n, |n| ast::GetAttr { expr: self.expr(&n.expr), name: n.name })),
            // A text may name an attribute, too.
            Expr::GetItem(n) if self.may_name_an_attribute(&n.subscript_expr) => {
                filtered(ITEM, self.expr(&n.expr), vec![self.expr(&n.subscript_expr)], n.span())
            }
            Expr::GetItem(n) => Expr::GetItem(again(n, |n| ast::GetItem {
                expr: self.expr(&n.expr),
                subscript_expr: self.expr(&n.subscript_expr),
            })),
            Expr::Call(n) => Expr::Call(self.call(n)),
            Expr::List(n) => {
                let list = Expr::List(again(n, |n| ast::List { items: self.exprs(&n.items) }));
                if self.is_tuple(n, n.span()) {
                    filtered(TUPLE, list, Vec::new(), n.span())
                } else {
                    list
                }
            }
            Expr::Map(n) => {
                Expr::Map(again(n, |n| ast::Map { keys: self.exprs(&n.keys), values: self.exprs(&n.values) }))
            }
        }
    }

    fn macro_of<'a>(&self, n: &Spanned<ast::Macro<'a>>) -> Spanned<ast::Macro<'a>> {
        let args: Vec<_> = n.args.iter().map(|arg| self.target(arg)).collect();
        let taken = |name: &str| args.iter().any(|arg| matches!(arg, Expr::Var(v) if v.id == name));
        let lacking = OF_MACRO_NAMES.into_iter().filter(|name| !taken(name)).collect();
        let before = self.lacking.replace(lacking);
        let body = self.body(&n.body);
        self.lacking.replace(before);
        again(n, |n| ast::Macro { name: n.name, args, defaults: self.exprs(&n.defaults), body })
    }

    pub fn stmt<'a>(&self, s: &Stmt<'a>) -> Stmt<'a> {
        match s {
            Stmt::Template(n) => Stmt::Template(again(n, |n| ast::Template { children: self.body(&n.children) })),
            Stmt::EmitExpr(n) => Stmt::EmitExpr(again(n, |n| {
                let written = self.expr(&n.expr);
                let iterates = matches!(&n.expr, Expr::Filter(f) if GENERATORS.contains(&f.name));
                let expr = if iterates { filtered(GENERATOR, written, Vec::new(), n.expr.span()) } else { written };
                ast::EmitExpr { expr }
            })),
            Stmt::EmitRaw(n) => Stmt::EmitRaw(again(n, |n| ast::EmitRaw { raw: n.raw })),
            Stmt::ForLoop(n) => Stmt::ForLoop(again(n, |n| ast::ForLoop {
                target: self.target(&n.target),
                iter: filtered(ITERATED, self.expr(&n.iter), Vec::new(), n.iter.span()),
                filter_expr: self.maybe(&n.filter_expr),
                recursive: n.recursive,
                body: self.body(&n.body),
                else_body: self.body(&n.else_body),
            })),
            Stmt::IfCond(n) => Stmt::IfCond(again(n, |n| ast::IfCond {
                expr: self.within(true, || self.expr(&n.expr)),
                true_body: self.within(true, || n.true_body.iter().map(|s| self.stmt(s)).collect()),
                false_body: self.within(true, || n.false_body.iter().map(|s| self.stmt(s)).collect()),
            })),
            Stmt::WithBlock(n) => Stmt::WithBlock(again(n, |n| ast::WithBlock {
                assignments: n.assignments.iter().map(|(a, b)| (self.target(a), self.expr(b))).collect(),
                body: self.body(&n.body),
            })),
            Stmt::Set(n) => {
                Stmt::Set(again(n, |n| ast::Set { target: self.target(&n.target), expr: self.expr(&n.expr) }))
            }
            Stmt::SetBlock(n) => Stmt::SetBlock(again(n, |n| ast::SetBlock {
                target: self.target(&n.target),
                filter: self.maybe(&n.filter),
                body: self.body(&n.body),
            })),
            Stmt::AutoEscape(n) => {
                self.refuse("the tag autoescape is not supported", n.span());
                Stmt::AutoEscape(again(n, |n| ast::AutoEscape {
                    enabled: self.expr(&n.enabled),
                    body: self.body(&n.body),
                }))
            }
            Stmt::FilterBlock(n) => Stmt::FilterBlock(again(n, |n| ast::FilterBlock {
                filter: self.expr(&n.filter),
                body: self.body(&n.body),
            })),
            Stmt::Block(n) => {
                Stmt::Block(again(n, |n| ast::Block { name: n.name, required: n.required, body: self.body(&n.body) }))
            }
            Stmt::Import(n) => {
                Stmt::Import(again(n, |n| ast::Import { expr: self.expr(&n.expr), name: self.expr(&n.name) }))
            }
            Stmt::FromImport(n) => Stmt::FromImport(again(n, |n| ast::FromImport {
                expr: self.expr(&n.expr),
                names: n.names.iter().map(|(a, b)| (self.expr(a), self.maybe(b))).collect(),
            })),
            Stmt::Extends(n) => Stmt::Extends(again(n, |n| ast::Extends { name: self.expr(&n.name) })),
            Stmt::Include(n) => {
                Stmt::Include(again(n, |n| ast::Include { name: self.expr(&n.name), ignore_missing: n.ignore_missing }))
            }
            Stmt::Macro(n) => Stmt::Macro(self.macro_of(n)),
            Stmt::CallBlock(n) => Stmt::CallBlock(again(n, |n| ast::CallBlock {
                call: self.call(&n.call),
                macro_decl: self.macro_of(&n.macro_decl),
            })),
            Stmt::Continue(n) => Stmt::Continue(again(n, |_| ast::Continue)),
            Stmt::Break(n) => Stmt::Break(again(n, |_| ast::Break)),
            Stmt::Do(n) => {
                self.refuse("unknown tag 'do'", n.span());
                Stmt::Do(again(n, |n| ast::Do { call: self.call(&n.call) }))
            }
        }
    }
}
