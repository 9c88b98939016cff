//! Asynchronous copies from global to shared memory, and the barriers that say when they have landed.
//!
//! A [`Barrier`] passes from phase to phase: a phase is over when its arrivals have come and the bytes it was told to
//! expect have landed. A ring of stages, one barrier each, streams memory through a warp; stage `i % n` is used in turn
//! `i / n`, whose phase has parity `i / n % 2`:
//!
//! ```
//! use monomorph_codegen::dsl::prelude::*;
//!
//! pub struct Ring { pub stages: u32, pub turns: u32 }
//!
//! /// y[lane] = Σ_i x[32·i + lane]
//! #[kernel(grid = 1, block = 32)]
//! pub fn sum_rows(s: &Ring, x: Fixed<f32>, y: Out<f32>) {
//!     let lane = lane_id();
//!     let ring = shared::<f32>(s.stages * 32);
//!     let full = barriers(s.stages);
//!     if lane == 0 {
//!         for i in unroll(0..s.stages) {
//!             full.at(i).init(1);
//!         }
//!         publish_barriers();                               // before copies use them
//!         for i in unroll(0..s.stages) {
//!             full.at(i).expect(128);
//!             copy_async(x.offset(i * 32), ring.offset(i * 32), 128, full.at(i));
//!         }
//!     }
//!     sync_warp();                                          // before other threads use them
//!     let mut acc = 0.0;
//!     for i in 0..s.turns {
//!         let stage = i % s.stages;
//!         full.at(stage).wait(i / s.stages % 2);
//!         acc = acc + ring.at(stage * 32 + lane).load();
//!         sync_warp();                                      // all lanes have read the stage
//!         if lane == 0 && i + s.stages < s.turns {
//!             full.at(stage).expect(128);
//!             copy_async(x.offset((i + s.stages) * 32), ring.offset(stage * 32), 128, full.at(stage));
//!         }
//!     }
//!     y.store(lane, acc);
//! }
//! # sum_rows(&Ring { stages: 4, turns: 9 })?;
//! # Ok::<(), monomorph_codegen::dsl::BuildError>(())
//! ```
//!
//! Threads that did not wait themselves may read what a copy brought after a `sync_warp` or `sync_threads` with one that
//! did. Compute capability 9.0 or later.

use super::loops::While;
use super::memory_kind::{Elem, Fixed, Shared};
use super::pointer::{Index, shared};
use super::record::{self, emit_n, emit0};
use super::value::{IntoV, V, op};
use ptx::{Form, Mod, Op, Ty, Types};

/// What addresses and sizes of copies are multiples of.
const COPY_BYTES: u64 = 16;

/// Barriers in shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Barriers(Shared<u64>);

/// One barrier.
#[derive(Clone, Copy, Debug)]
pub struct Barrier(Shared<u64>);

/// `n` barriers, to be initialised by one thread.
pub fn barriers(n: u32) -> Barriers {
    let place = shared::<u64>(n);
    place.give_name("barriers");
    Barriers(place)
}

/// Makes barriers that this thread initialised known to copies. Other threads also need `sync_warp` or `sync_threads`.
pub fn publish_barriers() {
    emit0(
        Form::new(Op::FenceMbarrierInit, &[Mod::MbarrierInit, Mod::Release, Mod::Cluster], Types::NONE),
        vec![],
    );
}

/// Orders this thread's own stores to shared memory before copies that it issues later.
pub fn fence_copies() {
    emit0(Form::new(Op::FenceProxyAsync, &[Mod::Proxy, Mod::Async, Mod::SharedCta], Types::NONE), vec![]);
}

/// Copies `bytes` bytes, some time; `barrier` counts them when they have landed, and must [expect](Barrier::expect) them. One
/// thread issues a copy for all. Both addresses and `bytes` are multiples of 16.
pub fn copy_async<T: Elem, U: Elem>(from: Fixed<T>, to: Shared<U>, bytes: impl IntoV<u32>, barrier: Barrier) {
    let bytes = bytes.into_v();
    if let Some(found) = bytes.operand.imm().filter(|n| !n.is_multiple_of(COPY_BYTES)) {
        record::refuse(format!("an asynchronous copy of {found} bytes; sizes are multiples of {COPY_BYTES}"));
    }
    let mods = [Mod::Async, Mod::Bulk, Mod::SharedCluster, Mod::Global, Mod::CompleteTx];
    let args = vec![to.memory(), from.memory(), bytes.arg(), barrier.0.memory()];
    emit0(Form::new(Op::CopyBulk, &mods, Types::NONE), args);
}

impl Barriers {
    /// The barriers from `index` on: those of a warp, say. Constant indices on top of it are free.
    #[must_use]
    pub fn offset(self, index: impl Index) -> Barriers {
        Barriers(self.0.offset(index))
    }

    /// The barrier at `index`.
    pub fn at(self, index: impl Index) -> Barrier {
        Barrier(self.0.offset(index))
    }
}

impl Barrier {
    fn form(op: Op, mods: &[Mod]) -> Form {
        Form::new(op, &[mods, &[Mod::Shared]].concat(), Types::one(Ty::B64))
    }

    /// Begins the first phase; each takes `arrivals` arrivals. By one thread, once.
    pub fn init(self, arrivals: impl IntoV<u32>) {
        let args = vec![self.0.memory(), arrivals.into_v().arg()];
        emit0(Barrier::form(Op::MbarrierInit, &[Mod::Init]), args);
    }

    /// The phase under way also waits for `bytes` bytes of copies; counts as an arrival.
    pub fn expect(self, bytes: impl IntoV<u32>) {
        let args = vec![self.0.memory(), bytes.into_v().arg()];
        let form = Barrier::form(Op::MbarrierExpect, &[Mod::Arrive, Mod::ExpectTx]);
        let [_state] = emit_n::<1>(form, Ty::B64, args);
    }

    /// Arrives: who waits for the phase sees what this thread did before.
    pub fn arrive(self) {
        let form = Barrier::form(Op::MbarrierArrive, &[Mod::Arrive]);
        let [_state] = emit_n::<1>(form, Ty::B64, vec![self.0.memory()]);
    }

    /// Waits until the phase of that parity is over: phases count from 0, and before the first that of parity 1 is over.
    pub fn wait(self, parity: impl IntoV<u32>) {
        let args = vec![self.0.memory(), parity.into_v().arg()];
        let mut turns = While::open(&[], ());
        let form = Barrier::form(Op::MbarrierTryWait, &[Mod::TryWait, Mod::Parity]);
        let over: V<bool> = V::new(record::emit1(form, Ty::Pred, args));
        turns.test(op::<bool>(Op::Not, &[], Ty::Pred, vec![over.arg()]));
        turns.close(());
    }
}
