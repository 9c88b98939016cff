//! `for` and `while`: runtime loops over ranges, unrolled loops, and loops that stay Rust.

use crate::assigned;
use crate::literals::{is_untyped_int, typed_u32};
use crate::rewrite::{LoopKind, Rewriter};
use proc_macro2::TokenStream;
use quote::quote_spanned;
use syn::spanned::Spanned;
use syn::{Expr, ExprCall, ExprForLoop, ExprRange, ExprWhile, Pat, RangeLimits};

/// A range `lo..hi` with its step and the number of copies of the body in an iteration.
struct Range {
    bounds: ExprRange,
    step: Option<Expr>,
    copies: Option<Expr>,
}

/// What a `for` iterates over.
enum Source {
    Runtime(Box<Range>),
    Unrolled(Expr),
    Rust,
}

/// Rewrites a `for`; leaves it a Rust loop when it is one.
pub fn rewrite_for(rewriter: &mut Rewriter, mut for_loop: ExprForLoop) -> Expr {
    match source(rewriter, &for_loop.expr) {
        Source::Runtime(range) => runtime_for(rewriter, for_loop, *range),
        Source::Unrolled(inner) => {
            *for_loop.expr = inner;
            build_for(rewriter, for_loop)
        }
        Source::Rust => build_for(rewriter, for_loop),
    }
}

fn source(rewriter: &mut Rewriter, expr: &Expr) -> Source {
    match expr {
        Expr::Range(bounds) => {
            Source::Runtime(Box::new(Range { bounds: bounds.clone(), step: None, copies: None }))
        }
        Expr::Paren(paren) => source(rewriter, &paren.expr),
        Expr::MethodCall(call) => match (strip(&call.receiver), call.method.to_string().as_str()) {
            (Expr::Range(bounds), "step_by") if call.args.len() == 1 => {
                let step = call.args.first().cloned();
                Source::Runtime(Box::new(Range { bounds: bounds.clone(), step, copies: None }))
            }
            (Expr::Range(_), other) => {
                let text = format!(
                    "a runtime loop runs over `a..b` or `(a..b).step_by(s)`, not `.{other}()`: for a build-time \
                     iterator write `each(…)`"
                );
                rewriter.error(call.method.span(), &text);
                Source::Rust
            }
            _ => Source::Rust,
        },
        Expr::Call(call) => called(rewriter, call),
        _ => Source::Rust,
    }
}

fn called(rewriter: &mut Rewriter, call: &ExprCall) -> Source {
    let name = match &*call.func {
        Expr::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
        _ => None,
    };
    let args: Vec<&Expr> = call.args.iter().collect();
    match (name.as_deref(), args.as_slice()) {
        (Some("unroll"), [range]) => Source::Unrolled((*range).clone()),
        (Some("unroll"), [range, copies]) => match strip(range) {
            Expr::Range(bounds) => Source::Runtime(Box::new(Range {
                bounds: bounds.clone(),
                step: None,
                copies: Some((*copies).clone()),
            })),
            other => {
                rewriter.error(other.span(), "`unroll(range, k)` needs a range `a..b`");
                Source::Rust
            }
        },
        (Some("each"), [iter]) => Source::Unrolled((*iter).clone()),
        _ => Source::Rust,
    }
}

fn strip(expr: &Expr) -> &Expr {
    match expr {
        Expr::Paren(paren) => strip(&paren.expr),
        Expr::Group(group) => strip(&group.expr),
        other => other,
    }
}

fn build_for(rewriter: &mut Rewriter, mut for_loop: ExprForLoop) -> Expr {
    rewriter.expr(&mut for_loop.expr);
    rewriter.in_loop(LoopKind::BuildTime, |r| r.block(&mut for_loop.body));
    Expr::ForLoop(for_loop)
}

fn runtime_for(rewriter: &mut Rewriter, mut for_loop: ExprForLoop, range: Range) -> Expr {
    if let Some(label) = &for_loop.label {
        rewriter
            .error(label.span(), "a runtime loop takes no label: `break` and `continue` are not supported");
    }
    let Some((bounds, index)) = bounds_call(rewriter, range.bounds) else { return Expr::ForLoop(for_loop) };
    let name = match &*for_loop.pat {
        Pat::Ident(pat) => pat.ident.to_string(),
        Pat::Wild(_) => "i".to_owned(),
        other => {
            rewriter.error(other.span(), "the index of a runtime loop is a plain name");
            return Expr::ForLoop(for_loop);
        }
    };
    let carried = assigned::by_blocks([&for_loop.body], &rewriter.references);
    let names = carried.iter().map(|a| a.ident.to_string());
    let list = Rewriter::carry_list(&carried);
    let mut option = |expr: Option<Expr>, method: &str| match expr {
        Some(mut expr) => {
            rewriter.expr(&mut expr);
            let method = syn::Ident::new(method, expr.span());
            quote_spanned!(expr.span()=> .#method(#expr))
        }
        None => TokenStream::new(),
    };
    let step = option(range.step, "step");
    let copies = option(range.copies, "copies");
    rewriter.in_loop(LoopKind::Runtime, |r| r.block(&mut for_loop.body));
    let (pat, body) = (&for_loop.pat, &for_loop.body);
    Expr::Verbatim(quote_spanned!(index=> {
        let mut __loop = ::monomorph_codegen::dsl::staging::#bounds #step #copies .open(#name, &[#(#names),*]);
        while let ::core::option::Option::Some(#pat) = __loop.advance(#list) #body
    }))
}

/// `over(lo, hi)`, where the bound that is not a bare literal gives the index its type.
fn bounds_call(rewriter: &mut Rewriter, range: ExprRange) -> Option<(TokenStream, proc_macro2::Span)> {
    let span = range.span();
    if matches!(range.limits, RangeLimits::Closed(_)) {
        rewriter.error(range.limits.span(), "a runtime loop runs over a half-open range: write `a..b + 1`");
        return None;
    }
    let (Some(mut lo), Some(mut hi)) = (range.start, range.end) else {
        rewriter.error(span, "a runtime loop needs both bounds");
        return None;
    };
    if is_untyped_int(&lo) && is_untyped_int(&hi) {
        *hi = typed_u32(&hi);
    }
    let by_lo = is_untyped_int(&hi);
    rewriter.expr(&mut lo);
    rewriter.expr(&mut hi);
    let call = if by_lo {
        quote_spanned!(span=> over_from(#lo, #hi))
    } else {
        quote_spanned!(span=> over(#lo, #hi))
    };
    Some((call, span))
}

/// Rewrites `while cond { … }`: always a runtime loop.
pub fn rewrite_while(rewriter: &mut Rewriter, mut while_loop: ExprWhile) -> Expr {
    if let Some(label) = &while_loop.label {
        rewriter
            .error(label.span(), "a runtime loop takes no label: `break` and `continue` are not supported");
    }
    let carried = assigned::by_blocks([&while_loop.body], &rewriter.references);
    let names = carried.iter().map(|a| a.ident.to_string());
    let list = Rewriter::carry_list(&carried);
    rewriter.expr(&mut while_loop.cond);
    rewriter.in_loop(LoopKind::Runtime, |r| r.block(&mut while_loop.body));
    let (cond, body) = (&while_loop.cond, &while_loop.body);
    let test = quote_spanned!(cond.span()=> __loop.test(#cond));
    Expr::Verbatim(quote_spanned!(while_loop.while_token.span=> {
        let mut __loop = ::monomorph_codegen::dsl::staging::While::open(&[#(#names),*], #list);
        #test;
        #body
        __loop.close(#list);
    }))
}
