//! The exponential of attention: `2^x` of a distance from a maximum, which is never positive.
//!
//! Queries are scaled so that a score is a power of two's exponent (`log2 e` stands in their scale), which leaves the
//! exponential a rounding, a polynomial and a product: half of what `exp` takes.

use crate::dsl::prelude::*;

/// Coefficients of `r^6 … r^1`: least greatest relative error of `2^r` on |r| ≤ 1/2 with `1` for `r^0`; 2e-9 in exact
/// arithmetic.
const TERMS: [f32; 6] =
    [1.535_333_7e-4, 1.339_887_5e-3, 9.618_438e-3, 5.550_332_4e-2, 0.240_226_48, std::f32::consts::LN_2];
/// 1.5 · 2^23: a sum with it is rounded to a whole number, which its low bits are.
const ROUND: f32 = 12_582_912.0;
/// Below it the result is 0.
const LEAST_EXPONENT: f32 = -127.0;

/// `2^x` for `x ≤ 0`, within 2 ulp: 1 for 0, 0 from −126.5 downward (and for −∞), NaN for NaN.
///
/// The factor `2^n` is made of exponent bits; n = −127 gives the bits of 0.
#[device]
pub(super) fn decay(x: V<f32>) -> V<f32> {
    let x = max_nan(x, LEAST_EXPONENT);
    let rounded = x + ROUND;
    let r = x - (rounded - ROUND);
    let mut e = dev(TERMS[0]);
    for term in each(TERMS.into_iter().skip(1)) {
        e = fma(e, r, term);
    }
    fma(e, r, 1.0) * V::<f32>::from_bits((rounded.bits() << 23) + 0x3f80_0000)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may")]
mod tests {
    use super::*;
    use emulator::{Checks, Config, Machine, Outcome};

    #[kernel(grid = n.div_ceil(128), block = 128)]
    fn apply(n: u32, x: In<f32>, y: Out<f32>) {
        let i = cta_id() * 128 + thread_idx_x();
        if i < n {
            y.at(i).store(decay(x.at(i).load()));
        }
    }

    fn on_the_emulator(x: &[f32]) -> Vec<f32> {
        let kernel = apply(x.len() as u32).unwrap();
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
    fn it_is_within_two_units_of_the_true_power() {
        let x: Vec<f32> = (0..200_000).map(|i| -(i as f32) * 6.3e-4).collect();
        let mut worst = 0.0f64;
        for (x, found) in x.iter().zip(on_the_emulator(&x)).filter(|(x, _)| **x > -126.0) {
            let wanted = f64::from(*x).exp2();
            worst = worst.max((f64::from(found) - wanted).abs() / wanted * f64::from(1 << 24));
        }
        println!("{worst:.2} · 2^-24 of the value");
        assert!(worst <= 2.0, "{worst}");
    }

    #[test]
    fn its_ends_are_exact() {
        let x = [0.0, -0.0, -1.0, -126.0, -126.75, -127.0, -1e4, -1e30, f32::NEG_INFINITY];
        let found = on_the_emulator(&x);
        assert_eq!(found, [1.0, 1.0, 0.5, f32::MIN_POSITIVE, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert!(on_the_emulator(&[f32::NAN])[0].is_nan());
    }
}
