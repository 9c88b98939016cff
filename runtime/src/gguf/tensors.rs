//! Tensor descriptions: each checked alone while it is read, then all of them against the file and each other.

use super::cursor::{Cursor, Span, Spot};
use super::entries::check_count;
use super::error::{GgufError, Name};
use super::types::GgmlType;

/// The most tensors accepted; the largest models have about two thousand.
pub(super) const MAX_TENSORS: u64 = 1 << 16;
/// The longest tensor name, from the format's description.
pub(super) const MAX_NAME_BYTES: u64 = 64;
/// The most dimensions of a tensor.
pub(super) const MAX_DIMS: u32 = 4;
/// Dimensions stay below 2^31, so that every index computed on a device from one fits 32 bits.
pub(super) const MAX_DIM: u64 = (1 << 31) - 1;
/// Length, one byte of name, dimension count, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// A tensor description that passed every check.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorInfo {
    pub name: Span,
    pub n_dims: u32,
    pub dims: [u64; MAX_DIMS as usize],
    pub ty: GgmlType,
    /// While parsing, from the data start as the file says; from the file start once placed.
    pub data_at: u64,
    pub bytes: u64,
}

impl TensorInfo {
    pub fn dims(&self) -> &[u64] {
        self.dims.get(..self.n_dims as usize).unwrap_or_default()
    }

    /// Where the file says where the data is: after name, dimension count, dimensions and type.
    fn offset_field(&self) -> u64 {
        u64::from(self.name.at) + u64::from(self.name.len) + 4 + 8 * u64::from(self.n_dims) + 4
    }
}

/// Reads all `n` descriptions; offsets and sizes are not yet compared with the file.
pub(super) fn parse(
    cur: &mut Cursor<'_>,
    n: (u64, u64),
    alignment: u32,
) -> Result<Vec<TensorInfo>, GgufError> {
    cur.spot = Spot::Header;
    check_count(cur, "tensor", n, (MAX_TENSORS, MIN_TENSOR_BYTES))?;
    let mut infos = Vec::new();
    for idx in 0..n.1 {
        cur.spot = Spot::TensorEntry(idx);
        let name = cur.string("name", MAX_NAME_BYTES)?;
        check_name(cur, name)?;
        cur.spot = Spot::Tensor(name);
        infos.push(parse_one(cur, name, u64::from(alignment))?);
    }
    Ok(infos)
}

fn check_name(cur: &Cursor<'_>, name: Span) -> Result<(), GgufError> {
    let raw = cur.bytes(name);
    let text = str::from_utf8(raw).unwrap_or_default();
    let problem = match text {
        "" => "is empty",
        _ if text.chars().any(char::is_control) => "holds a control character",
        _ => return Ok(()),
    };
    Err(GgufError::BadName { place: cur.place(), offset: u64::from(name.at), found: Name::new(raw), problem })
}

fn parse_one(cur: &mut Cursor<'_>, name: Span, alignment: u64) -> Result<TensorInfo, GgufError> {
    let (dims, n_dims) = parse_dims(cur, name)?;
    let offset = cur.offset();
    let id = cur.u32()?;
    let shown = || Name::new(cur.bytes(name));
    let problem = if GgmlType::is_removed(id) { "removed" } else { "unknown" };
    let ty = GgmlType::from_id(id).ok_or_else(|| GgufError::TensorType {
        tensor: shown(),
        offset,
        found: id,
        problem,
    })?;
    if !dims[0].is_multiple_of(ty.block_elems()) {
        let (found, limit) = (dims[0], ty.block_elems());
        return Err(GgufError::Row { tensor: shown(), offset, ty: ty.name(), found, limit });
    }
    // Four dimensions below 2^31 and blocks below 2^9 bytes stay below 2^133, so the product is checked; what does
    // not fit 64 bits does not fit any file.
    let bytes = ty.tensor_bytes(&dims[..n_dims as usize]).unwrap_or(u128::MAX);
    let bytes = u64::try_from(bytes).ok().filter(|&b| b <= cur.file_len()).ok_or_else(|| {
        GgufError::TensorSize { tensor: shown(), offset, found: bytes, limit: cur.file_len() }
    })?;
    let offset = cur.offset();
    let data_at = cur.u64()?;
    if !data_at.is_multiple_of(alignment) {
        return Err(GgufError::Unaligned {
            tensor: Name::new(cur.bytes(name)),
            offset,
            found: data_at,
            limit: alignment,
        });
    }
    Ok(TensorInfo { name, n_dims, dims, ty, data_at, bytes })
}

fn parse_dims(cur: &mut Cursor<'_>, name: Span) -> Result<([u64; MAX_DIMS as usize], u32), GgufError> {
    let offset = cur.offset();
    let n_dims = cur.u32()?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        let tensor = Name::new(cur.bytes(name));
        return Err(GgufError::DimCount { tensor, offset, found: n_dims, limit: MAX_DIMS });
    }
    let mut dims = [1; MAX_DIMS as usize];
    for (axis, dim) in (0..n_dims).zip(&mut dims) {
        let offset = cur.offset();
        *dim = cur.u64()?;
        if !(1..=MAX_DIM).contains(dim) {
            let tensor = Name::new(cur.bytes(name));
            return Err(GgufError::Dim { tensor, offset, axis, found: *dim, limit: MAX_DIM });
        }
    }
    Ok((dims, n_dims))
}

/// Turns offsets from the data start into offsets from the file start, and checks that every tensor lies inside the
/// file and none shares a byte with another. `copy` is for the names in errors.
pub(super) fn place(
    infos: &mut [TensorInfo],
    copy: &[u8],
    (data_start, file_len): (u64, u64),
) -> Result<(), GgufError> {
    for info in &mut *infos {
        let start = u128::from(data_start) + u128::from(info.data_at);
        let end = start + u128::from(info.bytes);
        if end > u128::from(file_len) {
            return Err(GgufError::Outside {
                tensor: Name::new(info.name.of(copy)),
                offset: info.offset_field(),
                found: end,
                limit: file_len,
            });
        }
        info.data_at = start as u64;
    }
    let mut order: Vec<u32> = (0..infos.len() as u32).collect();
    order.sort_unstable_by_key(|&idx| infos.get(idx as usize).map(|i| (i.data_at, i.name.at)));
    for pair in order.windows(2) {
        let (low, high) = (&infos[pair[0] as usize], &infos[pair[1] as usize]);
        let end = low.data_at + low.bytes;
        if high.data_at < end {
            return Err(GgufError::Overlap {
                tensor: Name::new(high.name.of(copy)),
                other: Name::new(low.name.of(copy)),
                offset: high.offset_field(),
                found: high.data_at,
                limit: end,
            });
        }
    }
    Ok(())
}
