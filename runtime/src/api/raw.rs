//! A layer as raw device addresses, and the checks of each of them before anything is enqueued.

use plan::{BufferDesc, QType, Role, Slot, WeightDesc};

use super::error::{ApiError, LayerField};
use super::layer::{Layer, LayerWeights, WeightRef};
use crate::error::Error;
use crate::model::Model;
use crate::queue::DeviceAddr;

/// What addresses given to a layer are multiples of: kernels load 16 bytes at a time.
pub const RAW_ALIGN: u64 = 16;

/// A weight somewhere in device memory, in the packed form of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawTensor {
    /// Address on the device, a multiple of [`RAW_ALIGN`].
    pub addr: u64,
    /// Length: [`WeightDesc::packed_bytes`].
    pub bytes: u64,
    /// Element type in the file that it was packed from.
    pub qtype: QType,
}

/// The weights of a layer as raw device memory.
pub type RawLayer = Layer<RawTensor>;

impl From<WeightRef<'_>> for RawTensor {
    fn from(weight: WeightRef<'_>) -> Self {
        Self { addr: weight.addr.0, bytes: weight.bytes, qtype: weight.desc.qtype }
    }
}

impl From<LayerWeights<'_>> for RawLayer {
    fn from(weights: LayerWeights<'_>) -> Self {
        let raw = |weight: WeightRef<'_>| RawTensor::from(weight);
        Self {
            attn_norm: raw(weights.attn_norm),
            q: raw(weights.q),
            k: raw(weights.k),
            v: raw(weights.v),
            o: raw(weights.o),
            ffn_norm: raw(weights.ffn_norm),
            gate: weights.gate.map(raw),
            up: raw(weights.up),
            down: raw(weights.down),
            q_bias: weights.q_bias.map(raw),
            k_bias: weights.k_bias.map(raw),
            v_bias: weights.v_bias.map(raw),
            o_bias: weights.o_bias.map(raw),
            up_bias: weights.up_bias.map(raw),
            down_bias: weights.down_bias.map(raw),
            q_norm: weights.q_norm.map(raw),
            k_norm: weights.k_norm.map(raw),
            attn_post_norm: weights.attn_post_norm.map(raw),
            ffn_post_norm: weights.ffn_post_norm.map(raw),
        }
    }
}

/// Device memory that a layer reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawMemory {
    /// Address on the device, a multiple of [`RAW_ALIGN`].
    pub addr: u64,
    /// Length.
    pub bytes: u64,
}

/// What a layer works on besides its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerIo {
    /// The token's residual stream, f32 `[dim]`; replaced by what the layer makes of it.
    pub hidden: RawMemory,
    /// Keys of the sequence in this layer, `[position][n_kv_heads][head_dim]` in rows of the table's
    /// [`plan::KvType`], at least up to `position`, whose row is written.
    pub k_cache: RawMemory,
    /// Values, likewise.
    pub v_cache: RawMemory,
    /// The token's position in its sequence; the caches hold all before it.
    pub position: u32,
}

/// A piece of memory with what it stands for.
#[derive(Clone, Copy)]
struct Piece {
    field: LayerField,
    memory: RawMemory,
}

impl Piece {
    fn check_address(self, layer: u32, wanted: u64) -> Result<(), ApiError> {
        let Self { field, memory: RawMemory { addr, bytes } } = self;
        if addr == 0 {
            return Err(ApiError::Null { layer, field, wanted });
        }
        if !addr.is_multiple_of(RAW_ALIGN) {
            return Err(ApiError::Misaligned { layer, field, addr, wanted: RAW_ALIGN });
        }
        match addr.checked_add(bytes) {
            Some(_) => Ok(()),
            None => Err(ApiError::Wraps { layer, field, addr, bytes }),
        }
    }

    /// Both ends were checked not to wrap.
    fn meets(self, other: Self) -> bool {
        let (a, b) = (self.memory, other.memory);
        a.addr < b.addr + b.bytes && b.addr < a.addr + a.bytes
    }
}

fn check_tensor((layer, role): (u32, Role), raw: RawTensor, desc: &WeightDesc) -> Result<Piece, ApiError> {
    let field = LayerField::Weight(role);
    let piece = Piece { field, memory: RawMemory { addr: raw.addr, bytes: raw.bytes } };
    piece.check_address(layer, desc.packed_bytes)?;
    if raw.qtype != desc.qtype {
        return Err(ApiError::Type { layer, field, found: raw.qtype, wanted: desc.qtype });
    }
    if raw.bytes != desc.packed_bytes {
        return Err(ApiError::Length { layer, field, found: raw.bytes, wanted: desc.packed_bytes });
    }
    Ok(piece)
}

/// Bytes of a cache that a step at `position` reads or writes.
pub(super) fn cache_bytes(desc: &BufferDesc, position: u32) -> u64 {
    desc.bytes.saturating_add(desc.bytes_per_pos.saturating_mul(u64::from(position) + 1))
}

/// Holds weights and memory of a layer against the model's table: after this every launch of the layer stays inside
/// of what it was given.
pub(super) fn check(model: &Model, layer: u32, weights: &RawLayer, io: &LayerIo) -> Result<(), Error> {
    model.check_layer(layer)?;
    let mut read = [None; RawLayer::ROLES.len()];
    for (piece, role) in read.iter_mut().zip(RawLayer::ROLES) {
        match (weights.get(role), model.weight_of(Some(layer), role)) {
            (Some(raw), Some(wanted)) => *piece = Some(check_tensor((layer, role), *raw, wanted.desc)?),
            (None, Some(_)) => return Err(model.missing(layer, role).into()),
            (Some(_), None) => return Err(unexpected(model, layer, role).into()),
            (None, None) => {}
        }
    }
    check_position(model, io.position)?;
    let written = check_io(model, layer, io)?;
    Ok(check_overlaps(layer, &written, &read)?)
}

fn unexpected(model: &Model, layer: u32, role: Role) -> ApiError {
    ApiError::Unexpected {
        layer,
        field: LayerField::Weight(role),
        architecture: model.table().dims.architecture.to_string(),
        spec: model.table().spec.to_string(),
    }
}

/// Rotations are tabled up to the model's context.
pub(super) fn check_position(model: &Model, position: u32) -> Result<(), Error> {
    let limit = model.context();
    if position < limit {
        return Ok(());
    }
    Err(Error::ContextFull { wanted: u64::from(position) + 1, limit })
}

fn check_io(model: &Model, layer: u32, io: &LayerIo) -> Result<[Piece; 3], Error> {
    let hidden = Piece { field: LayerField::Hidden, memory: io.hidden };
    let wanted = u64::from(model.table().dims.dim) * 4;
    hidden.check_address(layer, wanted)?;
    if io.hidden.bytes != wanted {
        let found = io.hidden.bytes;
        return Err(ApiError::Length { layer, field: LayerField::Hidden, found, wanted }.into());
    }
    let cache = |field, slot, memory: RawMemory| -> Result<Piece, Error> {
        let piece = Piece { field, memory };
        let wanted = cache_bytes(model.cache_of(slot)?, io.position);
        piece.check_address(layer, wanted)?;
        if memory.bytes < wanted {
            return Err(ApiError::Length { layer, field, found: memory.bytes, wanted }.into());
        }
        Ok(piece)
    };
    let k = cache(LayerField::KCache, Slot::KCache(layer), io.k_cache)?;
    let v = cache(LayerField::VCache, Slot::VCache(layer), io.v_cache)?;
    Ok([hidden, k, v])
}

/// What is written must be nothing else; weights may well share memory with each other.
fn check_overlaps(layer: u32, written: &[Piece], read: &[Option<Piece>]) -> Result<(), ApiError> {
    for (i, piece) in written.iter().enumerate() {
        let mut others = written.iter().skip(i + 1).chain(read.iter().flatten());
        if let Some(other) = others.find(|other| piece.meets(**other)) {
            return Err(ApiError::Overlap {
                layer,
                field: piece.field,
                addr: piece.memory.addr,
                other: other.field,
                other_addr: other.memory.addr,
            });
        }
    }
    Ok(())
}

impl RawMemory {
    pub(super) fn device(self) -> DeviceAddr {
        DeviceAddr(self.addr)
    }
}
