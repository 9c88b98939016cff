//! Literals: which initialisers make device values, and which integers need a type.

use quote::quote_spanned;
use syn::spanned::Spanned;
use syn::{Expr, ExprLit, Lit, Pat, Type, UnOp};

/// Whether the expression is a literal, perhaps negated.
pub fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Lit(ExprLit { lit, .. }) => matches!(lit, Lit::Int(_) | Lit::Float(_) | Lit::Bool(_)),
        Expr::Unary(unary) => matches!(unary.op, UnOp::Neg(_)) && is_literal(&unary.expr),
        Expr::Paren(paren) => is_literal(&paren.expr),
        Expr::Group(group) => is_literal(&group.expr),
        _ => false,
    }
}

/// Whether the expression is an integer literal without a suffix, whose type inference would have to guess.
pub fn is_untyped_int(expr: &Expr) -> bool {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Int(int), .. }) => int.suffix().is_empty(),
        Expr::Paren(paren) => is_untyped_int(&paren.expr),
        Expr::Group(group) => is_untyped_int(&group.expr),
        _ => false,
    }
}

/// Gives an untyped integer literal the suffix `u32`.
pub fn typed_u32(expr: &Expr) -> Expr {
    match expr {
        Expr::Lit(ExprLit { attrs, lit: Lit::Int(int) }) if int.suffix().is_empty() => Expr::Lit(ExprLit {
            attrs: attrs.clone(),
            lit: Lit::Int(syn::LitInt::new(&format!("{}u32", int.base10_digits()), int.span())),
        }),
        other => other.clone(),
    }
}

/// Makes device values of the literals in the initialiser of a `let mut`: floats, and integers with a suffix.
/// An annotated type other than `V<…>` says that the variable belongs to build time and leaves it alone.
pub fn lift_initialiser(pat: &Pat, init: &mut Expr) {
    let (pat, annotated) = match pat {
        Pat::Type(typed) => (&*typed.pat, Some(&*typed.ty)),
        other => (other, None),
    };
    if annotated.is_some_and(|ty| !mentions_device(ty)) || !is_mutable(pat) {
        return;
    }
    let liftable = if annotated.is_some() { is_literal } else { has_device_type };
    lift(init, liftable);
}

fn is_mutable(pat: &Pat) -> bool {
    match pat {
        Pat::Ident(ident) => ident.mutability.is_some(),
        Pat::Tuple(tuple) => tuple.elems.iter().all(is_mutable),
        _ => false,
    }
}

fn mentions_device(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|s| s.ident == "V"),
        Type::Array(array) => mentions_device(&array.elem),
        Type::Tuple(tuple) => tuple.elems.iter().all(mentions_device),
        _ => false,
    }
}

/// `liftable` says which literals become device values.
fn lift(expr: &mut Expr, liftable: fn(&Expr) -> bool) {
    match expr {
        Expr::Array(array) => array.elems.iter_mut().for_each(|e| lift(e, liftable)),
        Expr::Repeat(repeat) => lift(&mut repeat.expr, liftable),
        Expr::Tuple(tuple) => tuple.elems.iter_mut().for_each(|e| lift(e, liftable)),
        Expr::Paren(paren) => lift(&mut paren.expr, liftable),
        literal if is_literal(literal) && liftable(literal) => {
            let span = literal.span();
            *literal = Expr::Verbatim(quote_spanned!(span=> ::monomorph_codegen::dsl::dev(#literal)));
        }
        _ => {}
    }
}

fn has_device_type(expr: &Expr) -> bool {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Float(_), .. }) => true,
        Expr::Lit(ExprLit { lit: Lit::Int(int), .. }) => {
            matches!(int.suffix(), "u32" | "i32" | "u64" | "i64" | "f32" | "u16" | "i16")
        }
        Expr::Unary(unary) => has_device_type(&unary.expr),
        Expr::Paren(paren) => has_device_type(&paren.expr),
        _ => false,
    }
}
