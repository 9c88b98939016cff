//! Choosing the next token from logits: the configuration, and a sampler on the host.
//!
//! Sessions sample on the device; this sampler gives the same tokens from the same logits. The algorithm and why all devices agree
//! on it is in [`plan::sampling`]: repetition penalty → top-k → top-p → min-p → temperature → draw. With temperature 0 the
//! choice is the greatest logit after the penalty, the lowest index on ties.

use plan::sampling::{Chooser, SamplingParams};
use thiserror::Error;

/// How the next token is chosen. `Default` is greedy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingConfig {
    /// Divides the logits: 0 takes the greatest, 1 leaves the distribution as it is. Range 0 ..= 1000.
    pub temperature: f32,
    /// Keeps this many of the greatest logits; 0 keeps all.
    pub top_k: u32,
    /// Keeps the fewest most probable tokens whose probabilities reach this sum; 1 keeps all. Range 0 < p ≤ 1.
    pub top_p: f32,
    /// Keeps tokens at least this probable relative to the most probable; 0 keeps all. Range 0 ..= 1.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occurred; 1 leaves them. Range 0 < r ≤ 1000.
    pub repetition_penalty: f32,
    /// Seed of the generator; equal seeds give equal draws at equal positions.
    pub seed: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

/// Largest temperature and penalty. Beyond it the result is noise, and a slipped decimal point is likely.
const MAX_FACTOR: f32 = 1000.0;

/// Why a configuration was refused or no token could be chosen.
#[derive(Debug, Error, Clone, Copy, PartialEq)]
pub enum SamplingError {
    /// A field is outside its range or NaN.
    #[error("sampling: {field} = {found} is not in {range}")]
    OutOfRange {
        /// The field of [`SamplingConfig`].
        field: &'static str,
        /// Its value.
        found: f32,
        /// The values allowed.
        range: &'static str,
    },
    /// A logit is NaN or infinite.
    #[error("sampling: logit {index} of {n_logits} is {found}, not a finite number")]
    LogitNotFinite {
        /// Index of the first such logit.
        index: usize,
        /// Number of logits.
        n_logits: usize,
        /// The logit.
        found: f32,
    },
    /// There are no logits, or more than 32-bit token ids can name.
    #[error("sampling: {found} logits, 1 to {limit} are needed")]
    BadLogitCount {
        /// Number of logits.
        found: usize,
        /// Most logits.
        limit: usize,
    },
    /// A token of the history has no logit.
    #[error("sampling: token {id} of the history is not below the {n_logits} logits")]
    HistoryOutOfRange {
        /// The token.
        id: u32,
        /// Number of logits.
        n_logits: usize,
    },
}

impl SamplingConfig {
    /// Says which field is outside its range, if one is.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`].
    pub fn check(&self) -> Result<(), SamplingError> {
        let check = |field, found: f32, holds: bool, range| {
            if holds { Ok(()) } else { Err(SamplingError::OutOfRange { field, found, range }) }
        };
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        check("temperature", temperature, (0.0..=MAX_FACTOR).contains(&temperature), "0 ..= 1000")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "0 < p <= 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "0 ..= 1")?;
        let penalty_holds = repetition_penalty > 0.0 && repetition_penalty <= MAX_FACTOR;
        check("repetition_penalty", repetition_penalty, penalty_holds, "0 < r <= 1000")
    }

    /// Whether the greatest logit is taken as it is: no penalty, no draw.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 && self.repetition_penalty == 1.0
    }

    /// What the device gets for a row whose penalty counts the tokens from position `since` on.
    pub(crate) fn params(&self, since: u32) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            min_p: self.min_p,
            penalty: self.repetition_penalty,
            top_k: self.top_k,
            top_p: SamplingParams::share(self.top_p),
            seed: self.seed,
            since,
        }
    }
}

/// Chooses tokens on the host. Holds buffers that are used again for each token, and no state: a token depends on the
/// configuration, the logits, the history and the position.
#[derive(Debug, Clone)]
pub struct Sampler {
    config: SamplingConfig,
    chooser: Chooser,
}

impl Sampler {
    /// A sampler with a checked configuration.
    ///
    /// # Errors
    /// [`SamplingError::OutOfRange`] names the field.
    pub fn new(config: SamplingConfig) -> Result<Self, SamplingError> {
        config.check()?;
        Ok(Self { config, chooser: Chooser::default() })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &SamplingConfig {
        &self.config
    }

    /// The token after `position`, for the `logits` there (one a token of the vocabulary). `history` are the tokens that
    /// the repetition penalty applies to, in any order; a session counts those of the last
    /// [`PENALTY_WINDOW`](plan::sampling::PENALTY_WINDOW) positions.
    ///
    /// # Errors
    /// When a logit is not finite, naming it, or the history does not fit.
    pub fn sample(&mut self, logits: &[f32], history: &[u32], position: u32) -> Result<u32, SamplingError> {
        let (n_logits, limit) = (logits.len(), u32::MAX as usize);
        if logits.is_empty() || n_logits > limit {
            return Err(SamplingError::BadLogitCount { found: n_logits, limit });
        }
        if let Some((index, found)) = logits.iter().enumerate().find(|(_, logit)| !logit.is_finite()) {
            return Err(SamplingError::LogitNotFinite { index, n_logits, found: *found });
        }
        if let Some(id) = history.iter().find(|id| **id as usize >= n_logits) {
            return Err(SamplingError::HistoryOutOfRange { id: *id, n_logits });
        }
        let token = self.chooser.choose(&self.config.params(0), logits, history, position);
        // Logits were found to be there and finite, so that there is a token.
        token.ok_or(SamplingError::BadLogitCount { found: n_logits, limit })
    }
}

/// The negative natural logarithm of the probability that `logits` give to `token`: what a text's perplexity is the mean of.
/// `None` when there is no such logit, or they are not finite.
#[must_use]
pub fn surprise(logits: &[f32], token: u32) -> Option<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|v| f64::from(v - largest).exp()).sum();
    let logit = logits.get(token as usize)?;
    let surprise = total.ln() - f64::from(logit - largest);
    surprise.is_finite().then_some(surprise)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(change: impl FnOnce(&mut SamplingConfig)) -> Sampler {
        let mut config = SamplingConfig { temperature: 1.0, seed: 42, ..SamplingConfig::default() };
        change(&mut config);
        Sampler::new(config).unwrap()
    }

    #[test]
    fn surprise_is_the_negative_logarithm_of_softmax() {
        let logits = [0.0, 2.0f32.ln(), 1.0f32.ln()];
        assert!((surprise(&logits, 1).unwrap() - 2.0f64.ln()).abs() < 1e-6);
        assert!((surprise(&logits, 0).unwrap() - 4.0f64.ln()).abs() < 1e-6);
        assert_eq!(surprise(&logits, 3), None);
        assert_eq!(surprise(&[f32::NAN, 0.0], 1), None);
    }

    #[test]
    fn logits_that_are_not_numbers_are_named() {
        for temperature in [0.0, 1.0] {
            let mut sampler = sampler(|config| config.temperature = temperature);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let error = sampler.sample(&[0.0, 1.0, bad, bad], &[], 0).unwrap_err();
                assert!(matches!(error, SamplingError::LogitNotFinite { index: 2, n_logits: 4, .. }));
            }
            let error = sampler.sample(&[], &[], 0).unwrap_err();
            assert_eq!(error, SamplingError::BadLogitCount { found: 0, limit: u32::MAX as usize });
            let error = sampler.sample(&[0.0, 1.0], &[0, 2], 0).unwrap_err();
            assert_eq!(error, SamplingError::HistoryOutOfRange { id: 2, n_logits: 2 });
        }
    }

    #[test]
    fn every_field_has_its_range() {
        type Change = fn(&mut SamplingConfig, f32);
        let fields: [(&str, Change, &[f32], &[f32]); 4] = [
            ("temperature", |c, v| c.temperature = v, &[0.0, 1e-20, 1000.0], &[-0.1, 1001.0]),
            ("top_p", |c, v| c.top_p = v, &[1e-20, 1.0], &[0.0, -1.0, 1.001]),
            ("min_p", |c, v| c.min_p = v, &[0.0, 1.0], &[-0.001, 1.001]),
            ("repetition_penalty", |c, v| c.repetition_penalty = v, &[0.01, 1000.0], &[0.0, -1.0, 1001.0]),
        ];
        for (field, change, good, bad) in fields {
            let made = |value: f32| {
                let mut config = SamplingConfig::default();
                change(&mut config, value);
                Sampler::new(config)
            };
            for value in good {
                assert!(made(*value).is_ok(), "{field} {value}");
            }
            for value in bad.iter().chain(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]) {
                let error = made(*value).unwrap_err();
                assert!(matches!(error, SamplingError::OutOfRange { field: f, .. } if f == field), "{error}");
            }
        }
    }

    #[test]
    fn every_field_is_heeded() {
        // Each of 400 positions draws; which tokens can come tells which bounds were applied.
        let table: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln).to_vec();
        let drawn = |change: fn(&mut SamplingConfig), history: &[u32]| {
            let mut sampler = sampler(change);
            let mut counts = [0; 4];
            for position in 0..400 {
                counts[sampler.sample(&table, history, position).unwrap() as usize] += 1;
            }
            counts
        };
        let kept = |counts: [u32; 4]| counts.map(|count| count > 0);
        let plain = drawn(|_| (), &[]);
        assert_eq!(kept(plain), [true; 4]);
        assert_eq!(kept(drawn(|c| c.top_k = 2, &[])), [true, true, false, false]);
        assert_eq!(kept(drawn(|c| c.top_p = 0.81, &[])), [true, true, true, false]);
        assert_eq!(kept(drawn(|c| c.min_p = 0.31, &[])), [true, true, false, false]);
        assert_eq!(drawn(|c| c.temperature = 0.0, &[]), [400, 0, 0, 0]);
        assert!(drawn(|c| c.temperature = 10.0, &[])[3] > 4 * plain[3] / 2);
        assert!(drawn(|c| c.repetition_penalty = 20.0, &[0])[0] < plain[0] / 4);
        assert_ne!(drawn(|c| c.seed = 43, &[]), plain);
        assert_eq!(drawn(|_| (), &[]), plain);
    }
}
