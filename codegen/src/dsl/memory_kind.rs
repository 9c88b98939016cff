//! What a pointer's type says of its memory: the element that it holds, where it lies, and how it may be used.

use super::kernel::Access;
use super::pointer::Ptr;
use super::value::{BF16, F16, Scalar};
use ptx::{Mod, Ty};

/// A type that memory can hold.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an element that device memory can hold",
    note = "elements are u8, i8, u16, i16, F16, BF16, u32, i32, f32, u64 and i64"
)]
pub trait Elem: Copy + 'static {
    /// Its PTX type in memory.
    const MEMORY: Ty;
    /// What a register holds: bytes and halves are widened to 32 bits by their sign.
    type Loaded: Scalar;
}

macro_rules! elements {
    ($($ty:ty, $memory:ident => $loaded:ty;)*) => {
        $(impl Elem for $ty { const MEMORY: Ty = Ty::$memory; type Loaded = $loaded; })*
    };
}
elements! {
    u8, U8 => u32; i8, S8 => i32; u16, U16 => u32; i16, S16 => i32; F16, B16 => F16; BF16, B16 => BF16;
    u32, U32 => u32; i32, S32 => i32; f32, F32 => f32; u64, U64 => u64; i64, S64 => i64;
}

/// How a pointer's memory may be used, and where it is.
pub trait Kind: 'static {
    /// `ptx::Mod::Global` or `Shared`.
    const SPACE: Mod;
    /// What the parameter says.
    const ACCESS: Access;
}
/// Memory that can be loaded from.
#[diagnostic::on_unimplemented(
    message = "an `Out` pointer is only written",
    note = "use `InOut<T>` to read as well"
)]
pub trait Readable: Kind {
    /// Modifiers of a load besides the space.
    const LOAD: &'static [Mod];
}
/// Memory that can be stored to.
#[diagnostic::on_unimplemented(
    message = "an `In`, `Fixed` or `Settled` pointer is only read",
    note = "use `Out<T>` or `InOut<T>` to write"
)]
pub trait Writable: Kind {}
/// Memory that threads may exchange values through.
#[diagnostic::on_unimplemented(message = "ordered accesses and atomics need `InOut<T>` or `Shared<T>`")]
pub trait Exchangeable: Readable + Writable {}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $space:ident, $access:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $kind;
        impl Kind for $kind { const SPACE: Mod = Mod::$space; const ACCESS: Access = Access::$access; }
    )*};
}
kinds! {
    /// Kind of `Fixed`.
    Lasting: Global, Read;
    /// Kind of `Settled`.
    OfStep: Global, Settled;
    /// Kind of `In`.
    ReadOnly: Global, Read;
    /// Kind of `Out`.
    WriteOnly: Global, Write;
    /// Kind of `InOut`.
    ReadWrite: Global, ReadWrite;
    /// Kind of `Shared`.
    OfCta: Shared, ReadWrite;
}
impl Readable for Lasting {
    const LOAD: &'static [Mod] = &[Mod::Nc];
}
impl Readable for OfStep {
    const LOAD: &'static [Mod] = &[Mod::Nc];
}
impl Readable for ReadOnly {
    const LOAD: &'static [Mod] = &[];
}
impl Readable for ReadWrite {
    const LOAD: &'static [Mod] = &[];
}
impl Readable for OfCta {
    const LOAD: &'static [Mod] = &[];
}
impl Writable for WriteOnly {}
impl Writable for ReadWrite {}
impl Writable for OfCta {}
impl Exchangeable for ReadWrite {}
impl Exchangeable for OfCta {}

/// Global memory that no launch of a model's step writes: weights, tables, what the host puts there before a step. Its loads go through the read-only path and
/// may come before [`wait_for_earlier`](super::intrinsics::wait_for_earlier).
pub type Fixed<T> = Ptr<T, Lasting>;
/// Global memory that was written before the step began, by the host or by a step before: what the kernel reads of it, no
/// launch before it in the step writes, nor itself. As of `Fixed`, it may be loaded before
/// [`wait_for_earlier`](super::intrinsics::wait_for_earlier): a step begins when all work before it is done. The plan refuses a
/// step whose earlier launches write such a parameter's buffer.
pub type Settled<T> = Ptr<T, OfStep>;
/// Global memory that the kernel only reads; an earlier launch may have written it.
pub type In<T> = Ptr<T, ReadOnly>;
/// Global memory that the kernel only writes.
pub type Out<T> = Ptr<T, WriteOnly>;
/// Global memory that the kernel reads and writes.
pub type InOut<T> = Ptr<T, ReadWrite>;
/// Shared memory of the CTA.
pub type Shared<T> = Ptr<T, OfCta>;
