//! How the scores of a warp are shared out to its lanes and their weights given back to all of them.
//!
//! A lane's part of each dot product is a value of its own: a team of L lanes with P positions and H heads has P·H values
//! in each lane, of which L sums are wanted. Halving the values with each exchange (a lane keeps one half and sends the
//! other) leaves every lane the sums of a few of them, so that an exponential is computed once and not by all lanes.
//! Weights then go through a board in shared memory that the warp has to itself.

use super::Attend;
use crate::dsl::prelude::*;

/// Which scores a lane has: first positions are shared out, then heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shares {
    lanes: u32,
    positions: u32,
    heads: u32,
}

impl Shares {
    pub(super) const fn new(s: &Attend) -> Shares {
        Shares { lanes: s.lanes(), positions: s.at_once(), heads: s.group() }
    }

    /// Exchanges that share out positions.
    const fn position_steps(self) -> u32 {
        let (all, most) = (self.lanes.ilog2(), self.positions.ilog2());
        if all < most { all } else { most }
    }

    /// Positions of a lane.
    pub(super) const fn own_positions(self) -> u32 {
        self.positions >> self.position_steps()
    }

    /// Lanes of a team with the same positions: they differ in their heads.
    pub(super) const fn head_lanes(self) -> u32 {
        self.lanes >> self.position_steps()
    }

    /// Distances of the exchanges that share out heads, with the heads that a lane has before each.
    fn head_steps(self) -> impl Iterator<Item = (u32, u32)> {
        let first = self.head_lanes();
        (1..=first.ilog2()).map(move |i| (first >> i, self.heads.div_ceil(1 << (i - 1))))
    }

    /// Heads of a lane; some lanes have fewer.
    pub(super) const fn own_heads(self) -> u32 {
        self.heads.div_ceil(self.head_lanes())
    }

    /// Heads of the lanes of a team, with places for those that some lanes lack.
    pub(super) const fn places(self) -> u32 {
        self.head_lanes() * self.own_heads()
    }

    /// Where a head is among [`Shares::places`].
    fn place_of(self, head: u32) -> u32 {
        let (mut lane, mut rest) = (0, head);
        for (distance, before) in self.head_steps() {
            let half = before.div_ceil(2);
            if rest >= half {
                (lane, rest) = (lane + distance, rest - half);
            }
        }
        lane * self.own_heads() + rest
    }

    /// f32 of the weights of a warp.
    pub(super) const fn weights(self) -> u32 {
        32 / self.lanes * self.places() * self.positions
    }

    /// f32 of what a warp's states are multiplied by.
    pub(super) const fn keeps(self) -> u32 {
        32 * self.own_heads()
    }
}

/// Exchanges values with the lane at `distance` and adds: lanes without that bit have the first half of the sums then,
/// the others the second.
#[device]
fn halve(values: &[V<f32>], distance: u32) -> Vec<V<f32>> {
    let mut sums = Vec::new();
    if values.len() == 1 {
        sums.push(values[0] + shuffle_xor(values[0], distance));
    } else {
        let upper = lane_id() & distance != 0;
        let half = values.len().div_ceil(2);
        for i in unroll(0..half) {
            let (low, high) = (values[i], values.get(half + i).copied().unwrap_or(dev(0.0)));
            sums.push(select(upper, high, low) + shuffle_xor(select(upper, low, high), distance));
        }
    }
    sums
}

/// The sums over a team's lanes that fall to this lane, of `values[position · heads + head]`: as a tree, at distances
/// lanes/2 … 1. The same order of results: own positions, and for each the own heads.
#[device]
pub(super) fn share_out(of: Shares, values: Vec<V<f32>>) -> Vec<V<f32>> {
    let mut all = values;
    for i in each(1..=of.position_steps()) {
        all = halve(&all, of.lanes >> i);
    }
    let mut own = Vec::new();
    for of_position in each(all.chunks(of.heads as usize)) {
        let mut heads = of_position.to_vec();
        for (distance, _) in each(of.head_steps()) {
            heads = halve(&heads, distance);
        }
        own.extend(heads);
    }
    own
}

/// This lane's share of values that all lanes have, one a head.
#[device]
pub(super) fn own_of(of: Shares, values: &[V<f32>]) -> Vec<V<f32>> {
    let mut own = values.to_vec();
    for (distance, before) in each(of.head_steps()) {
        if before > 1 {
            let upper = lane_id() & distance != 0;
            let half = own.len().div_ceil(2);
            let mut kept = Vec::new();
            for i in unroll(0..half) {
                kept.push(select(upper, own.get(half + i).copied().unwrap_or(dev(0.0)), own[i]));
            }
            own = kept;
        }
    }
    own
}

/// The first of a team's positions that this lane has.
#[device]
pub(super) fn own_position(of: Shares) -> V<u32> {
    lane_id() % of.lanes / of.head_lanes() * of.own_positions()
}

/// The first head that this lane has and the one behind its last; none in lanes that repeat another's.
#[device]
pub(super) fn own_heads(of: Shares) -> [V<u32>; 2] {
    let mut first = dev(0u32);
    let mut count = dev(of.heads);
    for (distance, before) in each(of.head_steps()) {
        let upper = lane_id() & distance != 0;
        if before > 1 {
            let half = before.div_ceil(2);
            first = select(upper, first + half, first);
            count = select(upper, max(count, half) - half, min(count, half));
        } else {
            count = select(upper, 0, count);
        }
    }
    [first, first + count]
}

/// Distances of the lanes of a warp that have the same heads.
pub(super) fn head_mates(of: Shares) -> impl Iterator<Item = u32> {
    (0..5).rev().map(|bit| 1 << bit).filter(move |distance| *distance >= of.head_lanes())
}

/// A warp's places in shared memory.
#[derive(Clone, Copy)]
pub(super) struct Board {
    of: Shares,
    weights: Shared<f32>,
    keeps: Shared<f32>,
}

impl Board {
    /// Makes room for each warp of a CTA.
    #[device]
    pub(super) fn new(s: &Attend) -> Board {
        let of = Shares::new(s);
        let weights = shared::<f32>(s.warps() * of.weights());
        let keeps = shared::<f32>(s.warps() * of.keeps());
        let warp = warp_id();
        Board { of, weights: weights.offset(warp * of.weights()), keeps: keeps.offset(warp * of.keeps()) }
    }

    /// Puts up what this lane has, in the order of [`share_out`]. What was there is gone.
    #[device]
    pub(super) fn put(self, weights: &[V<f32>], keeps: &[V<f32>]) {
        let of = self.of;
        let heads = of.own_heads();
        let team = lane_id() / of.lanes * of.places() + lane_id() % of.head_lanes() * heads;
        let place = self.weights.offset(team * of.positions + own_position(of));
        sync_warp();
        for (i, weight) in each((0u32..).zip(weights.iter().copied())) {
            place.at(i % heads * of.positions + i / heads).store(weight);
        }
        let place = self.keeps.offset(lane_id() * heads);
        for (i, keep) in each((0u32..).zip(keeps.iter().copied())) {
            place.at(i).store(keep);
        }
        sync_warp();
    }

    /// The weights of a head at the positions of the lane's team.
    #[device]
    pub(super) fn weights_of(self, head: u32) -> Vec<V<f32>> {
        let of = self.of;
        let team = self.weights.offset(lane_id() / of.lanes * (of.places() * of.positions));
        let place = team.at(of.place_of(head) * of.positions);
        if of.positions == 4 { place.load_x4().to_vec() } else { place.load_x2().to_vec() }
    }

    /// What each head's state is multiplied by.
    #[device]
    pub(super) fn keeps(self) -> Vec<V<f32>> {
        let mut places = Vec::new();
        for quad in unroll(0..self.of.places().div_ceil(4)) {
            places.extend(self.keeps.at(quad * 4).load_x4());
        }
        (0..self.of.heads).map(|head| places[self.of.place_of(head) as usize]).collect()
    }
}
