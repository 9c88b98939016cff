//! Scales for a group of weights: for the symmetric types one factor, for the others a factor and a minimum. Both
//! searches try a grid of factors around the one that the extreme weight asks for, round the weights with each, fit
//! the factor (and the minimum) to what was rounded by weighted least squares, and keep what errs least.

/// Quants of weights `x ≈ scale · q − min`, where `min` is not negative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// The factor.
    pub scale: f32,
    /// What quant 0 stands for, negated.
    pub min: f32,
}

/// The factors that a search tries, as steps of the greatest quant: `from + step · i` more than it, for `i` in
/// `0..=n`.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// The greatest quant.
    pub top: u8,
    /// The first offset.
    pub from: f32,
    /// From one offset to the next.
    pub step: f32,
    /// The number of steps.
    pub n: u16,
}

/// Weighted sums of quants and weights, from which the best factor and minimum follow.
#[derive(Default)]
struct Sums {
    w: f32,
    x: f32,
    q: f32,
    qq: f32,
    qx: f32,
}

impl Sums {
    /// Least squares of `x ≈ scale · q + offset` with `offset <= 0`; nothing where all quants are equal.
    fn fit(&self) -> Option<(f32, f32)> {
        let determinant = self.w * self.qq - self.q * self.q;
        if determinant <= 0.0 {
            return None;
        }
        let scale = (self.w * self.qx - self.x * self.q) / determinant;
        let offset = (self.qq * self.x - self.q * self.qx) / determinant;
        // A minimum above zero cannot be stored.
        Some(if offset > 0.0 { (self.qx / self.qq, 0.0) } else { (scale, offset) })
    }
}

/// The factor and minimum for weights that matter by `importance`.
pub fn affine(x: &[f32], importance: &[f32], grid: Grid) -> Affine {
    let low = x.iter().copied().fold(0.0, f32::min);
    let high = x.iter().copied().fold(f32::MIN, f32::max);
    let span = high - low;
    if span <= 0.0 {
        return Affine { scale: 0.0, min: -low };
    }
    let top = f32::from(grid.top);
    let error_of = |scale: f32, offset: f32, quant: &dyn Fn(f32) -> f32| -> f32 {
        x.iter().zip(importance).map(|(&x, &w)| w * (scale * quant(x) + offset - x).powi(2)).sum()
    };
    let plain = move |x: f32| ((x - low) * (top / span)).round_ties_even().clamp(0.0, top);
    let (mut best, mut best_error) = ((span / top, low), error_of(span / top, low, &plain));
    for i in 0..=grid.n {
        let inverse = (grid.from + grid.step * f32::from(i) + top) / span;
        // From the best minimum so far, not from the least weight: each fit that helps moves the grid with it.
        let base = best.1;
        let quant = move |x: f32| ((x - base) * inverse).round_ties_even().clamp(0.0, top);
        let mut sums = Sums::default();
        for (&x, &w) in x.iter().zip(importance) {
            let q = quant(x);
            sums.w += w;
            sums.x += w * x;
            sums.q += w * q;
            sums.qq += w * q * q;
            sums.qx += w * q * x;
        }
        let Some((scale, offset)) = sums.fit() else { continue };
        let error = error_of(scale, offset, &quant);
        if error < best_error {
            (best, best_error) = ((scale, offset), error);
        }
    }
    Affine { scale: best.0, min: -best.1 }
}

/// The factor for quants from `-half` to `half - 1`; large weights matter more, by their square. The result's sign is
/// that which gives the extreme weight the quant `-half`.
pub fn symmetric(x: &[f32], half: u8) -> f32 {
    let extreme = x.iter().copied().fold(0.0f32, |best, x| if x.abs() > best.abs() { x } else { best });
    if extreme == 0.0 {
        return 0.0;
    }
    let half = f32::from(half);
    let (mut best, mut best_gain) = (0.0, 0.0);
    // The plain factor first, so that it stays where another is only as good.
    for offset in std::iter::once(0i8).chain((-9..=9).filter(|i| *i != 0)) {
        let inverse = -(half + 0.1 * f32::from(offset)) / extreme;
        let (mut qx, mut qq) = (0.0, 0.0);
        for &x in x {
            let q = (x * inverse).round_ties_even().clamp(-half, half - 1.0);
            qx += x * x * q * x;
            qq += x * x * q * q;
        }
        // The squared error is a constant less `qx² / qq`.
        if qq > 0.0 && qx * qx > best_gain * qq {
            (best, best_gain) = (qx / qq, qx * qx / qq);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { top: 15, from: -1.0, step: 0.1, n: 20 };

    fn error(x: &[f32], found: Affine) -> f32 {
        let inverse = 1.0 / found.scale;
        let quant = |x: f32| ((x + found.min) * inverse).round_ties_even().clamp(0.0, 15.0);
        x.iter().map(|&x| (found.scale * quant(x) - found.min - x).powi(2)).sum()
    }

    #[test]
    fn weights_on_a_grid_are_met_exactly() {
        let x: Vec<f32> = (0..32u8).map(|i| f32::from(i % 16) * 0.25 - 1.5).collect();
        let found = affine(&x, &[1.0; 32], GRID);
        assert!(error(&x, found) < 1e-10, "{found:?}");
        let x: Vec<f32> = (0..16i8).map(|i| f32::from(2 * i - 16) * 0.5).collect();
        assert!((symmetric(&x, 32) - 0.25).abs() < 1e-6, "{}", symmetric(&x, 32));
    }

    #[test]
    fn an_outlier_is_traded_against_the_rest() {
        let mut x: Vec<f32> = (0..32u8).map(|i| f32::from(i) * 0.031 - 0.5).collect();
        x[7] = 1.1;
        let plain = Affine { scale: 1.6 / 15.0, min: 0.5 };
        let found = affine(&x, &[1.0; 32], GRID);
        assert!(error(&x, found) < 0.99 * error(&x, plain), "{found:?}");
    }

    #[test]
    fn the_minimum_is_never_above_zero_and_nothing_is_nothing() {
        let x = [3.0, 3.5, 4.0, 5.0];
        assert!(affine(&x, &[1.0; 4], GRID).min >= 0.0);
        assert_eq!(affine(&[0.0; 4], &[0.0; 4], GRID), Affine { scale: 0.0, min: 0.0 });
        assert_eq!(affine(&[-2.0; 4], &[1.0; 4], Grid { n: 0, ..GRID }).min, 2.0);
        assert_eq!(symmetric(&[0.0; 16], 32), 0.0);
    }
}
