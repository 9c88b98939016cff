//! Trials of the products for several rows: a random number of active rows, each judged against its f64 reference; rows
//! that are not active must stay as they were.

use super::{Gemm, GemmGateUp, GemmQkv};
use crate::kernels::gemv::Epilogue;
use crate::kernels::operation::{Expect, Trial};
use crate::kernels::rows::Control;
use crate::kernels::{ffn, quantize, reference};
use crate::layout::{ActBlocks, quantize_row};
use crate::rng::Rng;

/// Activations of all rows, of which those that are active count.
struct Rows {
    acts: Vec<ActBlocks>,
    control: Control,
}

impl Rows {
    fn random(rng: &mut Rng, cols: u32, rows: u32) -> Rows {
        let acts = (0..rows).map(|_| quantize_row(&reference::random_activations(rng, cols))).collect();
        Rows { acts, control: Control::random(rng, rows) }
    }

    fn active(&self) -> &[ActBlocks] {
        self.acts.get(..self.control.active as usize).unwrap_or(&self.acts)
    }

    fn quants(&self) -> Vec<u8> {
        self.acts.iter().flat_map(ActBlocks::quant_bytes).collect()
    }

    fn meta(&self) -> Vec<u8> {
        self.acts.iter().flat_map(ActBlocks::meta_bytes).collect()
    }
}

/// Expectations for the active rows of `[row][n]`, with what was there before.
fn near(rows: Vec<(f64, f64)>, before: Option<&[f32]>) -> Expect {
    match reference::near(rows, before) {
        Expect::Near(values) => {
            Expect::NearF32(values.into_iter().enumerate().map(|(i, (v, bound))| (i, v, bound)).collect())
        }
        other => other,
    }
}

pub(super) fn gemm(s: &Gemm, seed: u64) -> Trial {
    let mut rng = Rng::new(seed);
    let (raw, rows) = (s.matrix.random(&mut rng), Rows::random(&mut rng, s.matrix.cols, s.rows));
    let results = rows.active().iter().flat_map(|x| reference::gemv(&s.matrix, &raw, x)).collect();
    let trial = Trial::new(seed)
        .input(rows.control.bytes())
        .input(s.matrix.pack(&raw))
        .input(rows.quants())
        .input(rows.meta());
    match s.epilogue {
        Epilogue::Store => trial.output(super::output_bytes(s.matrix.rows, s.rows), near(results, None)),
        Epilogue::Add => {
            let before = reference::random_activations(&mut rng, s.matrix.rows * s.rows);
            trial.in_out(reference::bytes_f32(&before), near(results, Some(&before)))
        }
    }
}

pub(super) fn qkv(s: &GemmQkv, seed: u64) -> Trial {
    let mut rng = Rng::new(seed);
    let rows = Rows::random(&mut rng, s.matrices[0].cols, s.rows);
    let raw: Vec<Vec<u8>> = s.matrices.iter().map(|m| m.random(&mut rng)).collect();
    let of_row = |x| s.matrices.iter().zip(&raw).flat_map(move |(m, raw)| reference::gemv(m, raw, x));
    let results = rows.active().iter().flat_map(of_row).collect();
    let mut trial = Trial::new(seed).input(rows.control.bytes());
    for (m, raw) in s.matrices.iter().zip(&raw) {
        trial = trial.input(m.pack(raw));
    }
    let bytes = super::output_bytes(s.outputs(), s.rows);
    trial.input(rows.quants()).input(rows.meta()).output(bytes, near(results, None))
}

pub(super) fn gate_up(s: &GemmGateUp, seed: u64) -> Trial {
    let mut rng = Rng::new(seed);
    let rows = Rows::random(&mut rng, s.gate.cols, s.rows);
    let (gate, up) = (s.gate.random(&mut rng), s.up.random(&mut rng));
    let of_row = |x| {
        let (g, u) = (reference::gemv(&s.gate, &gate, x), reference::gemv(&s.up, &up, x));
        g.into_iter().zip(u).map(|(g, u)| ffn::gated_reference(s.activation, g, u))
    };
    let values: Vec<(f64, f64)> = rows.active().iter().flat_map(of_row).collect();
    let (quants, meta) = quantize::expect(&values);
    let elems = u64::from(s.gate.rows) * u64::from(s.rows);
    Trial::new(seed)
        .input(rows.control.bytes())
        .input(s.gate.pack(&gate))
        .input(s.up.pack(&up))
        .input(rows.quants())
        .input(rows.meta())
        .output(elems, quants)
        .output(elems / 4, meta)
}
