//! Prefill attention whose outputs stay f32, for heads of any size.

use super::chunk::{Chunk, attend_chunk, caches_of, queries_of};
use super::{AttendPrefill, THREADS, store_rows, trial};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::kernels::exact::{self, Exact};
use crate::kernels::operation::{Cost, Operation, Trial};

/// o = softmax(q·K) V for each row over the positions that it sees
/// shapes   as attend_prefill · x (row, q_dim) f32
/// layout   as attend_prefill
/// launch   as attend_prefill
/// source   as attend_prefill
#[kernel(grid = (s.ctas(), s.n_kv_heads), block = THREADS)]
fn attend_prefill_exact(s: &AttendPrefill, control: In<u32>, qkv: In<f32>, kv: In<u64>, x: Out<f32>) {
    let (first, n_queries) = queries_of(s, control);
    if first >= n_queries {
        return;
    }
    let c = Chunk::new(s, control, first, n_queries);
    let state = attend_chunk(s, c, qkv, caches_of(s, control, kv));
    store_rows(s, c, state, (x, s.q_dim()));
}

impl Operation for Exact<AttendPrefill> {
    fn name(&self) -> &'static str {
        "attend_prefill_exact"
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        attend_prefill_exact(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), self.0.rows.count, 0, self.0.q_dim())
    }

    fn trial(&self, seed: u64) -> Trial {
        trial::exact(&self.0, seed)
    }
}
