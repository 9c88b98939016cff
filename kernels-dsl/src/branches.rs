//! `if`: decided at build time when the condition is a `bool`, recorded with both arms when it is a `V<bool>`.
//!
//! Which of the two it is only types can tell, so the macro emits code that serves both: the arms stay in place, in
//! Rust `if`s, and the type of the condition chooses the methods between them.

use crate::assigned;
use crate::rewrite::Rewriter;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit::Visit;
use syn::{Block, Expr, ExprIf, ExprLet, ExprReturn, Stmt};

/// Whether a condition binds with `let`, which only build-time values can.
pub fn has_let(cond: &Expr) -> bool {
    struct Lets(bool);
    impl<'a> Visit<'a> for Lets {
        fn visit_expr_let(&mut self, _: &'a ExprLet) {
            self.0 = true;
        }
        fn visit_block(&mut self, _: &'a Block) {}
    }
    let mut lets = Lets(false);
    lets.visit_expr(cond);
    lets.0
}

/// Turns `if c { …; return; } rest` at the top of a kernel into `if c { … } else { rest }`.
pub fn nest_guards(block: &mut Block) {
    let Some(at) = block.stmts.iter().position(is_guard) else { return };
    let mut rest = Block { brace_token: block.brace_token, stmts: block.stmts.split_off(at + 1) };
    nest_guards(&mut rest);
    if let Some(Stmt::Expr(Expr::If(branch), semi)) = block.stmts.last_mut() {
        branch.then_branch.stmts.pop();
        let rest = Expr::Block(syn::ExprBlock { attrs: Vec::new(), label: None, block: rest });
        branch.else_branch = Some((syn::token::Else::default(), Box::new(rest)));
        *semi = Some(syn::token::Semi::default());
    }
}

fn is_guard(stmt: &Stmt) -> bool {
    let Stmt::Expr(Expr::If(branch), _) = stmt else { return false };
    let ends = matches!(
        branch.then_branch.stmts.last(),
        Some(Stmt::Expr(Expr::Return(ExprReturn { expr: None, .. }), _))
    );
    ends && branch.else_branch.is_none() && !has_let(&branch.cond)
}

/// Rewrites an `if` whose condition has no `let`.
pub fn rewrite(rewriter: &mut Rewriter, branch: &mut ExprIf) -> Expr {
    let otherwise = match branch.else_branch.take() {
        None => None,
        Some((_, expr)) => match *expr {
            Expr::Block(block) => Some(block.block),
            other => Some(Block {
                brace_token: syn::token::Brace(other.span()),
                stmts: vec![Stmt::Expr(other, None)],
            }),
        },
    };
    let blocks = std::iter::once(&branch.then_branch).chain(otherwise.as_ref());
    let carried = assigned::by_blocks(blocks, &rewriter.references);
    let names = carried.iter().map(|a| a.ident.to_string());
    let names = quote!(&[#(#names),*]);
    let list = Rewriter::carry_list(&carried);

    rewriter.expr(&mut branch.cond);
    rewriter.block(&mut branch.then_branch);
    let otherwise = match otherwise {
        Some(mut block) => {
            rewriter.block(&mut block);
            quote!(#block)
        }
        None => quote!({}),
    };
    let (cond, then) = (&branch.cond, &branch.then_branch);
    let open = quote_spanned!(cond.span()=> ::monomorph_codegen::dsl::staging::Branch::open(#cond));
    Expr::Verbatim(quote_spanned!(branch.if_token.span=> {
        let mut __branch = #open;
        __branch.before(#list);
        let mut __then = ::core::option::Option::None;
        if __branch.wants_then() {
            let __value = #then;
            __branch.after_then(#list);
            __then = ::core::option::Option::Some(__value);
        }
        match __branch.settle(__then) {
            ::core::result::Result::Ok(__value) => __value,
            ::core::result::Result::Err(__held) => {
                let __value = #otherwise;
                __branch.join(__held, __value, #names, #list)
            }
        }
    }))
}
