//! Reads PTX text: what [`crate::print()`] writes, with any white space. A form is found by its row in the table, so
//! the parser knows no instruction of its own, and one that is not in the table is an error with its text and line.

mod body;
mod scan;

use thiserror::Error;

use crate::module::{Entry, Module, Param, RegBank, SharedDecl, Storage, Target};
use crate::types::Ty;
use body::Body;
use scan::Scanner;

/// Text that is no module of the subset.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: expected {expected}, found `{found}` in `{text}`")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text, without outer space.
    pub text: String,
    /// What would have fitted.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

/// Reads a module. The result has still to be verified.
///
/// # Errors
/// The first place where the text departs from the form that [`crate::print()`] writes.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let mut scan = Scanner::new(text);
    let header = scan.comments();
    scan.expect(".version")?;
    let version = version(&mut scan)?;
    scan.expect(".target")?;
    let target = target(&mut scan)?;
    scan.expect(".address_size")?;
    scan.expect("64")?;
    let mut entries = Vec::new();
    loop {
        let doc = scan.comments();
        if scan.at_end() && doc.is_empty() {
            return Ok(Module { header, version, target, entries });
        }
        entries.push(entry(&mut scan, doc)?);
    }
}

fn version(scan: &mut Scanner<'_>) -> Result<(u8, u8), ParseError> {
    let start = scan.place();
    let parsed = scan
        .word()
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.ok_or_else(|| scan.error_at(start, "a version such as 8.1"))
}

fn target(scan: &mut Scanner<'_>) -> Result<Target, ParseError> {
    let start = scan.place();
    let parsed = scan.word().strip_prefix("sm_").and_then(|rest| {
        let digits = rest.strip_suffix('a').unwrap_or(rest);
        Some(Target { sm: digits.parse().ok()?, arch_specific: digits != rest })
    });
    parsed.ok_or_else(|| scan.error_at(start, "a target such as sm_90"))
}

fn entry(scan: &mut Scanner<'_>, doc: Vec<String>) -> Result<Entry, ParseError> {
    let mut dynamic = Vec::new();
    while scan.accept(".extern") {
        scan.expect(".shared")?;
        dynamic.push(dynamic_decl(scan)?);
    }
    scan.expect(".visible")?;
    scan.expect(".entry")?;
    let name = scan.identifier()?;
    let params = params(scan)?;
    scan.expect(".reqntid")?;
    let reqntid = extents(scan)?;
    let min_ctas_per_sm =
        if scan.accept(".minnctapersm") { Some(scan.number("a number of CTAs")?) } else { None };
    scan.expect("{")?;
    let mut shared = Vec::new();
    while scan.accept(".shared") {
        shared.push(shared_decl(scan)?);
    }
    shared.extend(dynamic);
    let mut banks = Vec::new();
    while scan.accept(".reg") {
        banks.push(bank(scan)?);
    }
    let entry = Entry {
        name,
        doc,
        params,
        reqntid,
        min_ctas_per_sm,
        shared,
        banks,
        labels: Vec::new(),
        body: Vec::new(),
    };
    Body::new(entry).read(scan)
}

fn params(scan: &mut Scanner<'_>) -> Result<Vec<Param>, ParseError> {
    let mut params = Vec::new();
    scan.expect("(")?;
    if scan.accept(")") {
        return Ok(params);
    }
    loop {
        scan.expect(".param")?;
        let ty = scan.ty()?;
        params.push(Param { name: scan.identifier()?, ty });
        if !scan.accept(",") {
            scan.expect(")")?;
            return Ok(params);
        }
    }
}

/// `x, y, z`; those left out are 1, as PTX has it.
fn extents(scan: &mut Scanner<'_>) -> Result<[u32; 3], ParseError> {
    let mut extents = [1; 3];
    for (i, extent) in extents.iter_mut().enumerate() {
        if i > 0 && !scan.accept(",") {
            break;
        }
        *extent = scan.number("a number of threads")?;
    }
    Ok(extents)
}

/// Alignment and name of a shared variable, up to the bracket of its size.
fn shared_head(scan: &mut Scanner<'_>) -> Result<(u32, String), ParseError> {
    scan.expect(".align")?;
    let align = scan.number("an alignment in bytes")?;
    scan.expect(".b8")?;
    let name = scan.identifier()?;
    scan.expect("[")?;
    Ok((align, name))
}

fn dynamic_decl(scan: &mut Scanner<'_>) -> Result<SharedDecl, ParseError> {
    let (align, name) = shared_head(scan)?;
    scan.expect("]")?;
    scan.expect(";")?;
    Ok(SharedDecl { name, align, bytes: 0, storage: Storage::Dynamic })
}

fn shared_decl(scan: &mut Scanner<'_>) -> Result<SharedDecl, ParseError> {
    let (align, name) = shared_head(scan)?;
    let bytes = scan.number("a size in bytes")?;
    scan.expect("]")?;
    scan.expect(";")?;
    Ok(SharedDecl { name, align, bytes, storage: Storage::Static })
}

fn bank(scan: &mut Scanner<'_>) -> Result<RegBank, ParseError> {
    let ty: Ty = scan.ty()?;
    let start = scan.place();
    let name = scan.word().strip_prefix('%').and_then(|name| name.strip_suffix('_')).map(str::to_owned);
    let name = name.ok_or_else(|| scan.error_at(start, "a bank such as %acc_<3>"))?;
    scan.expect("<")?;
    let count = scan.number("a number of registers")?;
    scan.expect(">")?;
    scan.expect(";")?;
    Ok(RegBank { name, ty, count })
}
