//! The functions between the matrices of a feed-forward, by IEEE operations alone, with their f64 references.
//!
//! Three of them are `x / (1 + exp(-k(x)))`: SiLU with `k = x`, GELU by the tanh formula with
//! `k = 2·√(2/π)·(x + 0.044715 x³)` (which is the same function, since `1 + tanh(y) = 2 / (1 + exp(-2y))`), and its
//! logistic approximation with `k = 1.702 x`. GELU by its definition goes through `erfc`.

use super::reference::gamma;
use crate::dsl::prelude::*;
use ::plan::Activation;

/// 2·√(2/π).
const TANH_SCALE: f64 = 1.595_769_121_605_730_9;
/// The cubic term of the tanh formula.
const TANH_CUBIC: f64 = 0.044_715;
/// Slope of the logistic approximation.
const QUICK_SLOPE: f64 = 1.702;
/// `ln(erfc(t)·e^(t²) / u) / w` as a polynomial in `w`, lowest power first: fitted on Chebyshev points to
/// t = 12 with weight on small t. `erfc` then is within 1.2e-7 of the true value everywhere.
const ERFC_TERMS: [f32; 9] = [
    -1.256_758_5,
    -0.303_224_1,
    0.160_962_92,
    0.199_668_85,
    0.013_604_597,
    0.086_921_5,
    -0.354_851_43,
    0.210_818_17,
    -0.022_059_275,
];

/// `activation(x)`.
#[device]
pub(in crate::kernels) fn activate(activation: Activation, x: V<f32>) -> V<f32> {
    match activation {
        Activation::Silu => silu(x),
        Activation::GeluTanh => {
            let cubic = fma(x * x, TANH_CUBIC as f32, 1.0);
            logistic(x, x * (TANH_SCALE as f32) * cubic)
        }
        Activation::GeluQuick => logistic(x, x * (QUICK_SLOPE as f32)),
        Activation::GeluErf => gelu_erf(x),
    }
}

/// `x / (1 + exp(-k))`.
#[device]
fn logistic(x: V<f32>, k: V<f32>) -> V<f32> {
    x / (exp(-k) + 1.0)
}

/// `x·Φ(x)`, where `Φ(x)` is `erfc(t)/2` for negative `x` and `1 − erfc(t)/2` for others, `t = |x|/√2`.
#[device]
fn gelu_erf(x: V<f32>) -> V<f32> {
    let t = abs(x) * std::f32::consts::FRAC_1_SQRT_2;
    let half = half_erfc(t);
    x * select(x < 0.0, half, 1.0 - half)
}

/// `erfc(t)/2` for `t ≥ 0`: `u/2 · exp(w·P(w) − t²)` with `u = 1 / (1 + t/2)` and `w = t/2 · u`. From 12 on it is 0, as
/// its f32 is; a NaN stays one.
#[device]
fn half_erfc(t: V<f32>) -> V<f32> {
    let t = min_nan(t, 12.0);
    let half = t * 0.5;
    let u = rcp(half + 1.0);
    let w = half * u;
    let mut p = dev(ERFC_TERMS[8]);
    for term in each(ERFC_TERMS.into_iter().rev().skip(1)) {
        p = fma(p, w, term);
    }
    u * 0.5 * exp(fma(w, p, -(t * t)))
}

/// `activation(x)` in f64.
pub(super) fn reference(activation: Activation, x: f64) -> f64 {
    let logistic = |k: f64| x / (1.0 + (-k).exp());
    match activation {
        Activation::Silu => logistic(x),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + TANH_CUBIC * x.powi(3))).tanh())
        }
        Activation::GeluQuick => logistic(QUICK_SLOPE * x),
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
    }
}

/// What an f32 result may differ by when its argument is known to `bound`. No derivative exceeds 1.13, and a test holds
/// the functions within four roundings of their argument (two is the most that it finds).
pub(super) fn error_bound(x: f64, bound: f64) -> f64 {
    1.13 * bound + gamma(4.0) * (x.abs() + bound)
}

/// The error function by its series of positive terms, `2/√π·e^(−z²)·Σ 2^n z^(2n+1) / (2n+1)!!`; 1 from 6 on.
fn erf(z: f64) -> f64 {
    let a = z.abs();
    if a >= 6.0 {
        return z.signum();
    }
    let (mut term, mut sum, mut n) = (a, a, 0.0);
    while term > sum * 1e-18 {
        n += 1.0;
        term *= 2.0 * a * a / (2.0 * n + 1.0);
        sum += term;
    }
    z.signum() * 2.0 / std::f64::consts::PI.sqrt() * (-a * a).exp() * sum
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]
mod tests {
    use super::super::reference::U;
    use super::*;
    use emulator::{Checks, Config, Machine, Outcome};

    const ALL: [Activation; 4] =
        [Activation::Silu, Activation::GeluTanh, Activation::GeluErf, Activation::GeluQuick];

    #[kernel(grid = n.div_ceil(128), block = 128)]
    fn apply((activation, n): (Activation, u32), x: In<f32>, y: Out<f32>) {
        let i = cta_id() * 128 + thread_idx_x();
        if i < n {
            y.at(i).store(activate(activation, x.at(i).load()));
        }
    }

    fn on_the_emulator(activation: Activation, x: &[f32]) -> Vec<f32> {
        let kernel = apply((activation, x.len() as u32)).unwrap();
        let target = ptx::Target { sm: 90, arch_specific: false };
        let module = crate::lower::lower(&kernel, target, "k").unwrap();
        let machine = Machine::new(Config { threads: 0, checks: Checks::Full });
        let program = machine.load(&ptx::verify::verify(module).unwrap()).unwrap();
        let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        let addresses = [0, 1].map(|_| machine.alloc(bytes.len() as u64).unwrap());
        machine.write(addresses[0], &bytes).unwrap();
        let outcome = machine.launch(&program, "k", kernel.grid, kernel.block, &addresses).unwrap();
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        let mut out = vec![0; bytes.len()];
        machine.read(addresses[1], &mut out).unwrap();
        out.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn results_are_within_four_roundings_of_their_argument() {
        let mut x: Vec<f32> = (-60_000..60_000).map(|i| i as f32 * 2.5e-4).collect();
        x.extend([0.0, -0.0, 1e-30, -1e-30, 1e-40, 50.0, -50.0, 1e4, -1e4, 1e18, -1e18, 3e38, -3e38]);
        for activation in ALL {
            let mut worst: (f64, f32) = (0.0, 0.0);
            for (x, found) in x.iter().zip(on_the_emulator(activation, &x)) {
                let wanted = reference(activation, f64::from(*x));
                let error = (f64::from(found) - wanted).abs() / f64::from(x.abs()).max(1e-38) / U;
                worst = if error > worst.0 { (error, *x) } else { worst };
            }
            println!("{activation:?}: {:.2} u·|x| at {}", worst.0, worst.1);
            assert!(worst.0 <= 4.0, "{activation:?}: {} roundings of {}", worst.0, worst.1);
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for activation in ALL {
            let found = on_the_emulator(activation, &[f32::NAN, f32::INFINITY]);
            assert!(found[0].is_nan() && found[1] == f32::INFINITY, "{activation:?}: {found:?}");
        }
    }

    #[test]
    fn the_reference_knows_erf() {
        // Abramowitz and Stegun, table 7.1.
        for (z, value) in [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(z) - value).abs() < 1e-10, "erf({z}) = {}", erf(z));
            assert_eq!(erf(-z), -erf(z));
        }
        assert!((erf(5.99) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn references_meet_where_they_should() {
        for x in [-3.0, -0.1, 0.0, 0.7, 2.5] {
            let tanh = reference(Activation::GeluTanh, x);
            assert!((tanh - reference(Activation::GeluErf, x)).abs() < 5e-4, "{x}");
            let k = TANH_SCALE * (x + TANH_CUBIC * x.powi(3));
            assert!((tanh - x / (1.0 + (-k).exp())).abs() < 1e-12, "{x}");
        }
    }
}
