//! Products on f32 activations: within their bounds of the f64 reference, by weights that are GGML's to the bit, and with
//! several rows as with one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

mod kernel_trial;

use kernel_trial::{check, machine, run};
use monomorph_codegen::kernels::activate::Activate;
use monomorph_codegen::kernels::attention::{Attend, AttendMerge, AttendPrefill};
use monomorph_codegen::kernels::ffn::{Crew, GateUp};
use monomorph_codegen::kernels::gemm::{Gemm, GemmGateUp, GemmQkv};
use monomorph_codegen::kernels::gemv::{Epilogue, Gemv, GemvQkv, Split};
use monomorph_codegen::kernels::norm::Norm;
use monomorph_codegen::kernels::{Exact, Expect, Operation, Rows, Trial, judge};
use monomorph_codegen::layout::Matrix;
use monomorph_codegen::rng::Rng;
use monomorph_codegen::{Device, ModelSpec};
use plan::{ActType, Activation, KvType, QType};

/// Runs a trial of the operation for several rows, and each active row alone: the arguments of the one are the control,
/// the weights, the vectors and the results; the other has no control and one row of each.
fn compare(several: &dyn Operation, one: &dyn Operation, rows: usize, seed: u64) {
    let machine = machine();
    let trial = several.trial(seed);
    let after = run(&machine, several, &trial).unwrap();
    let names: Vec<String> = several.build().unwrap().params.iter().map(|p| p.name.clone()).collect();
    if let Err(what) = judge(&trial, &names, &after) {
        panic!("{} {}: {what}", several.name(), several.constants());
    }
    let active = u32::from_le_bytes(trial.args[0].before[..4].try_into().unwrap()) as usize;
    let [x, y] = [trial.args.len() - 2, trial.args.len() - 1];
    let row_of = |bytes: &[u8], row: usize| {
        let of_row = bytes.len() / rows;
        bytes[row * of_row..(row + 1) * of_row].to_vec()
    };
    for row in 0..active {
        let mut alone = Trial::new(seed);
        for weights in &trial.args[1..x] {
            alone = alone.input(weights.before.clone());
        }
        alone = alone.input(row_of(&trial.args[x].before, row));
        alone = alone.in_out(row_of(&trial.args[y].before, row), Expect::Unchanged);
        let found = run(&machine, one, &alone).unwrap();
        let same = found.last().unwrap() == &row_of(&after[y], row);
        assert!(same, "{} {}: row {row} of {active}", several.name(), several.constants());
    }
}

/// Widths that each type serves: whole super-blocks, and one cut short where blocks are small.
fn widths(qtype: QType) -> Vec<u32> {
    if qtype.block_elems() > 32 { vec![1280] } else { vec![768, 1184] }
}

#[test]
fn every_type_and_form_with_one_row_and_with_several() {
    for (t, qtype) in QType::ALL.into_iter().enumerate() {
        let up = QType::ALL[(t + 4) % QType::ALL.len()];
        for (i, cols) in widths(qtype).into_iter().enumerate() {
            let m = |qtype, rows| Matrix { qtype, rows, cols };
            let seed = (10 * t + i) as u64;
            let split = Split { k_split: [1, 2, 4][(t + i) % 3], tiles_per_cta: 2, unroll: 4 };
            let (matrix, epilogue) = (m(qtype, 21), [Epilogue::Store, Epilogue::Add][i]);
            let one = Exact(Gemv { matrix, epilogue, split });
            let others = if cols % 256 == 0 { [up, QType::Q6K] } else { [QType::Q5_1, QType::F16] };
            let up = if cols % up.block_elems() == 0 { up } else { QType::Q4_1 };
            let matrices = [m(qtype, 20), m(others[0], 9), m(others[1], 12)];
            let qkv = Exact(GemvQkv { matrices, split, norm: None });
            let (gate, up, activation) = (m(qtype, 32), m(up, 32), Activation::Silu);
            let gated = Exact(GateUp { gate, up, activation, unroll: 2, norm: None, crew: Crew::BLOCK });
            check(&one, seed..seed + 1);
            check(&qkv, seed..seed + 1);
            check(&gated, seed..seed + 1);
            let rows = [3, 8][(t + i) % 2];
            compare(&Exact(Gemm::new(matrix, epilogue, split, rows)), &one, rows as usize, seed);
            compare(&Exact(GemmQkv::new(matrices, split, rows)), &qkv, rows as usize, seed);
            let several = Exact(GemmGateUp::new(gate, up, activation, 2, rows));
            compare(&several, &gated, rows as usize, seed);
        }
    }
}

#[test]
fn the_longest_rows() {
    for qtype in [QType::Q4K, QType::Q8_0] {
        let matrix = Matrix { qtype, rows: 4, cols: 1 << 17 };
        let split = Split { k_split: 8, tiles_per_cta: 1, unroll: 4 };
        check(&Exact(Gemv { matrix, epilogue: Epilogue::Store, split }), 0..1);
    }
}

#[test]
fn a_weight_is_that_of_the_formula_to_the_bit() {
    // Row r of the activations is 1 at one place and 0 elsewhere: 32 places in 16 sub-blocks.
    let place = |r: usize| 32 * (r * 5 % 16) + r;
    for qtype in QType::ALL {
        let matrix = Matrix { qtype, rows: 8, cols: 512 };
        let split = Split { k_split: 1, tiles_per_cta: 1, unroll: 2 };
        let operation = Exact(Gemm::new(matrix, Epilogue::Store, split, 32));
        let raw = matrix.random(&mut Rng::new(3));
        let mut x = vec![0.0f32; 32 * 512];
        (0..32).for_each(|r| x[512 * r + place(r)] = 1.0);
        let control = [vec![32u32], vec![0; 3 + 4 * 32]].concat();
        let trial = Trial::new(3)
            .input(control.iter().flat_map(|w| w.to_le_bytes()).collect())
            .input(matrix.pack(&raw))
            .input(x.iter().flat_map(|v| v.to_le_bytes()).collect())
            .output(32 * 8 * 4, Expect::Unchanged);
        let after = run(&machine(), &operation, &trial).unwrap();
        let weights = matrix.dequantize(&raw);
        for (i, found) in after[3].as_chunks::<4>().0.iter().enumerate() {
            let (r, output) = (i / 8, i % 8);
            let expected = weights[output * 512 + place(r)];
            // Sums of a negative and a positive zero are positive: compared as values.
            assert!(f32::from_le_bytes(*found) == expected, "{qtype}: row {r}, output {output}: {expected}");
        }
    }
}

#[test]
fn what_makes_the_activations() {
    for (dim, rows) in [(128, 1), (896, 3), (5376, 2)] {
        check(&Exact(Norm { dim, eps: 1e-6, rows }), 0..3);
    }
    for (dim, bias, rows) in [(96, true, 1), (672, false, 3), (672, true, 2)] {
        check(&Exact(Activate { dim, activation: Activation::GeluTanh, bias, rows }), 0..3);
    }
    for (n_heads, n_kv_heads, head_dim) in [(4, 2, 64), (6, 2, 80), (2, 2, 256)] {
        for rows in [1, 3] {
            let rows = Rows::new(rows, 2);
            let kv = KvType::F16;
            let merge = Attend { n_heads, n_kv_heads, head_dim, n_splits: 4, window: None, kv, rows };
            check(&Exact(AttendMerge(merge)), 0..2);
            let per_lane = 2;
            let rows = Rows::new(8 * rows.count, 2);
            let chunk = AttendPrefill { n_heads, n_kv_heads, head_dim, per_lane, window: None, kv, rows };
            check(&Exact(chunk), 0..2);
        }
    }
}

#[test]
fn a_plan_has_no_quantized_activations() {
    let path = format!("{}/../models/tiny.toml", env!("CARGO_MANIFEST_DIR"));
    let mut spec = ModelSpec::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap();
    let device = Device::from_sm(90).unwrap();
    let before = spec.hash(device);
    spec.dims.activations = ActType::F32;
    assert_ne!(spec.hash(device), before);
    let text = spec.to_toml();
    assert!(text.contains("activations = \"f32\""), "{text}");
    assert_eq!(ModelSpec::from_toml(&text).unwrap(), spec);
    let wrong = ModelSpec::from_toml(&text.replace("\"f32\"", "\"f16\"")).unwrap_err().to_string();
    assert!(wrong.contains("activations = f16") && wrong.contains("int8 or f32"), "{wrong}");
    let plan = monomorph_codegen::plan::build(&spec, device).unwrap();
    for kernel in plan.table.kernels.iter() {
        let quantized = kernel.params.iter().find(|p| p.name.contains("quants") || p.name.contains("meta"));
        assert_eq!(quantized, None, "{}", kernel.name);
    }
    for (kernel, operation) in plan.table.kernels.iter().zip(&plan.operations) {
        // The two-row step stands for the others, which `every_type_and_form…` covers.
        if kernel.name.contains("exact") && kernel.grid[1] == 1 {
            check(operation.as_ref(), 0..1);
        }
    }
}
