//! Errors against ggml's quantizers on the same weights, files whole, and refusals.

use codegen::layout::Matrix;
use plan::QType;
use runtime::gguf::write::{KvValue, Writer};
use runtime::gguf::{GgmlType, Gguf};

use super::*;

const ROWS: usize = 64;
const COLS: usize = 512;

/// Type, root mean square of ggml's errors on [`data`], and the FNV-1a of its bytes.
/// Printed by `tools/quantize-reference/reference.py`, whose first lines have the command.
const REFERENCE: [(QType, f64, u64); 8] = [
    (QType::Q4_0, 1.400464e-02, 0xae5c46842e989f9a),
    (QType::Q4_1, 1.252162e-02, 0xec369e3145454f65),
    (QType::Q5_0, 6.929875e-03, 0x13c3928d81194d31),
    (QType::Q5_1, 6.067061e-03, 0xd1d47e89250894e4),
    (QType::Q8_0, 8.666312e-04, 0x72ffdce08412a134),
    (QType::Q4K, 1.150405e-02, 0xbdf767bce34a1494),
    (QType::Q5K, 5.811092e-03, 0x12e72c3a9cce5bf1),
    (QType::Q6K, 2.874283e-03, 0xcc1b413f3d048176),
];

/// Sums of four bytes of a 64-bit congruential generator, rows of different magnitude, one with a mean, one with
/// outliers: what the script draws.
fn data() -> Vec<f32> {
    let mut state = 1u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let sum: i16 = state.to_le_bytes()[4..].iter().map(|b| i16::from(*b)).sum();
        f32::from(sum - 510) / 4096.0
    };
    let mut values: Vec<f32> = (0..ROWS * COLS).map(|_| draw()).collect();
    for (r, row) in values.chunks_exact_mut(COLS).enumerate() {
        row.iter_mut().for_each(|x| *x *= [1.0, 2.0, 4.0, 8.0][r % 4]);
        match r {
            1 => row.iter_mut().for_each(|x| *x += 0.5),
            2 => row.iter_mut().step_by(100).for_each(|x| *x *= 8.0),
            _ => {}
        }
    }
    values
}

fn quantized(qtype: QType, values: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    values.chunks_exact(COLS).for_each(|row| quantize_row(qtype, row, &mut out));
    out
}

fn back(qtype: QType, raw: &[u8]) -> Vec<f32> {
    let rows = (raw.len() as u64 / qtype.row_bytes(COLS as u32)) as u32;
    Matrix { qtype, rows, cols: COLS as u32 }.dequantize(raw)
}

fn rms(found: &[f32], wanted: &[f32]) -> f64 {
    let sum: f64 = found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (sum / found.len() as f64).sqrt()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[test]
fn errors_are_at_most_those_of_ggml() {
    let values = data();
    for (qtype, wanted, _) in REFERENCE {
        let raw = quantized(qtype, &values);
        assert_eq!(raw.len() as u64, ROWS as u64 * qtype.row_bytes(COLS as u32), "{qtype:?}");
        let found = rms(&back(qtype, &raw), &values);
        assert!(found <= 1.002 * wanted, "{qtype:?}: {found:e}, ggml {wanted:e}");
        // Far less would mean that the test reads something else than it wrote.
        assert!(found >= 0.95 * wanted, "{qtype:?}: {found:e}, ggml {wanted:e}");
    }
}

#[test]
fn types_without_a_search_have_the_bytes_of_ggml() {
    let values = data();
    for (qtype, _, wanted) in REFERENCE.into_iter().take(5) {
        assert_eq!(fnv(&quantized(qtype, &values)), wanted, "{qtype:?}");
    }
}

#[test]
fn what_a_type_can_hold_comes_back_bit_for_bit() {
    for qtype in [QType::F32, QType::F16, QType::Bf16, QType::Q4_0, QType::Q5_0, QType::Q8_0] {
        let whole: Vec<f32> = (0..COLS as i16).map(|i| f32::from(i % 16 - 8) * 0.25).collect();
        let whole = match qtype {
            // The greatest magnitude is 127 steps.
            QType::Q8_0 => whole.iter().map(|x| if *x == -2.0 { -127.0 * 0.25 } else { *x }).collect(),
            QType::Q5_0 => whole.iter().map(|x| x * 2.0).collect(),
            _ => whole,
        };
        assert_eq!(back(qtype, &quantized(qtype, &whole)), whole, "{qtype:?}");
    }
    for qtype in QType::ALL {
        assert_eq!(back(qtype, &quantized(qtype, &[0.0; COLS])), [0.0; COLS], "{qtype:?}");
    }
}

#[test]
fn extreme_weights_stay_finite_and_near() {
    for size in [1e-8f32, 6.0e-5, 60_000.0] {
        let values: Vec<f32> = data()[..COLS].iter().map(|x| x.clamp(-0.1, 0.1) * 10.0 * size).collect();
        for (qtype, ..) in REFERENCE {
            let found = back(qtype, &quantized(qtype, &values));
            assert!(found.iter().all(|x| x.is_finite()), "{qtype:?} {size}");
            let limit = f64::from(size) * if size > 1.0 { 0.1 } else { 1.1 };
            assert!(rms(&found, &values) <= limit, "{qtype:?} {size}");
        }
    }
}

const DIMS: [u64; 2] = [256, 8];

fn f32_bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

fn ramp() -> Vec<u8> {
    f32_bytes((0..2048u16).map(|i| f32::from(i) / 1024.0 - 1.0))
}

fn writer() -> Writer<'static> {
    Writer::new()
        .kv("general.architecture", "llama")
        .kv("general.file_type", 0u32)
        .kv("general.tags", KvValue::strings(["a", "b"]))
}

/// A file with an embedding that is the head too, a norm and one matrix of a layer.
fn model(ty: GgmlType, matrix: Vec<u8>) -> Gguf {
    let file = writer()
        .tensor("token_embd.weight", &DIMS, GgmlType::F32, ramp())
        .tensor("blk.0.attn_norm.weight", &[256], GgmlType::F32, f32_bytes((0..256u16).map(f32::from)))
        .tensor("blk.0.attn_q.weight", &DIMS, ty, matrix);
    Gguf::from_bytes(file.finish().unwrap()).unwrap()
}

fn run(input: &Gguf, name: &str) -> Result<Gguf, QuantizeError> {
    let mut out = Vec::new();
    let mut n = 0;
    let changes = quantize(input, FileType::from_name(name).unwrap(), &mut out, |_| n += 1)?;
    assert_eq!(changes.len(), n);
    Ok(Gguf::from_bytes(out).unwrap())
}

fn bytes_of(file: &Gguf, name: &str) -> Vec<u8> {
    let tensor = file.find_tensor(name).unwrap();
    let mut out = vec![0; tensor.bytes() as usize];
    file.read_tensor(tensor.idx(), 0, &mut out).unwrap();
    out
}

#[test]
fn a_file_keeps_metadata_and_norms_and_gets_the_types() {
    let input = model(GgmlType::F32, ramp());
    for file_type in FILE_TYPES {
        let output = run(&input, file_type.name).unwrap();
        assert_eq!(output.get_u32("general.file_type").unwrap(), file_type.id);
        assert_eq!(output.get_arr_str("general.tags").unwrap().iter().collect::<Vec<_>>(), ["a", "b"]);
        let norm = output.find_tensor("blk.0.attn_norm.weight").unwrap();
        assert_eq!(norm.ggml_type(), GgmlType::F32);
        assert_eq!(bytes_of(&output, norm.name()), bytes_of(&input, norm.name()));
        let matrix = output.find_tensor("blk.0.attn_q.weight").unwrap();
        let qtype = QType::from_ggml_id(matrix.ggml_type().id()).unwrap();
        assert!(file_type.name.starts_with(qtype.name()), "{} {qtype:?}", file_type.name);
        let raw = bytes_of(&output, matrix.name());
        let found = Matrix { qtype, rows: 8, cols: 256 }.dequantize(&raw);
        let wanted: Vec<f32> = (0..2048u16).map(|i| f32::from(i) / 1024.0 - 1.0).collect();
        assert!(rms(&found, &wanted) < 0.05, "{}", file_type.name);
    }
}

#[test]
fn half_precision_sources_give_what_their_values_give() {
    let values: Vec<f32> = (0..2048u16).map(|i| f32::from(i % 256) / 128.0 - 1.0).collect();
    let of = |ty: GgmlType, raw: Vec<u8>| {
        bytes_of(&run(&model(ty, raw), "q4_k_m").unwrap(), "blk.0.attn_q.weight")
    };
    let wanted = of(GgmlType::F32, f32_bytes(values.iter().copied()));
    for (ty, qtype) in [(GgmlType::F16, QType::F16), (GgmlType::BF16, QType::Bf16)] {
        let mut raw = Vec::new();
        quantize_row(qtype, &values, &mut raw);
        assert_eq!(of(ty, raw), wanted, "{ty}");
    }
}

#[test]
fn weights_that_no_type_holds_are_named() {
    for (bad, name) in [(f32::NAN, "q4_k_m"), (f32::INFINITY, "bf16"), (70_000.0, "f16"), (-1e9, "q8_0")] {
        let mut matrix = ramp();
        matrix[4 * 1000..4 * 1001].copy_from_slice(&bad.to_le_bytes());
        let error = run(&model(GgmlType::F32, matrix), name).unwrap_err();
        assert!(matches!(&error, QuantizeError::Weight { elem: 1000, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("blk.0.attn_q.weight") && text.contains("element 1000"), "{text}");
    }
}

#[test]
fn what_is_quantized_already_is_refused_or_copied() {
    let mut raw = Vec::new();
    quantize_row(QType::Q8_0, &[0.5; 2048], &mut raw);
    let input = model(GgmlType::Q8_0, raw.clone());
    let text = run(&input, "q4_k_m").unwrap_err().to_string();
    assert!(text.contains("is Q8_0") && text.contains("make it Q4_K"), "{text}");
    assert_eq!(bytes_of(&run(&input, "q8_0").unwrap(), "blk.0.attn_q.weight"), raw);
}

#[test]
fn parts_and_files_without_matrices_are_refused() {
    let part = writer().kv("split.count", KvValue::U16(3)).tensor("a.weight", &DIMS, GgmlType::F32, ramp());
    let part = Gguf::from_bytes(part.finish().unwrap()).unwrap();
    assert!(matches!(run(&part, "q8_0"), Err(QuantizeError::Split { found: 3 })));
    let empty = Gguf::from_bytes(writer().finish().unwrap()).unwrap();
    assert!(matches!(run(&empty, "q8_0"), Err(QuantizeError::NoMatrix)));
}

#[test]
fn slabs_and_threads_do_not_show() {
    let values = data();
    let pieces = quantize_rows(QType::Q4K, &values, COLS).concat();
    assert_eq!(pieces, quantized(QType::Q4K, &values));
    let one = quantize_rows(QType::Q6K, &values[..COLS], COLS).concat();
    assert_eq!(one, quantized(QType::Q6K, &values[..COLS]));
}
