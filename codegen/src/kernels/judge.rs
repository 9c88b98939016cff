//! Judging what a kernel left in its arguments against a trial's expectations.

use super::operation::{Expect, Q8Block, Trial};
use super::reference::U;
use crate::layout::SUB_BLOCK;

/// The first element that is not as expected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{buffer}[{index}] is {found}, expected {expected}{} (seed {seed})", ulp_text(*ulps))]
pub struct Mismatch {
    /// Name of the parameter.
    pub buffer: String,
    /// Index of the element (bytes for exact comparisons).
    pub index: usize,
    /// What the kernel stored.
    pub found: String,
    /// What was to be stored, with its bound.
    pub expected: String,
    /// Distance in units in the last place of f32, where that makes sense.
    pub ulps: Option<f64>,
    /// The seed that replays the trial.
    pub seed: u64,
}

fn ulp_text(ulps: Option<f64>) -> String {
    ulps.map(|u| format!(", {u:.1} ulp apart")).unwrap_or_default()
}

/// One argument under judgement.
struct Case<'a> {
    name: &'a str,
    seed: u64,
    before: &'a [u8],
    after: &'a [u8],
}

/// Checks every argument; `after[i]` is what argument `i` holds after the launch.
///
/// # Errors
/// [`Mismatch`] for the first element that is not as expected.
pub fn judge(trial: &Trial, names: &[String], after: &[Vec<u8>]) -> Result<(), Mismatch> {
    let mut previous: &[u8] = &[];
    for (i, (arg, found)) in trial.args.iter().zip(after).enumerate() {
        let name = names.get(i).map_or("argument", String::as_str);
        let case = Case { name, seed: trial.seed, before: &arg.before, after: found };
        match &arg.expect {
            Expect::Unchanged => case.exact(&arg.before)?,
            Expect::Exact(bytes) => case.exact(bytes)?,
            Expect::First(bytes) => case.first(bytes)?,
            Expect::Near(values) => case.near_f32(&dense(values))?,
            Expect::NearF32(places) => case.near_f32(places)?,
            Expect::NearF16(places) => case.near_f16(places)?,
            Expect::Quants(values) => case.quants(values)?,
            Expect::Meta(values) => case.meta(values, previous)?,
            Expect::Q8(blocks) => case.q8(blocks)?,
        }
        previous = found;
    }
    Ok(())
}

fn dense(values: &[(f64, f64)]) -> Vec<(usize, f64, f64)> {
    values.iter().enumerate().map(|(i, (v, bound))| (i, *v, *bound)).collect()
}

fn f32_at(bytes: &[u8], i: usize) -> f32 {
    bytes.get(4 * i..4 * i + 4).and_then(|b| b.try_into().ok()).map_or(f32::NAN, f32::from_le_bytes)
}

impl Case<'_> {
    fn fail(&self, index: usize, found: String, expected: String) -> Mismatch {
        Mismatch { buffer: self.name.into(), index, found, expected, ulps: None, seed: self.seed }
    }

    fn exact(&self, bytes: &[u8]) -> Result<(), Mismatch> {
        if self.after.len() != bytes.len() {
            return Err(self.fail(
                0,
                format!("{} bytes", self.after.len()),
                format!("{} bytes", bytes.len()),
            ));
        }
        match self.after.iter().zip(bytes).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(i) => {
                Err(self.fail(i, format!("{:#04x}", self.after[i]), format!("byte {:#04x}", bytes[i])))
            }
        }
    }

    fn first(&self, bytes: &[u8]) -> Result<(), Mismatch> {
        let rest = self.before.get(bytes.len()..).unwrap_or(&[]);
        self.exact(&[bytes, rest].concat())
    }

    fn value(&self, index: usize, found: f64, expected: f64, bound: f64) -> Result<(), Mismatch> {
        if (found - expected).abs() <= bound {
            return Ok(());
        }
        let ulp = (expected.abs() * 2.0 * U).max(f64::from(f32::from_bits(1)));
        let mut mismatch = self.fail(index, format!("{found:e}"), format!("{expected:e} ± {bound:e}"));
        mismatch.ulps = Some((found - expected).abs() / ulp);
        Err(mismatch)
    }

    /// Bytes outside `touched` must be what they were.
    fn rest_unchanged(&self, touched: &[bool]) -> Result<(), Mismatch> {
        let changed = (0..self.after.len().min(self.before.len()))
            .find(|i| !touched[*i] && self.after[*i] != self.before[*i]);
        match changed {
            None => Ok(()),
            Some(i) => {
                let expected = format!("byte {:#04x} as before the launch", self.before[i]);
                Err(self.fail(i, format!("{:#04x}", self.after[i]), expected))
            }
        }
    }

    /// Bytes from `start` on must be what they were.
    fn unchanged_from(&self, start: usize) -> Result<(), Mismatch> {
        let touched: Vec<bool> = (0..self.after.len()).map(|i| i < start).collect();
        self.rest_unchanged(&touched)
    }

    fn near_f32(&self, places: &[(usize, f64, f64)]) -> Result<(), Mismatch> {
        let mut touched = vec![false; self.after.len()];
        for (i, value, bound) in places {
            self.value(*i, f64::from(f32_at(self.after, *i)), *value, *bound)?;
            touched[4 * i..4 * i + 4].fill(true);
        }
        self.rest_unchanged(&touched)
    }

    /// The f16 at a byte is within the bound of the value and one rounding to f16.
    fn half(&self, byte: usize, value: f64, bound: f64) -> Result<(), Mismatch> {
        let bytes = self.after.get(byte..byte + 2).and_then(|b| b.try_into().ok());
        let bits = bytes.map_or(0x7fff, u16::from_le_bytes);
        // Half a unit in the last place of f16, normal or subnormal.
        let rounding = (value.abs() * 2f64.powi(-11)).max(2f64.powi(-25));
        self.value(byte / 2, f64::from(ptx::sem::f16_to_f32(bits)), value, bound + rounding)
    }

    fn near_f16(&self, places: &[(usize, f64, f64)]) -> Result<(), Mismatch> {
        let mut touched = vec![false; self.after.len()];
        for (i, value, bound) in places {
            self.half(2 * i, *value, *bound)?;
            touched[2 * i..2 * i + 2].fill(true);
        }
        self.rest_unchanged(&touched)
    }

    fn quants(&self, values: &[(f64, f64)]) -> Result<(), Mismatch> {
        for (block, chunk) in values.chunks(SUB_BLOCK as usize).enumerate() {
            self.quants_of_block(block * SUB_BLOCK as usize, chunk)?;
        }
        self.unchanged_from(values.len())
    }

    /// A quant must be what the true value, moved by at most its bound and the scale's, rounds to.
    fn quants_of_block(&self, first: usize, chunk: &[(f64, f64)]) -> Result<(), Mismatch> {
        let largest = chunk.iter().map(|(v, _)| v.abs()).fold(0.0, f64::max);
        let scale_bound = chunk.iter().map(|(_, b)| *b).fold(0.0, f64::max);
        for (index, (value, bound)) in (first..).zip(chunk) {
            let found = f64::from(self.after.get(index).map_or(0, |b| *b as i8));
            let steps = if largest == 0.0 { 0.0 } else { value * 127.0 / largest };
            let slack = if largest == 0.0 { 0.0 } else { (bound + scale_bound) * 127.0 / largest + 1e-4 };
            if (found - steps).abs() > 0.5 + slack {
                return Err(self.fail(
                    index,
                    format!("{found}"),
                    format!("{steps:.4} rounded, ± {slack:.2e}"),
                ));
            }
        }
        Ok(())
    }

    fn q8(&self, blocks: &[Q8Block]) -> Result<(), Mismatch> {
        let mut touched = vec![false; self.after.len()];
        for block in blocks {
            self.quants_of_block(block.quants, &block.values)?;
            let of = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
            let scale = of(&mut block.values.iter().map(|(v, _)| v.abs())) / 127.0;
            let bound = of(&mut block.values.iter().map(|(_, b)| *b)) / 127.0;
            self.half(block.scale, scale, bound + 2.0 * U * scale)?;
            touched[block.quants..block.quants + block.values.len()].fill(true);
            touched[block.scale..block.scale + 2].fill(true);
        }
        self.rest_unchanged(&touched)
    }

    fn meta(&self, values: &[(f64, f64)], quants: &[u8]) -> Result<(), Mismatch> {
        for (block, chunk) in values.chunks(SUB_BLOCK as usize).enumerate() {
            let largest = chunk.iter().map(|(v, _)| v.abs()).fold(0.0, f64::max);
            let bound = chunk.iter().map(|(_, b)| *b).fold(0.0, f64::max);
            let scale = f64::from(f32_at(self.after, 2 * block));
            self.value(2 * block, scale, largest / 127.0, bound / 127.0 + 2.0 * U * largest / 127.0)?;
            let of_half = |half: usize| -> i16 {
                let start = block * 32 + half * 16;
                quants.get(start..start + 16).unwrap_or(&[]).iter().map(|q| i16::from(*q as i8)).sum()
            };
            let sums = f32_at(self.after, 2 * block + 1).to_bits();
            let expected = u32::from(of_half(0) as u16) | u32::from(of_half(1) as u16) << 16;
            if sums != expected {
                return Err(self.fail(
                    2 * block + 1,
                    format!("sums {sums:#010x}"),
                    format!("{expected:#010x}"),
                ));
            }
        }
        self.unchanged_from(values.len() / SUB_BLOCK as usize * 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::quantize_row;

    fn names() -> Vec<String> {
        vec!["q".into(), "meta".into()]
    }

    fn block_trial() -> (Trial, Vec<Vec<u8>>) {
        let x: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
        let blocks = quantize_row(&x);
        let values: Vec<(f64, f64)> = x.iter().map(|v| (f64::from(*v), 1e-9)).collect();
        let trial = Trial::new(7).output(64, Expect::Quants(values.clone())).output(16, Expect::Meta(values));
        (trial, vec![blocks.quant_bytes(), blocks.meta_bytes()])
    }

    #[test]
    fn right_blocks_pass() {
        let (trial, after) = block_trial();
        assert_eq!(judge(&trial, &names(), &after), Ok(()));
    }

    #[test]
    fn every_wrong_byte_is_found() {
        let (trial, after) = block_trial();
        for (arg, i) in (0..64).map(|i| (0, i)).chain((0..16).map(|i| (1, i))) {
            let mut wrong = after.clone();
            wrong[arg][i] = wrong[arg][i].wrapping_add(if arg == 1 && i % 8 < 2 { 0x40 } else { 2 });
            // The low mantissa bytes of a scale are below its bound; the rest is not.
            if arg == 0 || i % 8 >= 2 {
                assert!(judge(&trial, &names(), &wrong).is_err(), "argument {arg} byte {i}");
            }
        }
    }

    #[test]
    fn untouched_outputs_and_nan_fail() {
        let trial = Trial::new(1).output(8, Expect::Near(vec![(1.0, 0.1), (2.0, 0.1)]));
        let poison = trial.args[0].before.clone();
        assert!(judge(&trial, &names(), &[poison]).is_err());
        let nan: Vec<u8> = [f32::NAN, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let text = judge(&trial, &names(), &[nan]).unwrap_err().to_string();
        assert!(text.contains("q[0]") && text.contains("seed 1"), "{text}");
    }
}
