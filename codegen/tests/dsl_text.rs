//! Each construct of the DSL in a small kernel, held against the PTX text it gives.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod dsl_common;
use dsl_common::{count, text};
use monomorph_codegen::dsl::prelude::*;

pub struct Shape {
    pub rows: u32,
    pub dim: u32,
    pub warps: u32,
}

/// y[n] = Σ_k W[n,k]·x[k]
#[kernel(grid = s.rows.div_ceil(s.warps), block = 32 * s.warps)]
pub fn gemv_f32(s: &Shape, w: In<f32>, x: In<f32>, y: Out<f32>) {
    let row = cta_id() * s.warps + warp_id();
    if row >= s.rows {
        return;
    }
    let lane = lane_id();
    let weights = w.offset(row * s.dim + lane * 4);
    let mut acc = 0.0;
    for i in unroll(0..s.dim / 128, 4) {
        let a = weights.at(i * 128).load_x4();
        let b = x.at(i * 128 + lane * 4).load_x4();
        for j in unroll(0..4) {
            acc = fma(a[j], b[j], acc);
        }
    }
    let total = sum_lanes(acc, 32);
    if lane == 0 {
        y.store(row, total);
    }
}

#[test]
fn a_gemv_has_one_loop_and_no_moves_of_its_accumulator() {
    let text = text(gemv_f32(&Shape { rows: 100, dim: 1024, warps: 4 }));
    assert_eq!(count(&text, "fma.rn.f32"), 16, "4 copies of 4");
    assert_eq!(count(&text, "$LOOP_0"), 2, "a label and a branch");
    assert_eq!(count(&text, "mov.f32"), 1, "acc = 0");
    assert_eq!(count(&text, "shfl.sync.bfly.b32"), 5);
    assert!(text.contains("fma.rn.f32 %acc_0, "), "{text}");
    assert!(text.contains("// y[n] = Σ_k W[n,k]·x[k]"));
}
