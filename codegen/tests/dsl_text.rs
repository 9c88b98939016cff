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
pub fn gemv_f32(s: &Shape, w: Fixed<f32>, x: In<f32>, y: Out<f32>) {
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

#[test]
fn constant_parts_of_indices_are_immediate_offsets_and_products_shifts() {
    let text = text(gemv_f32(&Shape { rows: 100, dim: 1024, warps: 4 }));
    for offset in ["+512]", "+1024]", "+1536]"] {
        assert_eq!(count(&text, offset), 2, "weights and x at {offset}");
    }
    assert_eq!(count(&text, "mul.lo"), 0);
    assert_eq!(count(&text, "mad.wide.u32"), 4, "weights, a row of them, x, y");
    assert_eq!(count(&text, "@%setp_2 st.global.f32"), 1, "the last if is a guard");
}

#[kernel(grid = 1, block = 32)]
pub fn unbounded(x: In<u32>, y: Out<u32>) {
    // What memory holds may be u32::MAX: the sum may wrap, so it must stay a 32-bit sum.
    let i = x.at(0).load();
    y.at(i + 1).store(i);
}

#[test]
fn a_sum_that_may_wrap_stays_out_of_the_offset() {
    let text = text(unbounded());
    assert_eq!(count(&text, "add.u32"), 1, "{text}");
    assert_eq!(count(&text, "+4]"), 0, "{text}");
}

#[kernel(grid = 1, block = 32)]
pub fn swapped(n: u32, y: Out<u32>) {
    let (mut a, mut b) = (1u32, 2u32);
    for _ in 0..n {
        (a, b) = (b, a);
    }
    y.store(thread_idx_x(), a * 10 + b);
}

#[test]
fn a_swap_in_a_loop_takes_three_moves() {
    let text = text(swapped(9));
    assert_eq!(count(&text, "%swap_0"), 2, "{text}");
    assert_eq!(count(&text, "mov.b32"), 3 + 3, "index, a and b at first; the swap: {text}");
}

#[kernel(grid = 1, block = 32)]
pub fn selects(y: Out<u32>) {
    let t = thread_idx_x();
    let mut n = t;
    if t > 5 {
        n = t * 3;
    }
    let m = if t == 7 { (t ^ 1) & 12 } else { 9u32 };
    y.store(t, n | m);
}

#[test]
fn small_branches_are_selects_and_logic_is_fused() {
    let text = text(selects());
    assert_eq!((count(&text, "selp."), count(&text, "bra"), count(&text, "lop3")), (2, 0, 0), "{text}");
}

#[test]
fn equal_kernels_give_equal_text() {
    let build = || text(gemv_f32(&Shape { rows: 100, dim: 1024, warps: 4 }));
    assert_eq!(build(), build());
}

#[test]
fn launch_shapes_and_shared_memory_are_checked_when_building() {
    let error = gemv_f32(&Shape { rows: 100, dim: 1024, warps: 33 }).unwrap_err();
    assert!(error.to_string().contains("kernel `gemv_f32`: block is [1056, 1, 1]"), "{error}");
    let error = gemv_f32(&Shape { rows: 0, dim: 1024, warps: 4 }).unwrap_err();
    assert!(error.to_string().contains("grid is [0, 1, 1]"), "{error}");
    let error = large_shared(60_000).unwrap_err();
    assert!(error.to_string().contains("shared memory is 240000 bytes, the limit is 232448"), "{error}");
}

#[kernel(grid = 1, block = 32)]
pub fn large_shared(n: u32, y: Out<f32>) {
    let tile = shared::<f32>(n);
    y.store(0, tile.at(thread_idx_x()).load());
}
