//! Trials of the five launches. What each must leave is computed by its definition, with sorted tokens and plain sums;
//! the token by `plan::sampling`, which knows nothing of ranks, bins and parts.

use super::super::operation::{Cost, Expect, Operation, Trial};
use super::super::reference::{bytes_f32, bytes_u32};
use super::super::rows::Control;
use super::*;
use crate::dsl::{BuildError, Kernel};
use crate::rng::Rng;
use ::plan::HISTORY;
use ::plan::sampling::{Chooser, NOT_FINITE, SamplingParams, exp, order, part_of, penalised, weight, window};

/// What outputs hold before a launch.
const POISON: u8 = 0xcd;

/// A row's inputs.
struct Scene {
    params: SamplingParams,
    /// Token, position, sequence, 0.
    control: [u32; 4],
    history: Vec<u32>,
    logits: Vec<f32>,
}

/// A token, its order and its value under the penalty, and its weight before the temperature.
#[derive(Clone, Copy)]
struct Token {
    index: u32,
    order: u32,
    value: f32,
}

impl Token {
    fn rank(self) -> u64 {
        u64::from(self.order) << 32 | u64::from(!self.index)
    }
}

fn random_params(rng: &mut Rng, vocab_size: u32) -> SamplingParams {
    let pick = |rng: &mut Rng, values: &[f32]| values[rng.below(values.len() as u32) as usize];
    let temperature = pick(rng, &[0.0, 0.3, 0.8, 1.0, 5.0]);
    let top_k = [0, 0, 1, 5, 40, vocab_size / 2 + 1, vocab_size][rng.below(7) as usize];
    let top_p = SamplingParams::share(pick(rng, &[1.0, 1.0, 1e-9, 0.3, 0.9, 0.999]));
    let min_p = pick(rng, &[0.0, 0.0, 0.05, 0.6]);
    let penalty = pick(rng, &[1.0, 1.3, 0.5, 1e-30]);
    SamplingParams { temperature, min_p, penalty, top_k, top_p, seed: rng.next_u64(), since: 0 }
}

fn random_logits(rng: &mut Rng, vocab_size: u32) -> Vec<f32> {
    let kind = rng.below(10);
    let mut logits: Vec<f32> = (0..vocab_size)
        .map(|i| match kind {
            // Many equals; all equal; beyond every weight; both zeros; almost equals.
            0 => (rng.normal() * 2.0).round(),
            1 => 7.0,
            2 => rng.normal() * 1000.0,
            3 => [0.0, -0.0][(i % 3 == 0) as usize],
            4 => 20.0 + (i % 37) as f32 * 2e-6,
            5 => f32::MIN,
            _ => rng.normal() * 3.0,
        })
        .collect();
    if kind == 9 {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.below(3) as usize];
        logits[rng.below(vocab_size) as usize] = bad;
    }
    logits
}

impl Scene {
    fn random(rng: &mut Rng, vocab_size: u32) -> Scene {
        let mut params = random_params(rng, vocab_size);
        let logits = random_logits(rng, vocab_size);
        let position = [0, 1, 3, 62, 63, 64, 126, 127, 1000][rng.below(9) as usize];
        params.since = position - rng.below(position.min(80) + 1);
        // Small vocabularies repeat tokens; some tokens are none at all.
        let history = (0..HISTORY).map(|_| rng.below(vocab_size + vocab_size / 16 + 1)).collect();
        Scene { params, control: [5, position, 0, 0], history, logits }
    }

    fn recent(&self) -> Vec<u32> {
        window(self.params.since, self.control[1]).map(|n| self.history[(n % HISTORY) as usize]).collect()
    }

    fn tokens(&self) -> Vec<Token> {
        let recent = self.recent();
        (0u32..)
            .zip(&self.logits)
            .map(|(index, logit)| {
                let changed = recent.contains(&index);
                let value = if changed { penalised(*logit, self.params.penalty) } else { logit + 0.0 };
                Token { index, order: if logit.is_finite() { order(value) } else { u32::MAX }, value }
            })
            .collect()
    }

    fn is_finite(&self) -> bool {
        self.logits.iter().all(|l| l.is_finite())
    }

    fn greatest(&self) -> f32 {
        self.tokens().iter().fold(f32::MIN, |best, token| best.max(token.value))
    }

    fn draws(&self) -> bool {
        self.is_finite() && self.params.temperature != 0.0
    }

    fn has_top_k(&self) -> bool {
        self.params.top_k > 0 && (self.params.top_k as usize) < self.logits.len()
    }

    fn has_cut(&self) -> bool {
        self.draws() && (self.has_top_k() || self.params.top_p > 0)
    }

    fn keys(&self, s: &Sample) -> Vec<u32> {
        let mut keys: Vec<u32> = self.tokens().iter().map(|t| t.order).collect();
        keys.resize(s.stride() as usize, 0);
        keys
    }

    fn best(&self, s: &Sample) -> Vec<u64> {
        let tokens = self.tokens();
        let mut best = vec![0; s.parts as usize];
        for t in &tokens {
            let of_part = &mut best[(t.index / s.per_part()) as usize];
            *of_part = t.rank().max(*of_part);
        }
        best
    }

    /// Counts, then weights, by distance.
    fn bins(&self) -> Vec<u64> {
        let mut bins = vec![0; 2 * BINS as usize];
        let greatest = self.greatest();
        for t in self.tokens().iter().filter(|_| self.has_cut()) {
            let bin = (((greatest - t.value) * BINS_PER_ONE) as usize).min(BINS as usize - 1);
            bins[bin] += 1;
            bins[BINS as usize + bin] += weight(exp(t.value - greatest));
        }
        bins
    }

    fn cut(&self) -> u64 {
        if !self.has_cut() {
            return 0;
        }
        let greatest = self.greatest();
        let mut tokens = self.tokens();
        tokens.sort_by_key(|t| std::cmp::Reverse(t.rank()));
        let mut kept = tokens.len();
        if self.has_top_k() {
            kept = self.params.top_k as usize;
        }
        if self.params.top_p > 0 {
            let weights = tokens[..kept].iter().map(|t| weight(exp(t.value - greatest)));
            let wanted = part_of(self.params.top_p, weights.clone().sum()).max(1);
            let sums = weights.scan(0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            });
            kept = 1 + sums.take_while(|sum| *sum < wanted).count();
        }
        tokens[kept - 1].rank()
    }

    fn sums(&self, s: &Sample) -> Vec<u64> {
        let (greatest, cut) = (self.greatest(), self.cut());
        let mut sums = vec![0; s.parts as usize];
        for t in self.tokens() {
            let distance = t.value - greatest;
            if t.rank() >= cut && exp(distance) >= self.params.min_p {
                sums[(t.index / s.per_part()) as usize] += weight(exp(distance / self.params.temperature));
            }
        }
        sums
    }

    fn token(&self) -> u32 {
        let chosen = Chooser::default().choose(&self.params, &self.logits, &self.recent(), self.control[1]);
        chosen.unwrap_or(NOT_FINITE)
    }
}

fn bytes_u64(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The rows of a trial, and how many of them are active.
struct Scenes {
    rows: Vec<Scene>,
    active: usize,
}

impl Scenes {
    fn random(s: &Sample, seed: u64) -> Scenes {
        let mut rng = Rng::new(seed);
        let rows: Vec<Scene> = (0..s.rows).map(|_| Scene::random(&mut rng, s.vocab_size)).collect();
        let active = 1 + rng.below(s.rows) as usize;
        Scenes { rows, active }
    }

    /// One buffer of all rows.
    fn all(&self, of: impl Fn(&Scene) -> Vec<u8>) -> Vec<u8> {
        self.rows.iter().flat_map(of).collect()
    }

    /// One buffer after a launch: rows that are not active are as before.
    fn after(&self, of: impl Fn(&Scene) -> Vec<u8>) -> Vec<u8> {
        let fresh = |(row, scene): (usize, &Scene)| {
            let bytes = of(scene);
            if row < self.active { bytes } else { vec![POISON; bytes.len()] }
        };
        self.rows.iter().enumerate().flat_map(fresh).collect()
    }

    fn control(&self) -> Control {
        Control {
            active: self.active as u32,
            waiting: 0,
            rows: self.rows.iter().map(|r| r.control).collect(),
        }
    }

    /// The control and the history after the tokens were fed back.
    fn fed_back(&self) -> (Control, Vec<u8>) {
        let tokens: Vec<u32> = self.rows.iter().take(self.active).map(Scene::token).collect();
        self.control().fed_back(&tokens)
    }

    fn params(&self) -> Vec<u8> {
        self.all(|r| bytes_u32(&r.params.words()))
    }

    fn history(&self) -> Vec<u8> {
        self.all(|r| bytes_u32(&r.history))
    }

    fn keys(&self, s: &Sample) -> Vec<u8> {
        self.all(|r| bytes_u32(&r.keys(s)))
    }

    fn best(&self, s: &Sample) -> Vec<u8> {
        self.all(|r| bytes_u64(&r.best(s)))
    }
}

macro_rules! operation {
    ($ty:ident, $kernel:ident, $words:literal, |$s:ident, $scenes:ident, $trial:ident| $make:expr) => {
        impl Operation for $ty {
            fn name(&self) -> &'static str {
                stringify!($kernel)
            }

            fn constants(&self) -> String {
                format!("{:?}", self.0)
            }

            fn build(&self) -> Result<Kernel, BuildError> {
                $kernel(self)
            }

            fn cost(&self) -> Cost {
                self.0.cost($words)
            }

            fn trial(&self, seed: u64) -> Trial {
                let $s = &self.0;
                let $scenes = Scenes::random($s, seed);
                let $trial = Trial::new(seed);
                $make
            }
        }
    };
}

operation!(SamplePart, sample_part, 2, |s, scenes, trial| trial
    .input(scenes.control().bytes())
    .input(scenes.params())
    .input(scenes.history())
    .input(scenes.all(|r| bytes_f32(&r.logits)))
    .output(s.keys_bytes(), Expect::Exact(scenes.after(|r| bytes_u32(&r.keys(s)))))
    .output(s.parts_bytes(), Expect::Exact(scenes.after(|r| bytes_u64(&r.best(s)))))
    .output(s.bins_bytes(), Expect::Exact(scenes.after(|_| vec![0; 16 * BINS as usize]))));

operation!(SampleBins, sample_bins, 1, |s, scenes, trial| trial
    .input(scenes.control().bytes())
    .input(scenes.params())
    .input(scenes.keys(s))
    .input(scenes.best(s))
    .in_out(
        scenes.after(|_| vec![0; 16 * BINS as usize]),
        Expect::Exact(scenes.after(|r| bytes_u64(&r.bins())))
    ));

operation!(SampleCut, sample_cut, 1, |s, scenes, trial| trial
    .input(scenes.control().bytes())
    .input(scenes.params())
    .input(scenes.keys(s))
    .input(scenes.best(s))
    .input(scenes.all(|r| bytes_u64(&r.bins())))
    .output(s.cut_bytes(), Expect::Exact(scenes.after(|r| bytes_u64(&[r.cut()])))));

operation!(SampleWeigh, sample_weigh, 1, |s, scenes, trial| {
    let untouched = vec![POISON; 8 * s.parts as usize];
    let sums = scenes.after(|r| if r.draws() { bytes_u64(&r.sums(s)) } else { untouched.clone() });
    trial
        .input(scenes.control().bytes())
        .input(scenes.params())
        .input(scenes.keys(s))
        .input(scenes.best(s))
        .input(scenes.all(|r| bytes_u64(&[r.cut()])))
        .output(s.parts_bytes(), Expect::Exact(sums))
});

operation!(SampleFinal, sample_final, 0, |s, scenes, trial| {
    let untouched = vec![POISON; 8 * s.parts as usize];
    let (after, history) = scenes.fed_back();
    let sums = scenes.all(|r| if r.draws() { bytes_u64(&r.sums(s)) } else { untouched.clone() });
    trial
        .input(scenes.params())
        .input(scenes.keys(s))
        .input(scenes.best(s))
        .input(scenes.all(|r| bytes_u64(&[r.cut()])))
        .input(sums)
        .in_out(scenes.control().bytes(), Expect::Exact(after.bytes()))
        .output(u64::from(s.rows * HISTORY) * 4, Expect::Exact(history))
        .output(u64::from(s.rows) * 4, Expect::Exact(scenes.after(|r| bytes_u32(&[r.token()]))))
});
