//! Every kernel of the tiny spec, and shapes at the edges of their tiles, on the emulator against the references.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

mod kernel_trial;

use emulator::Outcome;
use kernel_trial::{check, machine};
use monomorph_codegen::kernels::argmax::{Argmax, ArgmaxFinal, ArgmaxPart};
use monomorph_codegen::kernels::attention::{Attend, AttendMerge, AttendSplit};
use monomorph_codegen::kernels::embed::Embed;
use monomorph_codegen::kernels::ffn::{Crew, GateUp};
use monomorph_codegen::kernels::gemv::{Epilogue, Gemv, GemvQkv, Split};
use monomorph_codegen::kernels::norm::Norm;
use monomorph_codegen::kernels::repack::Repack;
use monomorph_codegen::kernels::rope::RopeAppend;
use monomorph_codegen::kernels::{Operation, Rows};
use monomorph_codegen::layout::{Matrix, quantize_row};
use monomorph_codegen::rng::Rng;
use monomorph_codegen::{Device, ModelSpec};
use plan::{Activation, KvType, QType, RopeKind};

fn plan_of(name: &str) -> monomorph_codegen::plan::Plan {
    let path = format!("{}/../models/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let spec = ModelSpec::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap();
    monomorph_codegen::plan::build(&spec, Device::from_sm(90).unwrap()).unwrap()
}

#[test]
fn every_kernel_of_tiny_computes_its_equation() {
    for operation in &plan_of("tiny").operations {
        check(operation.as_ref(), 0..8);
    }
}

#[test]
fn gemv_at_the_edges_of_tiles_and_splits() {
    for qtype in QType::ALL {
        for (rows, cols) in [(1, 256), (3, 512), (4, 768), (5, 1280), (7, 256), (33, 2304)] {
            for (k_split, tiles_per_cta, unroll) in [(1, 8, 4), (1, 1, 2), (2, 2, 1), (4, 1, 4), (8, 1, 2)] {
                let matrix = Matrix { qtype, rows, cols };
                let split = Split { k_split, tiles_per_cta, unroll };
                for epilogue in [Epilogue::Store, Epilogue::Add] {
                    check(&Gemv { matrix, epilogue, split }, 0..1);
                }
            }
        }
    }
}

/// Types whose blocks allow rows that are no multiple of 256.
fn narrow_types() -> impl Iterator<Item = QType> {
    QType::ALL.into_iter().filter(|t| t.block_elems() <= 32)
}

#[test]
fn gemv_with_a_last_super_block_cut_short() {
    let shapes =
        [(1, 32), (2, 64), (3, 96), (4, 224), (5, 288), (6, 480), (7, 640), (8, 896), (9, 1184), (9, 2080)];
    for qtype in narrow_types() {
        for (rows, cols) in shapes {
            for (k_split, tiles_per_cta, unroll) in [(1, 2, 4), (2, 2, 1), (4, 1, 2)] {
                let matrix = Matrix { qtype, rows, cols };
                let split = Split { k_split, tiles_per_cta, unroll };
                check(&Gemv { matrix, epilogue: Epilogue::Add, split }, 0..1);
            }
        }
    }
}

#[test]
fn gate_and_up_of_every_type() {
    let m = |qtype, cols| Matrix { qtype, rows: 64, cols };
    for (i, gate) in QType::ALL.into_iter().enumerate() {
        let up = QType::ALL[(i + 4) % QType::ALL.len()];
        check(
            &GateUp {
                gate: m(gate, 768),
                up: m(up, 768),
                activation: Activation::Silu,
                unroll: 2,
                norm: None,
                crew: Crew::BLOCK,
            },
            0..1,
        );
    }
    for gate in narrow_types() {
        check(
            &GateUp {
                gate: m(gate, 640),
                up: m(QType::Q8_0, 640),
                activation: Activation::Silu,
                unroll: 2,
                norm: None,
                crew: Crew::BLOCK,
            },
            0..1,
        );
    }
}

/// A small model with every type somewhere, whose rows are multiples of 32 and 128 and of nothing more.
const EVERY_TYPE: &str = r#"
name = "every-type"
architecture = "qwen2"
vocab_size = 301
dim = 384
hidden_dim = 672
n_layers = 8
n_heads = 3
n_kv_heads = 1
head_dim = 64
context = 128
norm_eps = 1e-5
rope_kind = "neox"
rope_base = 10000.0
qkv_bias = true
tied_head = false

[types]
token_embd = "q5_0"
output = "f16"
attn_q = { default = "q8_0", f32 = [1], bf16 = [2], q4_0 = [3], q5_1 = [4] }
attn_k = { default = "q4_1", f16 = [1], q8_0 = [5] }
attn_v = { default = "q5_0", q8_0 = [2, 6] }
attn_output = { default = "q4_0", q8_0 = [1], q4_1 = [2], q5_0 = [3], q5_1 = [4], f16 = [5], bf16 = [6], f32 = [7] }
ffn_gate = { default = "q4_0", q5_1 = [1], bf16 = [2] }
ffn_up = { default = "q8_0", f16 = [2] }
ffn_down = { default = "q5_1", q8_0 = [1], q4_1 = [2], q5_0 = [3], q4_0 = [4], f16 = [5], bf16 = [6], f32 = [7] }
"#;

#[test]
fn every_kernel_of_a_model_of_every_type_computes_its_equation() {
    let spec = ModelSpec::from_toml(EVERY_TYPE).unwrap();
    let plan = monomorph_codegen::plan::build(&spec, Device::from_sm(90).unwrap()).unwrap();
    for operation in &plan.operations {
        check(operation.as_ref(), 0..2);
    }
    for weight in plan.table.weights.iter() {
        assert_eq!(weight.repack.is_none(), weight.qtype.is_plain(), "{}", weight.name());
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_or_on_what_pads_it() {
    // The same 640 columns as rows of a matrix of 1 and of 9 rows: equal bits.
    for qtype in narrow_types() {
        let bits = |rows: u32| {
            let matrix = Matrix { qtype, rows, cols: 640 };
            let split = Split { k_split: 2, tiles_per_cta: 1, unroll: 2 };
            let operation = Gemv { matrix, epilogue: Epilogue::Store, split };
            first_row_of(&operation, &Matrix { rows: 9, ..matrix })
        };
        assert_eq!(bits(1), bits(9), "{qtype}");
    }
}

/// The bits of row 0 when the operation gets the first rows of a random matrix.
fn first_row_of(operation: &Gemv, whole: &Matrix) -> u32 {
    let m = &operation.matrix;
    let raw = whole.random(&mut Rng::new(5));
    let x: Vec<f32> = (0..m.cols).map(|i| (i as f32 * 0.71).sin() * 3.0).collect();
    let x = quantize_row(&x);
    let inputs = [m.pack(&raw[..m.raw_bytes() as usize]), x.quant_bytes(), x.meta_bytes()];
    let machine = machine();
    let kernel = operation.build().unwrap();
    let target = ptx::Target { sm: 90, arch_specific: false };
    let module = monomorph_codegen::lower::lower(&kernel, target, "k").unwrap();
    let program = machine.load(&ptx::verify::verify(module).unwrap()).unwrap();
    let mut addresses: Vec<u64> = Vec::new();
    for bytes in inputs.iter().chain([&vec![0; 4 * m.rows as usize]]) {
        let address = machine.alloc(bytes.len() as u64).unwrap();
        machine.write(address, bytes).unwrap();
        addresses.push(address);
    }
    let outcome = machine.launch(&program, "k", kernel.grid, kernel.block, &addresses).unwrap();
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    let mut row = [0; 4];
    machine.read(addresses[3], &mut row).unwrap();
    u32::from_le_bytes(row)
}

#[test]
fn kernels_of_several_rows_work_on_the_active_ones() {
    for n in [2, 5] {
        let rows = Rows { count: n, seq_stride: 6 };
        for dim in [384, 1024, 1664] {
            check(&Norm { dim, eps: 1e-5, rows: n }, 0..4);
        }
        for (kind, bias) in [(RopeKind::Norm, true), (RopeKind::Neox, false)] {
            check(
                &RopeAppend {
                    n_heads: 4,
                    n_kv_heads: 2,
                    head_dim: 64,
                    kind,
                    bias,
                    score_scale: 0.125,
                    kv: KvType::F16,
                    rows,
                },
                0..4,
            );
        }
        for (head_dim, n_heads, n_kv_heads) in [(64, 4, 2), (128, 2, 1)] {
            let attend =
                Attend { n_heads, n_kv_heads, head_dim, n_splits: 4, window: None, kv: KvType::F16, rows };
            check(&AttendSplit(attend.clone()), 0..3);
            check(&AttendMerge(attend), 0..3);
        }
        let argmax = Argmax { vocab_size: 3000, parts: 3, rows: n };
        check(&ArgmaxPart(argmax.clone()), 0..8);
        check(&ArgmaxFinal(argmax), 0..8);
        for qtype in QType::ALL {
            check(&Embed { matrix: Matrix { qtype, rows: 9, cols: 512 }, scale: 1.0, rows: n }, 0..4);
        }
    }
}

#[test]
fn mixed_types_share_a_qkv_launch() {
    let m = |qtype, rows| Matrix { qtype, rows, cols: 512 };
    let split = Split { k_split: 2, tiles_per_cta: 4, unroll: 2 };
    check(
        &GemvQkv { matrices: [m(QType::Q4K, 24), m(QType::Q6K, 12), m(QType::Q4K, 20)], split, norm: None },
        0..3,
    );
    check(
        &GemvQkv { matrices: [m(QType::Q5K, 24), m(QType::F16, 13), m(QType::Q8_0, 6)], split, norm: None },
        0..3,
    );
}

#[test]
fn matrices_that_norm_their_vector_themselves() {
    // Fewer quads than threads; a whole turn; a turn and a part of one, and a cut super-block; two turns.
    for cols in [512, 2048, 2688, 4096] {
        let m = |qtype, rows| Matrix { qtype, rows, cols };
        let norm = Some(Norm { dim: cols, eps: 1e-5, rows: 1 });
        for (k_split, unroll) in [(1, 4), (2, 2), (4, 1), (8, 3)] {
            let matrices = [m(QType::Q8_0, 36), m(QType::Q5_0, 12), m(QType::F16, 7)];
            let split = Split { k_split, tiles_per_cta: 1, unroll };
            check(&GemvQkv { matrices, split, norm: norm.clone() }, 0..4);
        }
        for (warps, tiles) in [(8, 1), (8, 2), (16, 1), (16, 2)] {
            let (gate, up) = (m(QType::Q4_0, 128), m(QType::Q8_0, 128));
            let crew = Crew { warps, tiles };
            check(
                &GateUp { gate, up, activation: Activation::Silu, unroll: 2, norm: norm.clone(), crew },
                0..2,
            );
        }
    }
    let m = |qtype| Matrix { qtype, rows: 32, cols: 1536 };
    let norm = Some(Norm { dim: 1536, eps: 1e-6, rows: 1 });
    let split = Split { k_split: 2, tiles_per_cta: 4, unroll: 4 };
    check(&GemvQkv { matrices: [m(QType::Q4K), m(QType::Q4K), m(QType::Q6K)], split, norm }, 0..4);
}

#[test]
fn repack_and_lookup_agree_with_the_layout_at_odd_shapes() {
    for qtype in QType::ALL {
        for (rows, cols) in [(1, 256), (5, 512), (9, 1024)] {
            let matrix = Matrix { qtype, rows, cols };
            check(&Embed { matrix, scale: 1.0, rows: 1 }, 0..4);
            if !qtype.is_plain() {
                check(&Repack { matrix }, 0..2);
            }
        }
    }
    for qtype in narrow_types() {
        for (rows, cols) in [(1, 32), (4, 224), (7, 640), (9, 288), (6, 896)] {
            let matrix = Matrix { qtype, rows, cols };
            if !qtype.is_plain() {
                check(&Repack { matrix }, 0..2);
            }
            if cols % 128 == 0 {
                check(&Embed { matrix, scale: 1.0, rows: 3 }, 0..4);
            }
        }
    }
}
