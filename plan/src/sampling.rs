//! How a token is chosen from logits: the algorithm in plain Rust, by its definition, and the layout of its parameters.
//!
//! The kernels of codegen compute this on the device in another way (no sort, many CTAs) and must give the same token;
//! the runtime offers it as a sampler on the host. It lives here because both must mean the same thing.
//!
//! Steps, in the order of llama.cpp: repetition penalty → top-k → top-p → min-p → temperature → draw. Top-p and min-p
//! look at the distribution before the temperature changes it. Temperature 0 takes the greatest logit after the penalty.
//!
//! What makes every device agree: a token's weight is `e^(logit − greatest)`, a float computed by IEEE operations alone
//! ([`exp`]), cut to a whole number of 2^-40. From there on all sums are sums of integers, which no order changes.
//! Tokens are ordered by logit and, among equals, by index, the lowest first; so every "the first k of them" is one set.
//! The draw is a number of a counter-based generator: a function of the seed and the position ([`random`]), so that
//! a step that is run again draws again what it drew.

/// Tokens that the repetition penalty looks back on, those of the prompt included.
pub const PENALTY_WINDOW: u32 = 64;

/// u32 words of a row in `Slot::Sampling`: a multiple of 4.
pub const SAMPLING_WORDS: u32 = 12;

/// The positions that the penalty looks at when the token after `position` is chosen.
pub fn window(since: u32, position: u32) -> std::ops::Range<u32> {
    let next = position + 1;
    next.saturating_sub(PENALTY_WINDOW).max(since)..next
}

/// What the device chooses when a logit is NaN or infinite.
pub const NOT_FINITE: u32 = u32::MAX;

/// Weights are whole numbers of 2^-40: those of 2^24 tokens can be added in 64 bits, and what is lost of a token is less
/// than 10^-12 of the greatest weight.
pub const WEIGHT_BITS: u32 = 40;

/// How one row samples: what `Slot::Sampling` holds for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the greatest.
    pub temperature: f32,
    /// Keeps tokens at least this probable relative to the most probable; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 leaves them.
    pub penalty: f32,
    /// Keeps this many of the greatest logits; 0 keeps all.
    pub top_k: u32,
    /// Keeps the fewest most probable tokens that reach this share, in parts of 2^64; 0 keeps all.
    pub top_p: u64,
    /// Equal seeds draw equal tokens.
    pub seed: u64,
    /// The first position whose token the penalty counts; `Slot::History` has all from there on.
    pub since: u32,
}

impl SamplingParams {
    /// The greatest logit, and nothing else.
    pub const GREEDY: SamplingParams =
        SamplingParams { temperature: 0.0, min_p: 0.0, penalty: 1.0, top_k: 0, top_p: 0, seed: 0, since: 0 };

    /// A share 0 < p < 1 in parts of 2^64, at least one; any other p: all.
    pub fn share(p: f32) -> u64 {
        // Exact: an f32 has 24 bits, and the product is below 2^64.
        if p > 0.0 && p < 1.0 { ((f64::from(p) * 18_446_744_073_709_551_616.0) as u64).max(1) } else { 0 }
    }

    /// The row's words in `Slot::Sampling`: temperature, min-p, penalty (f32), top-k, top-p (low, high), seed
    /// (low, high), since, three zeros.
    pub const fn words(&self) -> [u32; SAMPLING_WORDS as usize] {
        [
            self.temperature.to_bits(),
            self.min_p.to_bits(),
            self.penalty.to_bits(),
            self.top_k,
            self.top_p as u32,
            (self.top_p >> 32) as u32,
            self.seed as u32,
            (self.seed >> 32) as u32,
            self.since,
            0,
            0,
            0,
        ]
    }
}

/// `e^x` as the kernels compute it, bit for bit: n·ln 2 taken off in two parts, a Taylor polynomial by fused
/// multiply-adds, two exact powers of two. Within 2 ulp; 0 far below −104, infinite above 88.7.
pub fn exp(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_145_75;
    const LN2_LO: f32 = 1.428_606_8e-6;
    const TERMS: [f32; 7] =
        [1.984_127e-4, 1.388_888_9e-3, 8.333_334e-3, 4.166_666_8e-2, 0.166_666_67, 0.5, 1.0];
    let x = x.clamp(-104.0, 89.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-LN2_HI, x);
    let r = n.mul_add(-LN2_LO, r);
    let [first, rest @ ..] = TERMS;
    let e = rest.iter().fold(first, |e, term| e.mul_add(r, *term)).mul_add(r, 1.0);
    let n = n as i32;
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    e * power(n >> 1) * power(n - (n >> 1))
}

/// A weight of `e^…` as a whole number of 2^-40.
pub fn weight(e: f32) -> u64 {
    (e * (1u64 << WEIGHT_BITS) as f32) as u64
}

/// The bits of a float mapped so that greater floats have greater orders.
pub const fn order(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// 64 random bits for a seed and a position: number `position` of splitmix64 (Steele, Lea and Flood, 2014) that starts
/// at the mixed seed, so that neighbouring seeds share nothing.
pub const fn random(seed: u64, position: u32) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(mix(seed.wrapping_add(STEP)).wrapping_add(STEP.wrapping_mul(position as u64 + 1)))
}

const fn mix(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// The integer part of `share · of / 2^64`: a share of a sum, or a place in it.
pub const fn part_of(share: u64, of: u64) -> u64 {
    ((share as u128 * of as u128) >> 64) as u64
}

/// A logit as sampling sees it. Adding zero makes a negative zero positive, so that the two are a tie; what a penalty
/// near zero would overflow stays a number.
pub fn penalised(logit: f32, penalty: f32) -> f32 {
    let changed = if logit > 0.0 { logit / penalty } else { logit * penalty };
    changed.clamp(f32::MIN, f32::MAX) + 0.0
}

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    index: u32,
    value: f32,
}

impl Candidate {
    fn weight(self, greatest: f32) -> u64 {
        weight(exp(self.value - greatest))
    }
}

/// Candidates, kept between tokens for their memory.
#[derive(Clone, Debug, Default)]
pub struct Chooser {
    candidates: Vec<Candidate>,
}

impl Chooser {
    /// The token for `logits` at `position` after the tokens `recent`, which the penalty applies to, each once however
    /// often it occurred; those without a logit are passed over. `None` when a logit is NaN or infinite, or there is none.
    pub fn choose(
        &mut self,
        params: &SamplingParams,
        logits: &[f32],
        recent: &[u32],
        position: u32,
    ) -> Option<u32> {
        if logits.iter().any(|logit| !logit.is_finite()) {
            return None;
        }
        self.candidates.clear();
        self.candidates.extend((0u32..).zip(logits).map(|(index, l)| Candidate { index, value: l + 0.0 }));
        for token in recent {
            if let (Some(c), Some(logit)) =
                (self.candidates.get_mut(*token as usize), logits.get(*token as usize))
            {
                c.value = penalised(*logit, params.penalty);
            }
        }
        let greatest =
            self.candidates.iter().copied().reduce(|a, b| if b.value > a.value { b } else { a })?;
        if params.temperature == 0.0 {
            return Some(greatest.index);
        }
        self.keep(params, greatest.value);
        self.draw(params, greatest.value, random(params.seed, position))
    }

    /// Top-k, top-p and min-p.
    fn keep(&mut self, params: &SamplingParams, greatest: f32) {
        let candidates = &mut self.candidates;
        let some_only = params.top_k > 0 && (params.top_k as usize) < candidates.len();
        if some_only || params.top_p > 0 {
            candidates.sort_unstable_by_key(|c| (std::cmp::Reverse(order(c.value)), c.index));
        }
        if some_only {
            candidates.truncate(params.top_k as usize);
        }
        if params.top_p > 0 {
            let all: u64 = candidates.iter().map(|c| c.weight(greatest)).sum();
            let wanted = part_of(params.top_p, all).max(1);
            let mut sum = 0;
            let fewer = candidates.iter().take_while(|c| {
                let more = sum < wanted;
                sum += c.weight(greatest);
                more
            });
            let n = fewer.count();
            candidates.truncate(n);
        }
        candidates.retain(|c| exp(c.value - greatest) >= params.min_p);
        candidates.sort_unstable_by_key(|c| c.index);
    }

    /// The first candidate, by index, up to which the weights exceed a random share of them all.
    fn draw(&self, params: &SamplingParams, greatest: f32, random: u64) -> Option<u32> {
        let weights =
            || self.candidates.iter().map(|c| weight(exp((c.value - greatest) / params.temperature)));
        let place = part_of(random, weights().sum());
        let mut sum = 0;
        let passed = weights().take_while(|weight| {
            sum += weight;
            sum <= place
        });
        self.candidates.get(passed.count()).map(|c| c.index)
    }
}

#[cfg(test)]
mod tests;
