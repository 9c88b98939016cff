//! Kernels whose CTAs wait for one another: a barrier of the whole grid, made of ordinary instructions.

use super::*;
use kernels_dsl::device;

/// Says that CTAs of this kernel wait for one another, so that a launch must have all of them resident at once
/// ([`Kernel::cooperative`]). [`sync_grid`] says so itself.
pub fn cooperative() {
    // Outside a kernel there is nothing to say it of.
    let _said = record::with(|recorder| recorder.cooperative = true);
}

/// Waits for all CTAs of the grid; what any thread wrote before is seen by every thread after.
///
/// `counter` is one word of global memory that only the grid's barriers change. `target` is what all CTAs bring it to at
/// this barrier: the number of CTAs times the barriers so far, this one included, on top of what the counter was before
/// the launch. All threads of a CTA pass here together; one thread polls, without limit.
///
/// equation  release-add of 1 by one thread of each CTA, then acquire-loads until counter ≥ target
/// source    PTX ISA 8.12 (causality order): bar.sync before and behind carries release and acquire to the CTA's threads
#[device]
pub fn sync_grid(counter: InOut<u32>, target: V<u32>) {
    cooperative();
    sync_threads();
    if thread_idx_x() == 0 {
        counter.at(0u32).release_add(Scope::Gpu, 1u32);
        let mut count = counter.at(0u32).load_acquire(Scope::Gpu);
        while count < target {
            count = counter.at(0u32).load_acquire(Scope::Gpu);
        }
    }
    sync_threads();
}
