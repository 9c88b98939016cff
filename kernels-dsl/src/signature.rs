//! The outside of a kernel: launch arguments, parameters, documentation, and the builder function around the body.

use crate::{branches, rewrite};
use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, Expr, ExprLit, FnArg, Ident, ItemFn, Lit, Meta, Pat, Result, ReturnType, Token, Type,
};

/// `grid = EXPR, block = EXPR [, min_ctas = EXPR]`.
pub struct Launch {
    grid: Expr,
    block: Expr,
    min_ctas: Option<Expr>,
}

impl Parse for Launch {
    fn parse(input: ParseStream<'_>) -> Result<Launch> {
        let (mut grid, mut block, mut min_ctas) = (None, None, None);
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            let slot = match key.to_string().as_str() {
                "grid" => &mut grid,
                "block" => &mut block,
                "min_ctas" => &mut min_ctas,
                other => {
                    let text = format!("unknown argument `{other}`: a kernel takes grid, block and min_ctas");
                    return Err(Error::new(key.span(), text));
                }
            };
            if slot.replace(input.parse::<Expr>()?).is_some() {
                return Err(Error::new(key.span(), format!("`{key}` is given twice")));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let need = |what: &str| {
            let text =
                format!("a kernel needs its launch shape: #[kernel(grid = …, block = …)] lacks `{what}`");
            Error::new(Span::call_site(), text)
        };
        Ok(Launch {
            grid: grid.ok_or_else(|| need("grid"))?,
            block: block.ok_or_else(|| need("block"))?,
            min_ctas,
        })
    }
}

/// Rewrites a `#[kernel]` function.
pub fn kernel(launch: &Launch, mut item: ItemFn) -> Result<TokenStream> {
    refuse_qualifiers(&item)?;
    if let ReturnType::Type(_, ty) = &item.sig.output {
        return Err(Error::new(
            ty.span(),
            "a kernel returns nothing: write results through an `Out` parameter",
        ));
    }
    let mut pointers = Vec::new();
    let mut host = syn::punctuated::Punctuated::<FnArg, Token![,]>::new();
    for arg in &item.sig.inputs {
        match arg {
            FnArg::Typed(typed) if is_pointer(&typed.ty) => match &*typed.pat {
                Pat::Ident(name) => pointers.push((name.ident.clone(), typed.ty.clone())),
                other => return Err(Error::new(other.span(), "a kernel parameter needs a plain name")),
            },
            other => host.push(other.clone()),
        }
    }
    branches::nest_guards(&mut item.block);
    rewrite::body(&item.sig, &mut item.block)?;
    item.sig.inputs = host;

    let dsl = quote!(::monomorph_codegen::dsl);
    let (doc, attrs) = split_docs(&item.attrs);
    let (sig, vis, body) = (&item.sig, &item.vis, &item.block);
    let (ident, inputs, generics, clause) =
        (&sig.ident, &sig.inputs, &sig.generics, &sig.generics.where_clause);
    let name = ident.to_string();
    let Launch { grid, block, min_ctas } = launch;
    let min_ctas = match min_ctas {
        Some(n) => quote!(::core::option::Option::Some(#n)),
        None => quote!(::core::option::Option::None),
    };
    let params = pointers.iter().map(|(name, ty)| {
        let text = name.to_string();
        quote_spanned!(name.span()=> let #name: #ty = #dsl::staging::param(#text);)
    });
    let docs = doc.iter().map(|line| quote!(#[doc = #line]));
    Ok(quote! {
        #(#docs)*
        #(#attrs)*
        #[allow(unused_mut, unused_assignments, unused_parens, unused_braces, unreachable_code, dead_code)]
        #[allow(clippy::all)]
        #vis fn #ident #generics (#inputs) -> ::core::result::Result<#dsl::Kernel, #dsl::BuildError> #clause {
            #[allow(unused_imports)]
            use #dsl::staging::{NameAny as _, NameDevice as _};
            let __recording = #dsl::staging::begin(#dsl::staging::Head {
                name: #name,
                doc: &[#(#doc),*],
                grid: #dsl::staging::dims(#grid),
                block: #dsl::staging::dims(#block),
                min_ctas: #min_ctas,
            })?;
            #(#params)*
            { #body }
            __recording.finish()
        }
    })
}

/// Rewrites a `#[device]` function.
pub fn device(args: TokenStream, mut item: ItemFn) -> Result<TokenStream> {
    if !args.is_empty() {
        return Err(Error::new(args.span(), "`#[device]` takes no arguments"));
    }
    refuse_qualifiers(&item)?;
    rewrite::body(&item.sig, &mut item.block)?;
    let (attrs, vis, sig, body) = (&item.attrs, &item.vis, &item.sig, &item.block);
    Ok(quote! {
        #(#attrs)*
        #[allow(unused_mut, unused_assignments, unused_parens, unused_braces, unreachable_code)]
        #[allow(clippy::all)]
        #vis #sig {
            #[allow(unused_imports)]
            use ::monomorph_codegen::dsl::staging::{NameAny as _, NameDevice as _};
            #body
        }
    })
}

fn refuse_qualifiers(item: &ItemFn) -> Result<()> {
    if let Some(token) = &item.sig.asyncness {
        return Err(Error::new(token.span(), "device code cannot be async: it is recorded in one pass"));
    }
    Ok(())
}

/// Whether a parameter's type is one of the device pointers, told by its last path segment.
fn is_pointer(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|s| {
            matches!(s.ident.to_string().as_str(), "Fixed" | "Settled" | "In" | "Out" | "InOut")
        }),
        _ => false,
    }
}

/// Takes the `///` lines out of the attributes, without the space that follows the slashes.
fn split_docs(attrs: &[Attribute]) -> (Vec<String>, Vec<&Attribute>) {
    let mut doc = Vec::new();
    let mut rest = Vec::new();
    for attr in attrs {
        let text = match &attr.meta {
            Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
                Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        };
        match text {
            Some(text) => {
                doc.extend(text.split('\n').map(|l| l.strip_prefix(' ').unwrap_or(l).trim_end().to_owned()))
            }
            None => rest.push(attr),
        }
    }
    (doc, rest)
}
