//! Attention and what feeds it, in every shape: heads, windows, types of cache, chunks.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

mod kernel_trial;

use kernel_trial::{check, machine, run};
use monomorph_codegen::kernels::attention::{Attend, AttendMerge, AttendPrefill, AttendSplit, QuantizeRows};
use monomorph_codegen::kernels::rope::RopeAppend;
use monomorph_codegen::kernels::{Operation, Rows, Trial};
use plan::{KvType, RopeKind};

#[test]
fn attention_of_heads_of_any_size_and_windows() {
    let shapes =
        [(2, 1, 16), (6, 3, 32), (4, 2, 80), (6, 2, 80), (3, 1, 96), (2, 2, 112), (2, 1, 144), (2, 1, 256)];
    for (n_heads, n_kv_heads, head_dim) in shapes {
        for (i, window) in [None, Some(1), Some(70), Some(600)].into_iter().enumerate() {
            let kv = if n_kv_heads * head_dim % 32 == 0 { KvType::ALL[i % 3] } else { KvType::ALL[i % 2] };
            let rows = if head_dim == 80 { Rows::new(3, 2) } else { Rows::ONE };
            let attend = Attend { n_heads, n_kv_heads, head_dim, n_splits: 4, window, kv, rows };
            check(&AttendSplit(attend.clone()), 0..4);
            check(&AttendMerge(attend), 0..4);
        }
    }
    for (dim, stride, rows) in [(32, 32, 1), (160, 320, 3), (224, 240, 5)] {
        check(&QuantizeRows { dim, stride, rows }, 0..4);
    }
}

#[test]
fn keys_and_values_of_odd_heads_go_into_every_type_of_cache() {
    for kv in KvType::ALL {
        for (n_heads, n_kv_heads, head_dim) in [(2, 2, 16), (6, 2, 80), (4, 2, 96), (5, 1, 32)] {
            for (kind, bias) in [(RopeKind::Norm, true), (RopeKind::Neox, false)] {
                for rows in [Rows::ONE, Rows::new(3, 2)] {
                    check(
                        &RopeAppend {
                            n_heads,
                            n_kv_heads,
                            head_dim,
                            kind,
                            bias,
                            score_scale: 0.125,
                            kv,
                            rows,
                        },
                        0..4,
                    );
                }
            }
        }
    }
}

fn prefill(heads: (u32, u32, u32), per_lane: u32, count: u32) -> AttendPrefill {
    let (n_heads, n_kv_heads, head_dim) = heads;
    let rows = Rows::new(count, 3);
    AttendPrefill { n_heads, n_kv_heads, head_dim, per_lane, window: None, kv: KvType::F16, rows }
}

#[test]
fn prefill_attends_to_chunks_of_any_place_and_shape() {
    for (heads, per_lane, rows) in [
        ((2, 1, 64), 1, 1),
        ((4, 2, 64), 1, 7),
        ((3, 1, 64), 4, 40),
        ((6, 1, 128), 2, 16),
        ((2, 2, 128), 4, 33),
        ((2, 1, 96), 3, 20),
        ((1, 1, 256), 2, 35),
        ((2, 1, 32), 1, 9),
        ((1, 1, 160), 1, 17),
        ((6, 2, 80), 2, 19),
        ((2, 2, 16), 1, 9),
        ((2, 1, 112), 2, 12),
        ((2, 2, 144), 1, 5),
    ] {
        check(&prefill(heads, per_lane, rows), 0..6);
    }
}

#[test]
fn prefill_sees_no_further_than_its_window() {
    for window in [1, 2, 31, 32, 33, 70, 1000] {
        let operation = AttendPrefill { window: Some(window), ..prefill((2, 1, 64), 1, 40) };
        check(&operation, 0..4);
    }
}

#[test]
fn prefill_reads_every_type_of_cache() {
    for kv in [KvType::F32, KvType::Q8_0] {
        for (heads, per_lane, rows) in [((4, 2, 64), 2, 21), ((2, 2, 80), 1, 7), ((2, 1, 128), 1, 9)] {
            check(&AttendPrefill { kv, ..prefill(heads, per_lane, rows) }, 0..4);
        }
    }
}

/// The quants and meta of each row, when the rows of a trial go through in chunks of `size`.
fn in_chunks(operation: &AttendPrefill, trial: &Trial, size: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let count = operation.rows.count as usize;
    let (control, qkv) = (&trial.args[0].before, &trial.args[1].before);
    let n_active = control[0] as usize;
    let mut rows = Vec::new();
    for first in (0..n_active).step_by(size) {
        let n = size.min(n_active - first);
        let mut part = trial.clone();
        let shifted = |bytes: &[u8], row: usize| [&bytes[first * row..], &bytes[..first * row]].concat();
        part.args[0].before = [&[n as u8], &control[1..16], &shifted(&control[16..], 16)].concat();
        part.args[1].before = shifted(qkv, qkv.len() / count);
        let after = run(&machine(), operation, &part).unwrap();
        let row = |bytes: &[u8], i: usize| bytes.chunks(bytes.len() / count).nth(i).unwrap().to_vec();
        rows.extend((0..n).map(|i| (row(&after[3], i), row(&after[4], i))));
    }
    rows
}

#[test]
fn a_row_of_prefill_has_the_same_bits_in_any_chunk() {
    for window in [None, Some(50)] {
        let operation = AttendPrefill { window, ..prefill((3, 1, 64), 2, 44) };
        for seed in [0, 4] {
            let trial = operation.trial(seed);
            let whole = in_chunks(&operation, &trial, 44);
            assert_eq!(whole.len(), 44);
            for size in [9, 32] {
                assert!(in_chunks(&operation, &trial, size) == whole, "{window:?} seed {seed} size {size}");
            }
        }
    }
}
