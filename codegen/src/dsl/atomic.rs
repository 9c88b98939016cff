//! Atomic read-modify-write accesses through `InOut<T>` and `Shared<T>`.

use super::memory_kind::{Elem, Exchangeable};
use super::pointer::{Place, Scope};
use super::value::{Int, IntoV, V, bits_of};
use ptx::{Mod, Op, Ty};

/// What an atomic access does to memory besides reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rmw {
    /// `m + v`.
    Add,
    /// The lesser.
    Min,
    /// The greater.
    Max,
    /// `m & v`.
    And,
    /// `m | v`.
    Or,
    /// `m ^ v`.
    Xor,
    /// `v`.
    Exch,
}

impl Rmw {
    fn modifier(self) -> Mod {
        match self {
            Rmw::Add => Mod::Add,
            Rmw::Min => Mod::Min,
            Rmw::Max => Mod::Max,
            Rmw::And => Mod::And,
            Rmw::Or => Mod::Or,
            Rmw::Xor => Mod::Xor,
            Rmw::Exch => Mod::Exch,
        }
    }

    /// Additions are the same for both signs and PTX has them unsigned only at 64 bits; logic and exchange work on bits.
    fn ty(self, ty: Ty) -> Ty {
        match (self, ty) {
            (Rmw::And | Rmw::Or | Rmw::Xor | Rmw::Exch, ty) => bits_of(ty),
            (Rmw::Add, Ty::S64) => Ty::U64,
            (_, ty) => ty,
        }
    }
}

/// How an atomic access orders the thread's other accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// Not at all.
    Relaxed,
    /// Later accesses come after it.
    Acquire,
    /// Earlier accesses come before it.
    Release,
    /// Both.
    AcqRel,
}

impl Ordering {
    fn modifier(self) -> Mod {
        match self {
            Ordering::Relaxed => Mod::Relaxed,
            Ordering::Acquire => Mod::Acquire,
            Ordering::Release => Mod::Release,
            Ordering::AcqRel => Mod::AcqRel,
        }
    }
}

impl<T: Elem<Loaded = T> + Int, K: Exchangeable> Place<T, K> {
    /// `old = m; m = m op v` as one step; gives the old value.
    pub fn atomic(self, rmw: Rmw, order: Ordering, scope: Scope, value: impl IntoV<T>) -> V<T> {
        let mods = [order.modifier(), scope.modifier(), rmw.modifier()];
        self.atom(Op::Atom, &mods, rmw.ty(T::TY), &[value.into_v()])
    }

    /// Adds, relaxed; gives the old value.
    pub fn atomic_add(self, scope: Scope, value: impl IntoV<T>) -> V<T> {
        self.atomic(Rmw::Add, Ordering::Relaxed, scope, value)
    }
    /// Keeps the lesser, relaxed; gives the old value.
    pub fn atomic_min(self, scope: Scope, value: impl IntoV<T>) -> V<T> {
        self.atomic(Rmw::Min, Ordering::Relaxed, scope, value)
    }
    /// Keeps the greater, relaxed; gives the old value.
    pub fn atomic_max(self, scope: Scope, value: impl IntoV<T>) -> V<T> {
        self.atomic(Rmw::Max, Ordering::Relaxed, scope, value)
    }
    /// Exchanges, relaxed; gives the old value.
    pub fn atomic_exch(self, scope: Scope, value: impl IntoV<T>) -> V<T> {
        self.atomic(Rmw::Exch, Ordering::Relaxed, scope, value)
    }
    /// Stores `new` if memory holds `expected`, relaxed; gives the old value.
    pub fn atomic_cas(self, scope: Scope, expected: impl IntoV<T>, new: impl IntoV<T>) -> V<T> {
        let mods = [Mod::Relaxed, scope.modifier(), Mod::Cas];
        self.atom(Op::AtomCas, &mods, bits_of(T::TY), &[expected.into_v(), new.into_v()])
    }
    /// `m = m op v` as one step, without the old value; `order` is relaxed or release.
    pub fn red(self, rmw: Rmw, order: Ordering, scope: Scope, value: impl IntoV<T>) {
        let mods = [order.modifier(), scope.modifier(), rmw.modifier()];
        self.reduce(&mods, rmw.ty(T::TY), value.into_v());
    }
    /// Adds; earlier accesses of this thread, and of those it has synchronised with, come before it.
    pub fn release_add(self, scope: Scope, value: impl IntoV<T>) {
        self.red(Rmw::Add, Ordering::Release, scope, value);
    }
    /// Adds, relaxed.
    pub fn red_add(self, scope: Scope, value: impl IntoV<T>) {
        self.red(Rmw::Add, Ordering::Relaxed, scope, value);
    }
    /// Keeps the lesser, relaxed.
    pub fn red_min(self, scope: Scope, value: impl IntoV<T>) {
        self.red(Rmw::Min, Ordering::Relaxed, scope, value);
    }
    /// Keeps the greater, relaxed.
    pub fn red_max(self, scope: Scope, value: impl IntoV<T>) {
        self.red(Rmw::Max, Ordering::Relaxed, scope, value);
    }
}
