//! Which variables of the surroundings does a body assign? Those become phis of the branch or loop.
//!
//! The answer is syntactic: an assignment to `a`, `a.f`, `a[i]` or `*a`, a `&mut a`, or a method known to change its
//! receiver (`a.push(v)`) assigns the root `a`, unless the body itself declares `a` before.

use proc_macro2::TokenStream;
use quote::quote_spanned;
use std::collections::BTreeSet;
use syn::visit::{self, Visit};
use syn::{
    Arm, BinOp, Block, Expr, ExprAssign, ExprBinary, ExprClosure, ExprForLoop, ExprIf, ExprLet,
    ExprMethodCall, ExprReference, ExprWhile, Ident, Item, Local, Pat, PatIdent,
};

/// Methods that change their receiver in place, as far as arrays and `Vec`s of device values are concerned.
const CHANGING: &[&str] = &[
    "iter_mut",
    "push",
    "pop",
    "swap",
    "fill",
    "get_mut",
    "first_mut",
    "last_mut",
    "insert",
    "remove",
    "clear",
    "extend",
    "copy_from_slice",
    "clone_from_slice",
    "rotate_left",
    "rotate_right",
    "reverse",
    "truncate",
    "as_mut_slice",
    "as_mut",
    "chunks_mut",
    "chunks_exact_mut",
    "split_at_mut",
    "each_mut",
];

/// A variable that a body assigns.
pub struct Assigned {
    /// Its name, with the span of the first assignment.
    pub ident: Ident,
    /// Whether it is assigned through a reference, so that the place is `*ident`.
    pub through_reference: bool,
}

impl Assigned {
    /// `&mut place`, with the span of the assignment, so that a type error points there.
    pub fn borrow(&self) -> TokenStream {
        let ident = &self.ident;
        if self.through_reference {
            quote_spanned!(ident.span()=> &mut *#ident)
        } else {
            quote_spanned!(ident.span()=> &mut #ident)
        }
    }
}

/// The outer variables that the blocks assign, in order of their first assignment.
pub fn by_blocks<'a>(
    blocks: impl IntoIterator<Item = &'a Block>,
    references: &BTreeSet<String>,
) -> Vec<Assigned> {
    let mut finder = Finder { scopes: vec![BTreeSet::new()], found: Vec::new(), references };
    for block in blocks {
        finder.visit_block(block);
    }
    finder.found
}

/// The names that a pattern binds.
pub fn bound(pat: &Pat) -> Vec<Ident> {
    struct Names(Vec<Ident>);
    impl<'a> Visit<'a> for Names {
        fn visit_pat_ident(&mut self, pat: &'a PatIdent) {
            // A capitalised name in a pattern is a constant or a unit variant, not a binding.
            let name = pat.ident.to_string();
            if pat.subpat.is_some() || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
                self.0.push(pat.ident.clone());
            }
            visit::visit_pat_ident(self, pat);
        }
        fn visit_expr(&mut self, _: &'a Expr) {}
    }
    let mut names = Names(Vec::new());
    names.visit_pat(pat);
    names.0
}

/// How an assignment names its variable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    /// `a = …`, `a[i] = …`.
    Directly,
    /// `*a = …`.
    ThroughReference,
}

struct Finder<'r> {
    scopes: Vec<BTreeSet<String>>,
    found: Vec<Assigned>,
    references: &'r BTreeSet<String>,
}

impl Finder<'_> {
    fn declare(&mut self, pat: &Pat) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.extend(bound(pat).iter().map(Ident::to_string));
        }
    }

    fn scoped(&mut self, visit: impl FnOnce(&mut Self)) {
        self.scopes.push(BTreeSet::new());
        visit(self);
        self.scopes.pop();
    }

    fn assign(&mut self, place: &Expr) {
        match place {
            Expr::Path(path) => {
                if let Some(ident) = path.path.get_ident() {
                    self.note(ident, Reached::Directly);
                }
            }
            Expr::Index(index) => self.assign(&index.expr),
            Expr::Field(field) => self.assign(&field.base),
            Expr::Paren(paren) => self.assign(&paren.expr),
            Expr::Group(group) => self.assign(&group.expr),
            Expr::MethodCall(call) => self.assign(&call.receiver),
            Expr::Unary(unary) => match &*unary.expr {
                Expr::Path(path) => {
                    if let Some(ident) = path.path.get_ident() {
                        self.note(ident, Reached::ThroughReference);
                    }
                }
                other => self.assign(other),
            },
            Expr::Tuple(tuple) => tuple.elems.iter().for_each(|e| self.assign(e)),
            Expr::Array(array) => array.elems.iter().for_each(|e| self.assign(e)),
            _ => {}
        }
    }

    fn note(&mut self, ident: &Ident, reached: Reached) {
        let name = ident.to_string();
        if self.scopes.iter().any(|scope| scope.contains(&name)) || self.found.iter().any(|a| a.ident == name)
        {
            return;
        }
        let through_reference = reached == Reached::ThroughReference || self.references.contains(&name);
        self.found.push(Assigned { ident: ident.clone(), through_reference });
    }
}

impl<'a> Visit<'a> for Finder<'_> {
    fn visit_block(&mut self, block: &'a Block) {
        self.scoped(|f| visit::visit_block(f, block));
    }

    fn visit_local(&mut self, local: &'a Local) {
        if let Some(init) = &local.init {
            self.visit_expr(&init.expr);
            if let Some((_, diverge)) = &init.diverge {
                self.visit_expr(diverge);
            }
        }
        self.declare(&local.pat);
    }

    fn visit_expr_closure(&mut self, closure: &'a ExprClosure) {
        self.scoped(|f| {
            closure.inputs.iter().for_each(|pat| f.declare(pat));
            f.visit_expr(&closure.body);
        });
    }

    fn visit_expr_for_loop(&mut self, for_loop: &'a ExprForLoop) {
        self.visit_expr(&for_loop.expr);
        self.scoped(|f| {
            f.declare(&for_loop.pat);
            f.visit_block(&for_loop.body);
        });
    }

    fn visit_arm(&mut self, arm: &'a Arm) {
        self.scoped(|f| {
            f.declare(&arm.pat);
            visit::visit_arm(f, arm);
        });
    }

    fn visit_expr_if(&mut self, branch: &'a ExprIf) {
        self.scoped(|f| {
            f.visit_expr(&branch.cond);
            f.visit_block(&branch.then_branch);
        });
        if let Some((_, other)) = &branch.else_branch {
            self.visit_expr(other);
        }
    }

    fn visit_expr_while(&mut self, while_loop: &'a ExprWhile) {
        self.scoped(|f| {
            f.visit_expr(&while_loop.cond);
            f.visit_block(&while_loop.body);
        });
    }

    fn visit_expr_let(&mut self, condition: &'a ExprLet) {
        self.visit_expr(&condition.expr);
        self.declare(&condition.pat);
    }

    fn visit_expr_assign(&mut self, assign: &'a ExprAssign) {
        self.assign(&assign.left);
        visit::visit_expr_assign(self, assign);
    }

    fn visit_expr_binary(&mut self, binary: &'a ExprBinary) {
        if is_assignment(&binary.op) {
            self.assign(&binary.left);
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_reference(&mut self, reference: &'a ExprReference) {
        if reference.mutability.is_some() {
            self.assign(&reference.expr);
        }
        visit::visit_expr_reference(self, reference);
    }

    fn visit_expr_method_call(&mut self, call: &'a ExprMethodCall) {
        if CHANGING.contains(&call.method.to_string().as_str()) {
            self.assign(&call.receiver);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_item(&mut self, _: &'a Item) {}
}

fn is_assignment(op: &BinOp) -> bool {
    matches!(
        op,
        BinOp::AddAssign(_)
            | BinOp::SubAssign(_)
            | BinOp::MulAssign(_)
            | BinOp::DivAssign(_)
            | BinOp::RemAssign(_)
            | BinOp::BitXorAssign(_)
            | BinOp::BitAndAssign(_)
            | BinOp::BitOrAssign(_)
            | BinOp::ShlAssign(_)
            | BinOp::ShrAssign(_)
    )
}
