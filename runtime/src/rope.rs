//! The table of rotations: computed on the host in f64, so that every device rotates by the same bits.

/// Cosines and sines of all positions: `theta(pos, i) = pos * base^(-2i / head_dim)`.
///
/// Source: RoFormer, <https://arxiv.org/abs/2104.09864>, section 3.2.2.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// `base^(-2i / head_dim)` for each pair.
    inverse_frequencies: Vec<f64>,
}

impl RopeTable {
    /// The table for heads of `head_dim` elements.
    #[must_use]
    pub fn new(base: f32, head_dim: u32) -> Self {
        let exponent = |i: u32| -2.0 * f64::from(i) / f64::from(head_dim);
        let inverse_frequencies = (0..head_dim / 2).map(|i| f64::from(base).powf(exponent(i))).collect();
        Self { inverse_frequencies }
    }

    /// The same with each pair's frequency divided by its factor, as models do that were stretched to a longer
    /// context; a pair without a factor stays as it is.
    #[must_use]
    pub fn with_factors(mut self, factors: &[f32]) -> Self {
        for (frequency, factor) in self.inverse_frequencies.iter_mut().zip(factors) {
            *frequency /= f64::from(*factor);
        }
        self
    }

    /// The same with every frequency divided by `scale`, as models do that interpolate positions.
    #[must_use]
    pub fn with_scale(mut self, scale: f32) -> Self {
        for frequency in &mut self.inverse_frequencies {
            *frequency /= f64::from(scale);
        }
        self
    }

    /// f32 values a position: a `(cos, sin)` for each pair.
    #[must_use]
    pub fn values_per_position(&self) -> usize {
        self.inverse_frequencies.len() * 2
    }

    /// Fills `out`, `[positions][head_dim / 2][cos, sin]`, from position `first` on.
    pub fn fill(&self, first: u32, out: &mut [f32]) {
        for (row, pos) in out.chunks_mut(self.values_per_position().max(1)).zip(successors(f64::from(first)))
        {
            for (pair, frequency) in row.chunks_exact_mut(2).zip(&self.inverse_frequencies) {
                let theta = pos * frequency;
                pair[0] = theta.cos() as f32;
                pair[1] = theta.sin() as f32;
            }
        }
    }
}

/// `first, first + 1, …`: exact in f64 for every position that a u32 can hold.
fn successors(first: f64) -> impl Iterator<Item = f64> {
    (0u32..).map(move |n| first + f64::from(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_are_those_of_the_formula() {
        let table = RopeTable::new(10_000.0, 8);
        let mut all = vec![0.0; 8 * 40];
        table.fill(0, &mut all);
        assert_eq!(&all[..8], &[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
        // 10000^(-2/8) = 0.1, 10000^(-4/8) = 0.01
        let row = &all[8 * 7..];
        for (i, frequency) in [1.0f64, 0.1, 0.01, 0.001].into_iter().enumerate() {
            assert_eq!(row[2 * i], (7.0 * frequency).cos() as f32, "cos {i}");
            assert_eq!(row[2 * i + 1], (7.0 * frequency).sin() as f32, "sin {i}");
        }
        let mut stretched = vec![0.0; 8];
        table.clone().with_factors(&[1.0, 2.0, 4.0, 8.0]).fill(7, &mut stretched);
        assert_eq!(stretched[0], row[0]);
        assert_eq!(stretched[3], (7.0f64 * 0.1 / 2.0).sin() as f32);
        let mut interpolated = vec![0.0; 8];
        table.clone().with_scale(8.0).fill(16, &mut interpolated);
        assert_eq!(interpolated, all[8 * 2..8 * 3], "position 16 of a table scaled by 8 is position 2");
        let mut tail = vec![0.0; 8 * 3];
        table.fill(37, &mut tail);
        assert_eq!(tail, all[8 * 37..], "a piece equals the same rows of the whole");
    }
}
