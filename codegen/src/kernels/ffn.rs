//! The first half of a gated feed-forward: gate and up in one launch, multiplied and quantized for the down matrix.

use super::activation::{activate, error_bound, reference as activated};
use super::exact::{self, Exact};
use super::gemv::{
    Act, Floats, Input, Seat, Split, Vector, act_bytes, dot_of_lane, fetch_weight, finish, norm_into, room,
    start,
};
use super::norm::Norm;
use super::operation::{Cost, Operation, Trial};
use super::{quantize, reference};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::layout::{Matrix, SUB_BLOCKS, TILE_ROWS};
use crate::rng::Rng;
use ::plan::Activation;

/// Warps of a CTA: 8 tiles of 4 rows make the 32 activations of one block.
const WARPS: u32 = 8;

/// Gate and up matrices of the same shape.
#[derive(Clone, Debug, PartialEq)]
pub struct GateUp {
    /// The gate.
    pub gate: Matrix,
    /// The other factor.
    pub up: Matrix,
    /// The function of the gate.
    pub activation: Activation,
    /// Super-blocks in flight a lane.
    pub unroll: u32,
    /// The norm of the vector, when it comes as f32.
    pub norm: Option<Norm>,
}

impl GateUp {
    fn split(&self) -> Split {
        Split { k_split: 1, tiles_per_cta: WARPS, unroll: self.unroll }.fit(&[self.gate, self.up])
    }
}

/// An element from its gate and its other factor.
#[device]
pub(super) fn gated(activation: Activation, gate: V<f32>, up: V<f32>) -> V<f32> {
    activate(activation, gate) * up
}

/// The same of two values known to absolute bounds, with its bound.
pub(super) fn gated_reference(
    activation: Activation,
    (g, g_bound): (f64, f64),
    (u, u_bound): (f64, f64),
) -> (f64, f64) {
    let (f, f_bound) = (activated(activation, g), error_bound(g, g_bound));
    let bound = f_bound * (u.abs() + u_bound) + f.abs() * u_bound;
    (f * u, bound + reference::U * ((f * u).abs() + bound))
}

/// q, a = quantize(f(Wg x) · (Wu x))
/// shapes   Wg, Wu (hidden_dim, dim) packed · x (dim) int8 · quants (hidden_dim) i8 · meta (hidden_dim / 32)
/// layout   as gemv; a warp computes 4 rows of both matrices, a CTA the 32 rows of one activation block
/// launch   grid hidden_dim / 32, block 256, shared 128 bytes
/// source   Shazeer 2020; f is SiLU or a GELU by the polynomial exp: docs/numerics.md
#[kernel(grid = s.gate.rows / 32, block = 32 * WARPS, min_ctas = s.split().min_ctas())]
pub fn gate_up(
    s: &GateUp,
    gate: Fixed<u32>,
    up: Fixed<u32>,
    x_quants: In<u32>,
    x_meta: In<u32>,
    quants: Out<u8>,
    meta: Out<u32>,
) {
    let stream = start([&s.gate, &s.up], s.split(), [gate, up], seat());
    wait_for_earlier();
    let x = Act { quants: x_quants, meta: x_meta }.of_lane(dev(0u32), lane_id() % SUB_BLOCKS);
    let rows = share(s, finish([&s.gate, &s.up], stream, x));
    if warp_id() == 0 {
        quantize::store_lane(rows.at(lane_id()).load(), cta_id(), quants, meta);
    }
}

/// q, a = quantize(f(Wg n) · (Wu n)) with n = quantize(x / √(Σ x² / dim + eps) · weight)
/// shapes   x, weight (dim) f32 · Wg, Wu, quants, meta as gate_up
/// layout   as gate_up; each CTA norms the vector for itself, its weights on their way meanwhile
/// launch   grid hidden_dim / 32, block 256, shared the vector, the norm's weights and 160 bytes
/// source   as norm_quantize and gate_up
#[kernel(grid = s.gate.rows / 32, block = 32 * WARPS, min_ctas = s.split().min_ctas())]
pub fn norm_gate_up(
    s: &GateUp,
    norm: &Norm,
    x: In<f32>,
    weight: Fixed<f32>,
    gate: Fixed<u32>,
    up: Fixed<u32>,
    quants: Out<u8>,
    meta: Out<u32>,
) {
    let staged = room(norm);
    let stream = start([&s.gate, &s.up], s.split(), [gate, up], seat());
    fetch_weight(norm, weight, staged);
    wait_for_earlier();
    norm_into(norm, x, staged);
    let x = staged.of_lane(dev(0u32), lane_id() % SUB_BLOCKS);
    let rows = share(s, finish([&s.gate, &s.up], stream, x));
    if warp_id() == 0 {
        quantize::store_lane(rows.at(lane_id()).load(), cta_id(), quants, meta);
    }
}

/// Where a warp works.
#[device]
fn seat() -> Seat {
    Seat { tile: cta_id() * WARPS + warp_id(), part: dev(0u32) }
}

/// y = f(Wg x) · (Wu x)
/// shapes   Wg, Wu (hidden_dim, dim) packed · x (dim) f32 · y (hidden_dim) f32
/// layout   as gate_up
/// launch   as gate_up, with twice the registers for a thread
/// source   as gate_up
#[kernel(grid = s.gate.rows / 32, block = 32 * WARPS, min_ctas = s.split().min_ctas() / 2)]
pub fn gate_up_exact(s: &GateUp, gate: Fixed<u32>, up: Fixed<u32>, x: In<f32>, y: Out<f32>) {
    let rows = gated_rows(s, exact::walk(s.split(), &[s.gate, s.up]), [gate, up], Floats(x));
    if warp_id() == 0 {
        y.at(cta_id() * 32 + lane_id()).store(rows.at(lane_id()).load());
    }
}

/// The 32 products of a CTA, for all its threads to see.
#[device]
fn gated_rows<X: Vector>(s: &GateUp, walk: Split, w: [Fixed<u32>; 2], x: X) -> Shared<f32> {
    share(s, dot_of_lane([&s.gate, &s.up], walk, w, x, seat()))
}

/// The 32 products of a CTA from its lanes' sums, for all its threads to see.
#[device]
fn share(s: &GateUp, [g, u]: [V<f32>; 2]) -> Shared<f32> {
    let (g, u) = (sum_lanes(g, SUB_BLOCKS), sum_lanes(u, SUB_BLOCKS));
    let rows = shared::<f32>(32u32);
    if lane_id() % SUB_BLOCKS == 0 {
        rows.at(warp_id() * TILE_ROWS + lane_id() / SUB_BLOCKS).store(gated(s.activation, g, u));
    }
    sync_threads();
    rows
}

impl Operation for GateUp {
    fn name(&self) -> &'static str {
        match (self.activation, self.norm.is_some()) {
            (Activation::Silu, false) => "gate_up_swiglu",
            (Activation::GeluTanh, false) => "gate_up_geglu_tanh",
            (Activation::GeluErf, false) => "gate_up_geglu_erf",
            (Activation::GeluQuick, false) => "gate_up_geglu_quick",
            (Activation::Silu, true) => "norm_gate_up_swiglu",
            (Activation::GeluTanh, true) => "norm_gate_up_geglu_tanh",
            (Activation::GeluErf, true) => "norm_gate_up_geglu_erf",
            (Activation::GeluQuick, true) => "norm_gate_up_geglu_quick",
        }
    }

    fn constants(&self) -> String {
        format!("{self:?}")
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        match &self.norm {
            Some(norm) => norm_gate_up(self, norm),
            None => gate_up(self),
        }
    }

    fn cost(&self) -> Cost {
        let weights = self.gate.planes().bytes + self.up.planes().bytes;
        let (rows, cols) = (self.gate.rows, self.gate.cols);
        let vector = if self.norm.is_some() { u64::from(cols) * 8 } else { act_bytes(cols) };
        Cost { bytes: weights + vector + act_bytes(rows), macs: 2 * u64::from(rows) * u64::from(cols) }
    }

    fn trial(&self, seed: u64) -> Trial {
        let mut rng = Rng::new(seed);
        let input = Input::random(&mut rng, self.gate.cols, self.norm.as_ref());
        let (gate, up) = (self.gate.random(&mut rng), self.up.random(&mut rng));
        let rows = input.product(&self.gate, &gate).into_iter().zip(input.product(&self.up, &up));
        let values: Vec<(f64, f64)> = rows.map(|(g, u)| gated_reference(self.activation, g, u)).collect();
        let (quants, meta) = quantize::expect(&values);
        let trial = input.first(Trial::new(seed)).input(self.gate.pack(&gate)).input(self.up.pack(&up));
        input
            .last(trial)
            .output(u64::from(self.gate.rows), quants)
            .output(u64::from(self.gate.rows) / 4, meta)
    }
}

impl Operation for Exact<GateUp> {
    fn name(&self) -> &'static str {
        match self.0.activation {
            Activation::Silu => "gate_up_exact_swiglu",
            Activation::GeluTanh => "gate_up_exact_geglu_tanh",
            Activation::GeluErf => "gate_up_exact_geglu_erf",
            Activation::GeluQuick => "gate_up_exact_geglu_quick",
        }
    }

    fn constants(&self) -> String {
        self.0.constants()
    }

    fn build(&self) -> Result<Kernel, BuildError> {
        gate_up_exact(&self.0)
    }

    fn cost(&self) -> Cost {
        exact::cost_of(self.0.cost(), 1, self.0.gate.cols, self.0.gate.rows)
    }

    fn trial(&self, seed: u64) -> Trial {
        let (mut rng, s) = (Rng::new(seed), &self.0);
        let x = reference::random_activations(&mut rng, s.gate.cols);
        let (gate, up) = (s.gate.random(&mut rng), s.up.random(&mut rng));
        let rows = exact::gemv(&s.gate, &gate, &x).into_iter().zip(exact::gemv(&s.up, &up, &x));
        let values = rows.map(|(g, u)| gated_reference(s.activation, g, u)).collect();
        Trial::new(seed)
            .input(s.gate.pack(&gate))
            .input(s.up.pack(&up))
            .input(reference::bytes_f32(&x))
            .output(u64::from(s.gate.rows) * 4, exact::near_first(values))
    }
}
