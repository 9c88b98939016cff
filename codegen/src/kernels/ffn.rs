//! The first half of a gated feed-forward: gate and up in one launch, multiplied and quantized for the down matrix.

use super::activation::{activate, error_bound, reference as activated};
use super::exact::{self, Exact};
use super::gemv::{
    Act, Behind, Floats, Input, STAGED_WARPS, Seat, Split, Vector, act_bytes, dot_of_lane, fetch_weight,
    finish, is_narrow, norm_into, room, start,
};
use super::norm::Norm;
use super::operation::{Cost, Operation, Trial};
use super::{quantize, reference};
use crate::dsl::{BuildError, Kernel, prelude::*};
use crate::layout::{Matrix, SUB_BLOCK, SUB_BLOCKS, TILE_ROWS};
use crate::rng::Rng;
use crate::spec::Device;
use ::plan::Activation;

/// Warps of a CTA that does one block: 8 tiles of 4 rows make its 32 activations.
const WARPS: u32 = 8;

/// How the rows of a CTA are laid over its warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crew {
    /// Warps of a CTA: whole blocks of activations.
    pub warps: u32,
    /// Tiles of a warp, at once.
    pub tiles: u32,
}

impl Crew {
    /// One block of activations a CTA.
    pub const BLOCK: Crew = Crew { warps: WARPS, tiles: 1 };
    const LARGE: Crew = Crew { warps: STAGED_WARPS, tiles: 1 };
    const OF_TWO: Crew = Crew { warps: WARPS, tiles: 2 };

    /// For CTAs that norm their vector: the first that has all CTAs resident at once, so that none norms after others' rows are
    /// done; else many small ones.
    pub fn choose(matrix: &Matrix, device: Device) -> Crew {
        let fits = |crew: &Crew| {
            let rows = crew.rows();
            matrix.rows.is_multiple_of(rows) && matrix.rows / rows <= crew.min_ctas() * device.n_sms
        };
        let pairs = is_narrow(matrix).then_some(Crew::OF_TWO);
        std::iter::once(Crew::LARGE).chain(pairs).find(fits).unwrap_or(Crew::BLOCK)
    }

    const fn rows(self) -> u32 {
        TILE_ROWS * self.warps * self.tiles
    }

    /// CTAs that a multiprocessor holds: 64 registers a thread for one tile, 80 for two.
    const fn min_ctas(self) -> u32 {
        let threads = if self.tiles == 1 { 1024 } else { 768 };
        threads / (32 * self.warps)
    }
}

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
    /// The rows of a CTA.
    pub crew: Crew,
}

impl GateUp {
    /// A warp's walk along its rows.
    fn split(&self) -> Split {
        Split { k_split: 1, tiles_per_cta: self.crew.warps, unroll: self.unroll }.fit(&[self.gate, self.up])
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
    let at = seat();
    let stream = start([&s.gate, &s.up], s.split(), [gate, up], at, [at.tile; 2]);
    wait_for_earlier();
    let x = Act { quants: x_quants, meta: x_meta }.of_lane(dev(0u32), lane_id() % SUB_BLOCKS);
    let rows = share(s, &finish([&s.gate, &s.up], stream, x));
    if warp_id() == 0 {
        quantize::store_lane(rows.at(lane_id()).load(), cta_id(), quants, meta);
    }
}

/// q, a = quantize(f(Wg n) · (Wu n)) with n = quantize(x / √(Σ x² / dim + eps) · weight)
/// shapes   x, weight (dim) f32 · Wg, Wu, quants, meta as gate_up
/// layout   as gate_up, with 1 or 2 tiles a warp; each CTA norms the vector for itself, its weights on their way and more of them coming nearer meanwhile
/// launch   grid hidden_dim / rows of a CTA, block 256 or 512, shared the vector, 4 bytes a row and, beyond 2 quads a thread, the norm's weights
/// source   as norm_quantize and gate_up
#[kernel(grid = s.gate.rows / s.crew.rows(), block = 32 * s.crew.warps, min_ctas = s.crew.min_ctas())]
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
    let Crew { warps: n_warps, tiles } = s.crew;
    let room = room(norm, n_warps);
    let (meanwhile, x) = (
        || fetch_weight(norm, n_warps, weight),
        |weights: Vec<[V<f32>; 4]>, behind: Behind| {
            norm_into(norm, n_warps, (x, &behind), &weights, room);
            room.staged.of_lane(dev(0u32), lane_id() % SUB_BLOCKS)
        },
    );
    let first = Seat { tile: (cta_id() * n_warps + warp_id()) * tiles, part: dev(0u32) };
    let rows = match tiles {
        1 => {
            let stream = start([&s.gate, &s.up], s.split(), [gate, up], first, [first.tile; 2]);
            let weights = meanwhile();
            wait_for_earlier();
            let x = x(weights, stream.behind([&s.gate, &s.up]));
            share(s, &finish([&s.gate, &s.up], stream, x))
        }
        _ => {
            let (m, w) = ([&s.gate, &s.up, &s.gate, &s.up], [gate, up, gate, up]);
            let next = first.tile + 1;
            let stream = start(m, s.split(), w, first, [first.tile, first.tile, next, next]);
            let weights = meanwhile();
            wait_for_earlier();
            let x = x(weights, stream.behind(m));
            share(s, &finish(m, stream, x))
        }
    };
    let blocks = s.crew.rows() / SUB_BLOCK;
    if warp_id() < blocks {
        let row = warp_id() * SUB_BLOCK + lane_id();
        quantize::store_lane(rows.at(row).load(), cta_id() * blocks + warp_id(), quants, meta);
    }
}

/// Where a warp of a CTA of one block works.
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
    share(s, &dot_of_lane([&s.gate, &s.up], walk, w, x, seat()))
}

/// The products of a CTA from its lanes' sums of gate and up, tile by tile, for all its threads to see.
#[device]
fn share(s: &GateUp, sums: &[V<f32>]) -> Shared<f32> {
    let tiles = s.crew.tiles;
    let rows = shared::<f32>(s.crew.rows());
    for (t, pair) in each((0u32..).zip(sums.chunks(2))) {
        let (g, u) = (sum_lanes(pair[0], SUB_BLOCKS), sum_lanes(pair[1], SUB_BLOCKS));
        if lane_id() % SUB_BLOCKS == 0 {
            let row = (warp_id() * tiles + t) * TILE_ROWS + lane_id() / SUB_BLOCKS;
            rows.at(row).store(gated(s.activation, g, u));
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may")]

    use super::*;
    use ::plan::QType;

    fn crew(qtype: QType, rows: u32) -> Crew {
        Crew::choose(&Matrix { qtype, rows, cols: 4096 }, Device::from_sm(90).unwrap())
    }

    #[test]
    fn ctas_that_norm_are_large_where_all_are_resident_at_once() {
        // 14,336 rows are 224 CTAs of 16 warps, and 132 multiprocessors hold 264.
        assert_eq!(crew(QType::Q4K, 14_336), Crew::LARGE);
        // 18,944 rows are 296 of them, or as many of 8 warps with two tiles each, of which 396 are held.
        assert_eq!(crew(QType::Q4K, 18_944), Crew::OF_TWO);
        // Wider super-blocks leave no registers for two tiles.
        assert_eq!(crew(QType::Q6K, 18_944), Crew::BLOCK);
        // More rows than any layout holds at once.
        assert_eq!(crew(QType::Q4K, 65_536), Crew::BLOCK);
        // Rows that are no multiple of a large CTA's.
        assert_eq!(crew(QType::Q4K, 96), Crew::BLOCK);
    }
}
