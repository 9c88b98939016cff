//! Device pointers and the accesses through them; what their types may be is in [`memory_kind`](super::memory_kind).
//!
//! A pointer is a base and an offset of build time; indices of build time only change the offset, which becomes the
//! immediate of the address. Indices on the device are 32-bit and are widened once, in the address.

use super::memory_kind::{Elem, Exchangeable, Kind, Readable, Shared, Writable};
use super::record;
use super::value::{IntoV, Scalar, V, op};
use crate::ir::{Arg, MemBase, Operand};
use ptx::{Form, Imm, Mod, Mods, Op, Ty, Types};
use std::marker::PhantomData;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// A 64-bit global address or a 32-bit shared one.
    Value(Operand),
    /// A shared variable.
    Variable(u32),
}

/// Base and offset in bytes.
#[derive(Clone, Copy, Debug)]
struct Address {
    base: Base,
    offset: i64,
}

/// A typed device pointer.
#[derive(Debug)]
pub struct Ptr<T, K> {
    address: Address,
    kind: PhantomData<(T, K)>,
}
impl<T, K> Clone for Ptr<T, K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, K> Copy for Ptr<T, K> {}

/// One element (or the first of a few) behind a pointer.
#[derive(Debug)]
pub struct Place<T, K> {
    address: Address,
    hints: Mods,
    kind: PhantomData<(T, K)>,
}
impl<T, K> Clone for Place<T, K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, K> Copy for Place<T, K> {}

/// An index, in elements.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot index device memory",
    note = "indices are V<u32>, V<i32>, V<u64>, or u32, i32, usize at build time"
)]
pub trait Index {
    #[doc(hidden)]
    fn resolve(self) -> Idx;
}
/// An index, resolved.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum Idx {
    /// Known at build time.
    Const(i64),
    /// On the device, of that type.
    Device(Ty, Operand),
}
macro_rules! index {
    ($($ty:ty),*; $($device:ty),*) => {
        $(impl Index for $ty { fn resolve(self) -> Idx { Idx::Const(self as i64) } })*
        $(impl Index for V<$device> {
            fn resolve(self) -> Idx {
                match self.operand {
                    Operand::Imm(imm) if <$device>::TY == Ty::S32 => Idx::Const(i64::from(imm.0 as i32)),
                    Operand::Imm(imm) => Idx::Const(imm.0 as i64),
                    operand => Idx::Device(<$device>::TY, operand),
                }
            }
        })*
    };
}
index!(u32, i32, usize; u32, i32, u64);

impl Address {
    fn moved(self, index: Idx, bytes: u32, space: Mod) -> Address {
        match index {
            Idx::Const(n) => {
                Address { offset: self.offset.saturating_add(n.saturating_mul(i64::from(bytes))), ..self }
            }
            Idx::Device(ty, index) => {
                let base = if space == Mod::Shared {
                    self.shared(index, bytes, ty)
                } else {
                    self.global(index, bytes, ty)
                };
                Address { base: Base::Value(base), ..self }
            }
        }
    }

    fn global(self, index: Operand, bytes: u32, ty: Ty) -> Operand {
        let base = self.base_value();
        let size = Arg::One(Operand::Imm(Imm::u32(bytes)));
        let (op_code, mods) = if ty.bytes() == 8 { (Op::MadInt, Mod::Lo) } else { (Op::MadWide, Mod::Wide) };
        op::<u64>(op_code, &[mods], ty, vec![Arg::One(index), size, Arg::One(base)]).operand
    }

    fn shared(self, index: Operand, bytes: u32, ty: Ty) -> Operand {
        let index: V<u32> = match ty.bytes() {
            8 => V::<u64>::new(index).to_u32(),
            _ => V::new(index),
        };
        let base: V<u32> = V::new(self.base_value());
        super::intrinsics::mad(index, bytes, base).operand
    }

    /// The base in a register, without the offset.
    fn base_value(self) -> Operand {
        match self.base {
            Base::Value(operand) => operand,
            Base::Variable(i) => op::<u32>(Op::Mov, &[], Ty::U32, vec![Arg::SharedAddr(i)]).operand,
        }
    }

    /// The whole address in a register.
    fn settled(self, space: Mod) -> Operand {
        let base = self.base_value();
        match (self.offset, space) {
            (0, _) => base,
            (offset, Mod::Shared) => (V::<u32>::new(base) + offset as u32).operand,
            (offset, _) => (V::<i64>::new(base) + offset).operand,
        }
    }

    fn mem(self, space: Mod) -> Arg {
        match (self.base, i32::try_from(self.offset)) {
            (Base::Value(Operand::Value(id)), Ok(offset)) => Arg::Mem(MemBase::Value(id), offset),
            (Base::Variable(i), Ok(offset)) => Arg::Mem(MemBase::Shared(i), offset),
            _ => match self.settled(space) {
                Operand::Value(id) => Arg::Mem(MemBase::Value(id), 0),
                // Only outside a kernel are bases constants.
                Operand::Imm(_) => Arg::Mem(MemBase::Param(0), 0),
            },
        }
    }
}

impl<T: Elem, K: Kind> Ptr<T, K> {
    /// The element at `index`.
    pub fn at(self, index: impl Index) -> Place<T, K> {
        let address = self.address.moved(index.resolve(), T::MEMORY.bytes(), K::SPACE);
        Place { address, hints: Mods::NONE, kind: PhantomData }
    }

    /// The pointer moved by `index` elements. Constant indices on top of it are free: `p.offset(row).at(3)`.
    #[must_use]
    pub fn offset(self, index: impl Index) -> Ptr<T, K> {
        let address = self.address.moved(index.resolve(), T::MEMORY.bytes(), K::SPACE);
        Ptr { address, kind: PhantomData }
    }

    /// The same address with elements of another type.
    pub fn cast<U: Elem>(self) -> Ptr<U, K> {
        Ptr { address: self.address, kind: PhantomData }
    }

    /// Stores one element.
    pub fn store(self, index: impl Index, value: impl IntoV<T::Loaded>)
    where
        K: Writable,
    {
        self.at(index).store(value);
    }
}

impl<T, K: Kind> Ptr<T, K> {
    /// Makes the pointer one register and gives that, so that control flow can change it.
    pub(crate) fn settled(&mut self) -> (Ty, &mut Operand) {
        let operand = self.address.settled(K::SPACE);
        self.address = Address { base: Base::Value(operand), offset: 0 };
        let ty = if K::SPACE == Mod::Shared { Ty::U32 } else { Ty::U64 };
        match &mut self.address.base {
            Base::Value(operand) => (ty, operand),
            Base::Variable(_) => unreachable!("the base was made a value above"),
        }
    }

    /// The memory operand that the pointer is.
    pub(crate) fn memory(self) -> Arg {
        self.address.mem(K::SPACE)
    }

    pub(crate) fn give_name(&self, name: &str) {
        match self.address.base {
            Base::Value(Operand::Value(id)) => record::with(|r| r.name(id, name)),
            Base::Variable(i) => record::with(|r| r.name_shared(i, name)),
            Base::Value(Operand::Imm(_)) => None,
        };
    }
}

/// A parameter of a kernel, by the type that the signature gives it.
pub trait Param {
    #[doc(hidden)]
    fn bind(name: &str) -> Self;
}
impl<T: Elem, K: Kind> Param for Ptr<T, K> {
    fn bind(name: &str) -> Self {
        let elem = if T::MEMORY == Ty::B16 { T::Loaded::TY } else { T::MEMORY };
        let base = record::with(|r| r.param(name, elem, K::ACCESS)).unwrap_or(record::ZERO);
        Ptr { address: Address { base: Base::Value(base), offset: 0 }, kind: PhantomData }
    }
}

/// Binds a kernel parameter.
pub fn param<P: Param>(name: &str) -> P {
    P::bind(name)
}

/// A pointer to global memory whose address was loaded: from a table of addresses that the host filled.
pub fn at_address<T: Elem, K: Kind>(address: V<u64>) -> Ptr<T, K> {
    debug_assert!(K::SPACE == Mod::Global, "shared memory has no address of 64 bits");
    Ptr { address: Address { base: Base::Value(address.operand), offset: 0 }, kind: PhantomData }
}

/// Shared memory of `n` elements, aligned to 16 bytes. It takes the name of the variable it is bound to.
pub fn shared<T: Elem>(n: impl Into<u64>) -> Shared<T> {
    let bytes = n.into().saturating_mul(u64::from(T::MEMORY.bytes()));
    let variable = record::with(|r| r.shared(bytes)).unwrap_or(0);
    Ptr { address: Address { base: Base::Variable(variable), offset: 0 }, kind: PhantomData }
}

/// How a load or store treats the caches: a hint, with no effect on values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// `.L1::no_allocate`: for weights that are read once.
    NoAllocate,
    /// `.L1::evict_first`.
    EvictFirst,
    /// `.L1::evict_last`.
    EvictLast,
    /// `.cg`: only in L2.
    L2Only,
    /// `.cs`: likely once.
    Streaming,
    /// `.L2::128B`: brings 128 bytes into L2.
    L2Line128,
    /// `.L2::256B`: brings 256 bytes into L2.
    L2Line256,
}

/// Who observes an ordered access or atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The CTA.
    Cta,
    /// The device.
    Gpu,
    /// The device, the host and other devices.
    Sys,
}

impl Scope {
    pub(crate) fn modifier(self) -> Mod {
        match self {
            Scope::Cta => Mod::Cta,
            Scope::Gpu => Mod::Gpu,
            Scope::Sys => Mod::Sys,
        }
    }
}

impl<T: Elem, K: Kind> Place<T, K> {
    /// The same address as an element of another type.
    pub fn cast<U: Elem>(self) -> Place<U, K> {
        Place { address: self.address, hints: self.hints, kind: PhantomData }
    }

    /// The place as a pointer.
    pub fn pointer(self) -> Ptr<T, K> {
        Ptr { address: self.address, kind: PhantomData }
    }

    /// Gives the access a cache hint; hints of different kinds add up.
    #[must_use]
    pub fn cached(self, cache: Cache) -> Place<T, K> {
        let hint = match cache {
            Cache::NoAllocate => Mod::NoAllocate,
            Cache::EvictFirst => Mod::EvictFirst,
            Cache::EvictLast => Mod::EvictLast,
            Cache::L2Only => Mod::Cg,
            Cache::Streaming => Mod::Cs,
            Cache::L2Line128 => Mod::L2x128,
            Cache::L2Line256 => Mod::L2x256,
        };
        Place { hints: self.hints.with(hint), ..self }
    }

    fn form(self, op: Op, mods: &[Mod], ty: Ty) -> Form {
        let mods = mods.iter().fold(self.hints.with(K::SPACE), |set, m| set.with(*m));
        Form { op, mods, types: Types::one(ty) }
    }

    fn load_n<const N: usize>(self, mods: &[Mod]) -> [V<T::Loaded>; N] {
        let form = self.form(Op::Ld, mods, T::MEMORY);
        record::emit_n::<N>(form, T::Loaded::TY, vec![self.address.mem(K::SPACE)]).map(V::new)
    }

    fn store_n(self, mods: &[Mod], values: &[V<T::Loaded>]) {
        let values = match values {
            [one] => one.arg(),
            more => Arg::List(more.iter().map(|v| v.operand).collect()),
        };
        record::emit0(self.form(Op::St, mods, T::MEMORY), vec![self.address.mem(K::SPACE), values]);
    }

    /// Brings the line into L2.
    pub fn prefetch_l2(self) {
        let form = Form::new(Op::Prefetch, &[Mod::Global, Mod::L2], Types::NONE);
        record::emit0(form, vec![self.address.mem(K::SPACE)]);
    }
}

impl<T: Elem, K: Kind> Place<T, K> {
    /// Loads the element.
    pub fn load(self) -> V<T::Loaded>
    where
        K: Readable,
    {
        let [v] = self.load_n::<1>(K::LOAD);
        v
    }
    /// Loads two elements; the address must be a multiple of their size together.
    pub fn load_x2(self) -> [V<T::Loaded>; 2]
    where
        K: Readable,
    {
        self.load_n(&[K::LOAD, &[Mod::V2]].concat())
    }
    /// Loads four elements; the address must be a multiple of their size together.
    pub fn load_x4(self) -> [V<T::Loaded>; 4]
    where
        K: Readable,
    {
        self.load_n(&[K::LOAD, &[Mod::V4]].concat())
    }
}

impl<T: Elem, K: Kind> Place<T, K> {
    /// Stores the element; narrow elements take the low bits.
    pub fn store(self, value: impl IntoV<T::Loaded>)
    where
        K: Writable,
    {
        self.store_n(&[], &[value.into_v()]);
    }
    /// Stores two elements; the address must be a multiple of their size together.
    pub fn store_x2(self, values: [V<T::Loaded>; 2])
    where
        K: Writable,
    {
        self.store_n(&[Mod::V2], &values);
    }
    /// Stores four elements; the address must be a multiple of their size together.
    pub fn store_x4(self, values: [V<T::Loaded>; 4])
    where
        K: Writable,
    {
        self.store_n(&[Mod::V4], &values);
    }
}

impl<T: Elem, K: Kind> Place<T, K> {
    /// `ld.relaxed`: sees what other threads wrote, orders nothing else.
    pub fn load_relaxed(self, scope: Scope) -> V<T::Loaded>
    where
        K: Exchangeable,
    {
        let [v] = self.load_n::<1>(&[Mod::Relaxed, scope.modifier()]);
        v
    }
    /// `ld.relaxed` of two elements, each by itself: no order between them.
    pub fn load_relaxed_x2(self, scope: Scope) -> [V<T::Loaded>; 2]
    where
        K: Exchangeable,
    {
        self.load_n(&[Mod::Relaxed, scope.modifier(), Mod::V2])
    }
    /// `ld.acquire`: later accesses of this thread come after it.
    pub fn load_acquire(self, scope: Scope) -> V<T::Loaded>
    where
        K: Exchangeable,
    {
        let [v] = self.load_n::<1>(&[Mod::Acquire, scope.modifier()]);
        v
    }
    /// `st.relaxed`.
    pub fn store_relaxed(self, scope: Scope, value: impl IntoV<T::Loaded>)
    where
        K: Exchangeable,
    {
        self.store_n(&[Mod::Relaxed, scope.modifier()], &[value.into_v()]);
    }
    /// `st.relaxed` of two elements, each by itself: no order between them.
    pub fn store_relaxed_x2(self, scope: Scope, values: [V<T::Loaded>; 2])
    where
        K: Exchangeable,
    {
        self.store_n(&[Mod::Relaxed, scope.modifier(), Mod::V2], &values);
    }
    /// `st.relaxed` of four elements, each by itself.
    pub fn store_relaxed_x4(self, scope: Scope, values: [V<T::Loaded>; 4])
    where
        K: Exchangeable,
    {
        self.store_n(&[Mod::Relaxed, scope.modifier(), Mod::V4], &values);
    }
    /// `st.release`: earlier accesses of this thread come before it.
    pub fn store_release(self, scope: Scope, value: impl IntoV<T::Loaded>)
    where
        K: Exchangeable,
    {
        self.store_n(&[Mod::Release, scope.modifier()], &[value.into_v()]);
    }
}

impl<T: Elem<Loaded = T> + Scalar, K: Exchangeable> Place<T, K> {
    /// Records an atomic access that gives the old value.
    pub(crate) fn atom(self, op: Op, mods: &[Mod], ty: Ty, values: &[V<T>]) -> V<T> {
        let mut args = vec![self.address.mem(K::SPACE)];
        args.extend(values.iter().map(|v| v.arg()));
        V::new(record::emit1(self.form(op, mods, ty), T::TY, args))
    }

    /// Records an atomic access without result.
    pub(crate) fn reduce(self, mods: &[Mod], ty: Ty, value: V<T>) {
        record::emit0(self.form(Op::Red, mods, ty), vec![self.address.mem(K::SPACE), value.arg()]);
    }
}
