//! Metadata entries: the strict walk over them at load, which keeps only where each value lies, and the search by key.

use super::cursor::{Cursor, Span, Spot};
use super::error::{GgufError, Name};
use super::types::ValueType;

/// The most metadata entries accepted; real files have fewer than a hundred.
pub(super) const MAX_ENTRIES: u64 = 1 << 18;
/// The longest key, from the format's description.
pub(super) const MAX_KEY_BYTES: u64 = 65_535;
/// The longest string value. Chat templates, the longest known, stay under 1 MiB.
pub(super) const MAX_STRING_BYTES: u64 = 16 << 20;
/// How deep arrays may hold arrays.
pub(super) const MAX_NESTING: u32 = 4;
/// An empty entry: length, one byte of key, type, one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;

/// Where a key and its value lie in the private copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub key: Span,
    pub ty: ValueType,
    /// Offset of the value; for an array, of its element type.
    pub at: u32,
}

/// Refuses a count that the rest of the file cannot hold, or that is over `cap`.
pub(super) fn check_count(
    cur: &Cursor<'_>,
    what: &'static str,
    (offset, found): (u64, u64),
    (cap, min_bytes): (u64, u64),
) -> Result<(), GgufError> {
    let left = cur.left();
    let limit = cap.min(left / min_bytes);
    if found > limit {
        return Err(GgufError::Count { what, offset, found, limit, left });
    }
    Ok(())
}

/// Walks over all `n` entries, checking every value in them.
pub(super) fn parse(cur: &mut Cursor<'_>, n: (u64, u64)) -> Result<Vec<Entry>, GgufError> {
    check_count(cur, "metadata", n, (MAX_ENTRIES, MIN_ENTRY_BYTES))?;
    let mut entries = Vec::new();
    for idx in 0..n.1 {
        cur.spot = Spot::Entry(idx);
        let key = cur.string("key", MAX_KEY_BYTES)?;
        check_key(cur, key)?;
        cur.spot = Spot::Key(key);
        let ty = value_type(cur)?;
        let at = cur.offset() as u32;
        skip_value(cur, ty, 0)?;
        entries.push(Entry { key, ty, at });
    }
    Ok(entries)
}

fn check_key(cur: &Cursor<'_>, key: Span) -> Result<(), GgufError> {
    let raw = cur.bytes(key);
    let problem = match raw {
        [] => "is empty",
        _ if !raw.iter().all(|b| (0x20..0x7f).contains(b)) => "holds a character that is not printable ASCII",
        _ => return Ok(()),
    };
    Err(GgufError::BadName { place: cur.place(), offset: u64::from(key.at), found: Name::new(raw), problem })
}

fn value_type(cur: &mut Cursor<'_>) -> Result<ValueType, GgufError> {
    let offset = cur.offset();
    let id = cur.u32()?;
    let limit = ValueType::ALL.len() as u32 - 1;
    ValueType::from_id(id).ok_or_else(|| GgufError::ValueType {
        place: cur.place(),
        offset,
        found: id,
        limit,
    })
}

/// Steps over one value, checking it. Recursion ends at [`MAX_NESTING`].
fn skip_value(cur: &mut Cursor<'_>, ty: ValueType, depth: u32) -> Result<(), GgufError> {
    match ty {
        ValueType::Str => cur.string("string", MAX_STRING_BYTES).map(|_| ()),
        ValueType::Bool => skip_bools(cur, 1),
        ValueType::Array => skip_array(cur, depth + 1),
        number => cur.take(number.min_bytes()).map(|_| ()),
    }
}

fn skip_array(cur: &mut Cursor<'_>, depth: u32) -> Result<(), GgufError> {
    let offset = cur.offset();
    if depth > MAX_NESTING {
        return Err(GgufError::Nesting { place: cur.place(), offset, found: depth, limit: MAX_NESTING });
    }
    let elem = value_type(cur)?;
    let n = cur.u64()?;
    let wanted = u128::from(n) * u128::from(elem.min_bytes());
    if wanted > u128::from(cur.left()) {
        return Err(GgufError::ArrayLength {
            place: cur.place(),
            offset,
            found: n,
            wanted,
            left: cur.left(),
        });
    }
    match elem {
        ValueType::Str | ValueType::Array => (0..n).try_for_each(|_| skip_value(cur, elem, depth)),
        ValueType::Bool => skip_bools(cur, n),
        // `wanted` is at most what is left of the file, a u64.
        _ => cur.take(wanted as u64).map(|_| ()),
    }
}

fn skip_bools(cur: &mut Cursor<'_>, n: u64) -> Result<(), GgufError> {
    let span = cur.take(n)?;
    match cur.bytes(span).iter().enumerate().find(|(_, byte)| **byte > 1) {
        None => Ok(()),
        Some((idx, &found)) => {
            Err(GgufError::Bool { place: cur.place(), offset: u64::from(span.at) + idx as u64, found })
        }
    }
}

/// The numbers of `spans` in the order of their bytes, for binary search; `Err` with two numbers that have equal
/// bytes, the earlier first. Sorting and not hashing: no choice of names makes it slow.
pub(super) fn sort_names(copy: &[u8], spans: impl Fn(u32) -> Span, n: usize) -> Result<Vec<u32>, (u32, u32)> {
    let name = |idx: u32| spans(idx).of(copy);
    let mut order: Vec<u32> = (0..n as u32).collect();
    order.sort_unstable_by(|&a, &b| name(a).cmp(name(b)).then(a.cmp(&b)));
    match order.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
        Some(pair) => Err((pair[0], pair[1])),
        None => Ok(order),
    }
}
