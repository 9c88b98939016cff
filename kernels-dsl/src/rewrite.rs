//! The walk over a body that turns Rust control flow and comparisons into calls of `dsl::staging`.

use crate::assigned::{self, Assigned};
use crate::{branches, literals, loops};
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use std::collections::BTreeSet;
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{BinOp, Block, Error, Expr, ExprBinary, FnArg, Ident, Item, Pat, Result, Signature, Stmt, Type};

/// Which loop encloses an expression, for `break` and `continue`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LoopKind {
    /// Recorded: the body runs once at build time.
    Runtime,
    /// An ordinary Rust loop of the build.
    BuildTime,
}

/// The state of the walk.
pub struct Rewriter {
    /// Parameters that are `&mut` references: assigning `a[i]` assigns the place `*a`.
    pub references: BTreeSet<String>,
    loops: Vec<LoopKind>,
    errors: Vec<Error>,
}

/// Rewrites the body of a kernel or device function in place.
pub fn body(sig: &Signature, block: &mut Block) -> Result<()> {
    let references = sig.inputs.iter().filter_map(reference_name).collect();
    let mut rewriter = Rewriter { references, loops: Vec::new(), errors: Vec::new() };
    rewriter.block(block);
    let mut errors = rewriter.errors.into_iter();
    match errors.next() {
        None => Ok(()),
        Some(mut first) => {
            first.extend(errors);
            Err(first)
        }
    }
}

fn reference_name(arg: &FnArg) -> Option<String> {
    match arg {
        FnArg::Typed(typed) => match (&*typed.pat, &*typed.ty) {
            (Pat::Ident(pat), Type::Reference(reference)) if reference.mutability.is_some() => {
                Some(pat.ident.to_string())
            }
            _ => None,
        },
        FnArg::Receiver(receiver) => receiver.mutability.is_some().then(|| "self".to_owned()),
    }
}

impl Rewriter {
    /// Reports that something cannot be staged.
    pub fn error(&mut self, span: Span, text: &str) {
        self.errors.push(Error::new(span, text));
    }

    /// Rewrites an expression in place.
    pub fn expr(&mut self, expr: &mut Expr) {
        self.visit_expr_mut(expr);
    }

    /// Rewrites a block in place.
    pub fn block(&mut self, block: &mut Block) {
        self.visit_block_mut(block);
    }

    /// Rewrites something inside a loop.
    pub fn in_loop(&mut self, kind: LoopKind, rewrite: impl FnOnce(&mut Self)) {
        self.loops.push(kind);
        rewrite(self);
        self.loops.pop();
    }

    /// `(&mut a, (&mut b, ()))`: a list whose types are checked one by one.
    pub fn carry_list(carried: &[Assigned]) -> TokenStream {
        carried.iter().rev().fold(quote!(()), |rest, assigned| {
            let borrow = assigned.borrow();
            quote_spanned!(assigned.ident.span()=> (#borrow, #rest))
        })
    }

    fn binary(&mut self, mut binary: ExprBinary) -> Expr {
        let compare = match binary.op {
            BinOp::Eq(_) => "eq",
            BinOp::Ne(_) => "ne",
            BinOp::Lt(_) => "lt",
            BinOp::Le(_) => "le",
            BinOp::Gt(_) => "gt",
            BinOp::Ge(_) => "ge",
            BinOp::And(_) if !branches::has_let(&binary.left) && !branches::has_let(&binary.right) => "and",
            BinOp::Or(_) => "or",
            _ => {
                visit_mut::visit_expr_binary_mut(self, &mut binary);
                return Expr::Binary(binary);
            }
        };
        visit_mut::visit_expr_binary_mut(self, &mut binary);
        let (left, right) = (&binary.left, &binary.right);
        let call = Ident::new(compare, binary.op.span());
        let path = quote_spanned!(binary.span()=> ::monomorph_codegen::dsl::staging::#call);
        Expr::Verbatim(match compare {
            "and" | "or" => quote_spanned!(binary.span()=> #path(#left, || #right)),
            _ => quote_spanned!(binary.span()=> #path(&(#left), &(#right))),
        })
    }

    fn leave(&mut self, span: Span, word: &str) {
        if self.loops.last() == Some(&LoopKind::Runtime) {
            let text = format!(
                "`{word}` is not supported in a runtime loop: put the rest of the body under `if`, or move the \
                 condition into `while`"
            );
            self.error(span, &text);
        }
    }

    /// Rewrites an expression that is not staged itself; says so when it cannot stand in device code.
    fn plain(&mut self, expr: &mut Expr) {
        match expr {
            Expr::Loop(l) => self.error(l.loop_token.span, "`loop` has no end that can be recorded: use `while`"),
            Expr::Return(r) => self.error(
                r.return_token.span,
                "`return` is supported only as the end of a guard at the top of a kernel: `if row >= n { return; }`",
            ),
            Expr::Try(t) => self.error(
                t.question_token.span(),
                "`?` cannot leave device code: compute fallible build-time values before the kernel, or report with `refuse(…)`",
            ),
            Expr::Await(a) => self.error(a.await_token.span, "device code cannot await"),
            Expr::Async(a) => self.error(a.async_token.span, "device code cannot be async"),
            Expr::Break(b) => self.leave(b.break_token.span, "break"),
            Expr::Continue(c) => self.leave(c.continue_token.span, "continue"),
            Expr::Closure(c) => {
                // A closure is a build-time function: loops around it are not its loops.
                let loops = std::mem::take(&mut self.loops);
                self.visit_expr_mut(&mut c.body);
                self.loops = loops;
                return;
            }
            Expr::Assign(assign) if literals::is_literal(&assign.right) => {
                self.visit_expr_mut(&mut assign.left);
                let (left, right) = (&assign.left, &assign.right);
                *expr = Expr::Verbatim(
                    quote_spanned!(assign.span()=> ::monomorph_codegen::dsl::staging::assign(&mut #left, #right)),
                );
                return;
            }
            _ => {}
        }
        visit_mut::visit_expr_mut(self, expr);
    }
}

fn placeholder() -> Expr {
    Expr::Verbatim(TokenStream::new())
}

impl VisitMut for Rewriter {
    fn visit_expr_mut(&mut self, expr: &mut Expr) {
        *expr = match std::mem::replace(expr, placeholder()) {
            Expr::Binary(binary) => self.binary(binary),
            Expr::If(mut branch) if !branches::has_let(&branch.cond) => branches::rewrite(self, &mut branch),
            Expr::ForLoop(for_loop) => loops::rewrite_for(self, for_loop),
            Expr::While(while_loop) if !branches::has_let(&while_loop.cond) => {
                loops::rewrite_while(self, while_loop)
            }
            mut other => {
                self.plain(&mut other);
                other
            }
        };
    }

    fn visit_block_mut(&mut self, block: &mut Block) {
        let mut stmts = Vec::with_capacity(block.stmts.len());
        for mut stmt in std::mem::take(&mut block.stmts) {
            let mut names = Vec::new();
            if let Stmt::Local(local) = &mut stmt
                && let Some(init) = &mut local.init
            {
                literals::lift_initialiser(&local.pat, &mut init.expr);
                names = assigned::bound(&local.pat);
            }
            self.visit_stmt_mut(&mut stmt);
            stmts.push(stmt);
            for ident in names {
                let name = ident.to_string();
                let call = quote_spanned!(ident.span()=> (&::monomorph_codegen::dsl::staging::Namer(&#ident)).give_name(#name));
                stmts.push(Stmt::Expr(Expr::Verbatim(call), Some(syn::token::Semi::default())));
            }
        }
        block.stmts = stmts;
    }

    fn visit_item_mut(&mut self, _: &mut Item) {}
}
