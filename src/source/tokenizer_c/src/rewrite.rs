//! A parsed template with the operators that Python defines otherwise than minijinja turned into filters of ours.

use minijinja::machinery::ast::{self, BinOpKind, CallArg, Expr, Spanned, Stmt};

/// The filter that stands for an operator; a name that no template can write.
pub const FLOOR_DIV: &str = "//";
pub const REMAINDER: &str = "%";
pub const POWER: &str = "**";
pub const DIVIDE: &str = "/";
pub const TIMES: &str = "*";
pub const CONCAT: &str = "~";

fn operator(op: BinOpKind) -> Option<&'static str> {
    Some(match op {
        BinOpKind::FloorDiv => FLOOR_DIV,
        BinOpKind::Rem => REMAINDER,
        BinOpKind::Pow => POWER,
        BinOpKind::Div => DIVIDE,
        BinOpKind::Mul => TIMES,
        BinOpKind::Concat => CONCAT,
        _ => return None,
    })
}

fn again<T, F: FnOnce(&T) -> T>(node: &Spanned<T>, make: F) -> Spanned<T> {
    Spanned::new(make(node), node.span())
}

fn maybe<'a>(e: &Option<Expr<'a>>) -> Option<Expr<'a>> {
    e.as_ref().map(expr)
}

fn exprs<'a>(list: &[Expr<'a>]) -> Vec<Expr<'a>> {
    list.iter().map(expr).collect()
}

fn args<'a>(list: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
    let one = |arg: &CallArg<'a>| match arg {
        CallArg::Pos(e) => CallArg::Pos(expr(e)),
        CallArg::Kwarg(name, e) => CallArg::Kwarg(name, expr(e)),
        CallArg::PosSplat(e) => CallArg::PosSplat(expr(e)),
        CallArg::KwargSplat(e) => CallArg::KwargSplat(expr(e)),
    };
    list.iter().map(one).collect()
}

fn call<'a>(c: &Spanned<ast::Call<'a>>) -> Spanned<ast::Call<'a>> {
    again(c, |c| ast::Call { expr: expr(&c.expr), args: args(&c.args) })
}

fn body<'a>(list: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
    list.iter().map(stmt).collect()
}

fn expr<'a>(e: &Expr<'a>) -> Expr<'a> {
    match e {
        Expr::Var(n) => Expr::Var(again(n, |n| ast::Var { id: n.id })),
        Expr::Const(n) => Expr::Const(again(n, |n| ast::Const { value: n.value.clone() })),
        Expr::Slice(n) => Expr::Slice(again(n, |n| ast::Slice {
            expr: expr(&n.expr),
            start: maybe(&n.start),
            stop: maybe(&n.stop),
            step: maybe(&n.step),
        })),
        Expr::UnaryOp(n) => Expr::UnaryOp(again(n, |n| ast::UnaryOp {
            op: match n.op {
                ast::UnaryOpKind::Not => ast::UnaryOpKind::Not,
                ast::UnaryOpKind::Neg => ast::UnaryOpKind::Neg,
            },
            expr: expr(&n.expr),
        })),
        Expr::BinOp(n) => match operator(n.op) {
            Some(name) => Expr::Filter(Spanned::new(
                ast::Filter { name, expr: Some(expr(&n.left)), args: vec![CallArg::Pos(expr(&n.right))] },
                n.span(),
            )),
            None => {
                Expr::BinOp(again(n, |n| ast::BinOp { op: n.op, left: expr(&n.left), right: expr(&n.right) }))
            }
        },
        Expr::Compare(n) => Expr::Compare(again(n, |n| ast::Compare {
            expr: expr(&n.expr),
            ops: n.ops.iter().map(|o| ast::CompareOp { op: o.op, expr: expr(&o.expr) }).collect(),
        })),
        Expr::IfExpr(n) => Expr::IfExpr(again(n, |n| ast::IfExpr {
            test_expr: expr(&n.test_expr),
            true_expr: expr(&n.true_expr),
            false_expr: maybe(&n.false_expr),
        })),
        Expr::Filter(n) => Expr::Filter(again(n, |n| ast::Filter {
            name: n.name,
            expr: maybe(&n.expr),
            args: args(&n.args),
        })),
        Expr::Test(n) => {
            Expr::Test(again(n, |n| ast::Test { name: n.name, expr: expr(&n.expr), args: args(&n.args) }))
        }
        Expr::GetAttr(n) => Expr::GetAttr(again(n, |n| ast::GetAttr { expr: expr(&n.expr), name: n.name })),
        Expr::GetItem(n) => Expr::GetItem(again(n, |n| ast::GetItem {
            expr: expr(&n.expr),
            subscript_expr: expr(&n.subscript_expr),
        })),
        Expr::Call(n) => Expr::Call(call(n)),
        Expr::List(n) => Expr::List(again(n, |n| ast::List { items: exprs(&n.items) })),
        Expr::Map(n) => Expr::Map(again(n, |n| ast::Map { keys: exprs(&n.keys), values: exprs(&n.values) })),
    }
}

fn macro_of<'a>(n: &Spanned<ast::Macro<'a>>) -> Spanned<ast::Macro<'a>> {
    again(n, |n| ast::Macro {
        name: n.name,
        args: exprs(&n.args),
        defaults: exprs(&n.defaults),
        body: body(&n.body),
    })
}

pub fn stmt<'a>(s: &Stmt<'a>) -> Stmt<'a> {
    match s {
        Stmt::Template(n) => Stmt::Template(again(n, |n| ast::Template { children: body(&n.children) })),
        Stmt::EmitExpr(n) => Stmt::EmitExpr(again(n, |n| ast::EmitExpr { expr: expr(&n.expr) })),
        Stmt::EmitRaw(n) => Stmt::EmitRaw(again(n, |n| ast::EmitRaw { raw: n.raw })),
        Stmt::ForLoop(n) => Stmt::ForLoop(again(n, |n| ast::ForLoop {
            target: expr(&n.target),
            iter: expr(&n.iter),
            filter_expr: maybe(&n.filter_expr),
            recursive: n.recursive,
            body: body(&n.body),
            else_body: body(&n.else_body),
        })),
        Stmt::IfCond(n) => Stmt::IfCond(again(n, |n| ast::IfCond {
            expr: expr(&n.expr),
            true_body: body(&n.true_body),
            false_body: body(&n.false_body),
        })),
        Stmt::WithBlock(n) => Stmt::WithBlock(again(n, |n| ast::WithBlock {
            assignments: n.assignments.iter().map(|(a, b)| (expr(a), expr(b))).collect(),
            body: body(&n.body),
        })),
        Stmt::Set(n) => Stmt::Set(again(n, |n| ast::Set { target: expr(&n.target), expr: expr(&n.expr) })),
        Stmt::SetBlock(n) => Stmt::SetBlock(again(n, |n| ast::SetBlock {
            target: expr(&n.target),
            filter: maybe(&n.filter),
            body: body(&n.body),
        })),
        Stmt::AutoEscape(n) => {
            Stmt::AutoEscape(again(n, |n| ast::AutoEscape { enabled: expr(&n.enabled), body: body(&n.body) }))
        }
        Stmt::FilterBlock(n) => {
            Stmt::FilterBlock(again(n, |n| ast::FilterBlock { filter: expr(&n.filter), body: body(&n.body) }))
        }
        Stmt::Block(n) => Stmt::Block(again(n, |n| ast::Block {
            name: n.name,
            required: n.required,
            body: body(&n.body),
        })),
        Stmt::Import(n) => Stmt::Import(again(n, |n| ast::Import { expr: expr(&n.expr), name: expr(&n.name) })),
        Stmt::FromImport(n) => Stmt::FromImport(again(n, |n| ast::FromImport {
            expr: expr(&n.expr),
            names: n.names.iter().map(|(a, b)| (expr(a), maybe(b))).collect(),
        })),
        Stmt::Extends(n) => Stmt::Extends(again(n, |n| ast::Extends { name: expr(&n.name) })),
        Stmt::Include(n) => {
            Stmt::Include(again(n, |n| ast::Include { name: expr(&n.name), ignore_missing: n.ignore_missing }))
        }
        Stmt::Macro(n) => Stmt::Macro(macro_of(n)),
        Stmt::CallBlock(n) => Stmt::CallBlock(again(n, |n| ast::CallBlock {
            call: call(&n.call),
            macro_decl: macro_of(&n.macro_decl),
        })),
        Stmt::Continue(n) => Stmt::Continue(again(n, |_| ast::Continue)),
        Stmt::Break(n) => Stmt::Break(again(n, |_| ast::Break)),
        Stmt::Do(n) => Stmt::Do(again(n, |n| ast::Do { call: call(&n.call) })),
    }
}
