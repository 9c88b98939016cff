//! The generator and the exponential that draws are made of. Both give the same bits on every platform, which the
//! standard library promises of neither.

/// `e^x` for `x` ≤ 0, to a relative error below 2^-50, by operations that every platform rounds alike. The exponential
/// of the standard library differs between platforms in the last bits, which would let a draw differ.
///
/// With x = −n·ln 2 + r and |r| ≤ ln 2 / 2: the Taylor series of `e^r` to the 13th power, whose rest is below
/// (ln 2 / 2)^14 / 14! < 2^-57, times 2^−n.
pub(super) fn exp_non_positive(x: f64) -> f64 {
    /// ln 2 in two parts: the first has so few bits that its product with n is exact.
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    /// Below this the result is under the least normal number and counts as zero.
    const LEAST: f64 = -708.0;
    const LAST_POWER: i32 = 13;
    if x < LEAST {
        return 0.0;
    }
    let n = (-x * std::f64::consts::LOG2_E + 0.5).floor();
    let r = (x + n * LN2_HIGH) + n * LN2_LOW;
    let series = (1..=LAST_POWER).rev().fold(1.0, |sum, power| 1.0 + r / f64::from(power) * sum);
    // n is at most 1022, so the exponent stays that of a normal number.
    series * f64::from_bits((1023 - n as u64) << 52)
}

/// PCG-XSH-RR 64/32 (O'Neill 2014, <https://www.pcg-random.org>): 64 bits of state, 32 bits a draw, integer arithmetic
/// only. The stream constant is fixed; the seed chooses the state as in the reference `pcg32_srandom`.
#[derive(Debug, Clone)]
pub(super) struct Pcg32 {
    pub(super) state: u64,
}

impl Pcg32 {
    const MULTIPLIER: u64 = 6_364_136_223_846_793_005;
    /// Increment of stream 54, that of the reference's demonstration: 2·54 + 1.
    const INCREMENT: u64 = 109;

    /// The generator with this seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self { state: 0 };
        random.next();
        random.state = random.state.wrapping_add(seed);
        random.next();
        random
    }

    /// Advances, and gives 32 bits.
    fn next(&mut self) -> u32 {
        let old = self.state;
        self.state = old.wrapping_mul(Self::MULTIPLIER).wrapping_add(Self::INCREMENT);
        let shifted = (((old >> 18) ^ old) >> 27) as u32;
        shifted.rotate_right((old >> 59) as u32)
    }

    /// A number from 0 up to but not 1, in steps of 2^-53.
    pub(super) fn unit(&mut self) -> f64 {
        let high = u64::from(self.next());
        let low = u64::from(self.next());
        (((high << 32) | low) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_gives_the_numbers_of_its_reference() {
        // The demonstration program of the PCG library: pcg32_srandom(42, 54).
        let mut random = Pcg32::new(42);
        let draws: Vec<u32> = (0..6).map(|_| random.next()).collect();
        assert_eq!(draws, [0xa15c02b7, 0x7b47f409, 0xba1d3330, 0x83d2f293, 0xbfa4784b, 0xcbed606e]);
    }

    #[test]
    fn the_exponential_is_exact_to_the_last_bits() {
        assert_eq!(exp_non_positive(0.0), 1.0);
        for step in 0..70_000 {
            let x = -f64::from(step) * 0.01 - f64::from(step % 7) * 1e-5;
            let (ours, theirs) = (exp_non_positive(x), x.exp());
            assert!((ours - theirs).abs() <= theirs * 2f64.powi(-50), "{x}: {ours} {theirs}");
        }
        assert_eq!(exp_non_positive(-709.0), 0.0);
        assert_eq!(exp_non_positive(f64::NEG_INFINITY), 0.0);
    }
}
