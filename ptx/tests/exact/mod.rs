//! Exact f32 arithmetic on integers, written from IEEE 754 and not from the code under test, and a random source.
//! Each test program uses its part of this.
#![allow(dead_code)]

/// Bits of zeros, subnormals, limits, neighbours of one, infinities and NaNs.
pub const EDGE_FLOATS: &[u32] = &[
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x3f7f_ffff,
    0x3f80_0000,
    0x3f80_0001,
    0xbf80_0000,
    0x4b00_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_1234,
    0x7f80_0001,
];

/// m · 2^e.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    m: i128,
    e: i32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    NearestEven,
    Zero,
    Down,
    Up,
}

impl Exact {
    /// A finite f32.
    pub fn of(x: f32) -> Exact {
        let bits = x.to_bits();
        let (exponent, fraction) = ((bits >> 23 & 0xff) as i32, i128::from(bits & 0x7f_ffff));
        let (m, e) = if exponent == 0 { (fraction, -149) } else { (fraction | 1 << 23, exponent - 150) };
        Exact { m: if bits >> 31 == 1 { -m } else { m }, e }
    }

    pub fn whole(value: u64) -> Exact {
        Exact { m: i128::from(value), e: 0 }
    }

    pub fn times(self, other: Exact) -> Exact {
        Exact { m: self.m * other.m, e: self.e + other.e }
    }

    /// The sum of numbers of at most 48 bits; a far smaller one is replaced by its sign far below the last bit.
    pub fn plus(self, other: Exact) -> Exact {
        if self.m == 0 || other.m == 0 {
            return if self.m == 0 { other } else { self };
        }
        let (a, b) = (self.normal(), other.normal());
        let (high, low) = if a.e >= b.e { (a, b) } else { (b, a) };
        let gap = high.e - low.e;
        if gap <= 60 {
            return Exact { m: (high.m << gap) + low.m, e: low.e };
        }
        Exact { m: (high.m << 60) + low.m.signum(), e: high.e - 60 }
    }

    /// Scaled so that the highest bit is bit 60.
    fn normal(self) -> Exact {
        let up = 60 - (127 - self.m.unsigned_abs().leading_zeros() as i32);
        Exact { m: self.m << up, e: self.e - up }
    }

    /// Rounded to f32 once. A zero is +0.
    pub fn round(self, direction: Direction) -> f32 {
        let magnitude = self.m.unsigned_abs();
        let length = 128 - magnitude.leading_zeros() as i32;
        let last = (self.e + length - 24).max(-149);
        let cut = last - self.e;
        let (mut q, rest, half) = match cut {
            ..=0 => (magnitude << -cut, 0, 1),
            1..=127 => (magnitude >> cut, magnitude & ((1 << cut) - 1), 1 << (cut - 1)),
            _ => (0, magnitude, u128::MAX),
        };
        let away = match direction {
            Direction::NearestEven => rest > half || rest == half && q & 1 == 1,
            Direction::Zero => false,
            Direction::Down => rest > 0 && self.m < 0,
            Direction::Up => rest > 0 && self.m > 0,
        };
        q += u128::from(away);
        let value = q as f64 * 2f64.powi(last);
        let toward_zero = match direction {
            Direction::NearestEven => false,
            Direction::Zero => true,
            Direction::Down => self.m > 0,
            Direction::Up => self.m < 0,
        };
        let value = if value > f64::from(f32::MAX) && toward_zero { f32::MAX } else { value as f32 };
        if self.m < 0 { -value } else { value }
    }
}

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn word(&mut self) -> u32 {
        self.next() as u32
    }

    /// A finite f32: any bits, or near 1, or short, so that ties and cancellations happen.
    pub fn float(&mut self) -> f32 {
        let bits = self.word();
        let bits = match self.next() % 4 {
            0 => bits,
            1 => bits & 0x807f_ffff | 0x3f80_0000,
            2 => bits & 0x83ff_f000 | 0x3c00_0000,
            _ => bits & 0x80ff_ff00,
        };
        let x = f32::from_bits(bits);
        if x.is_finite() { x } else { f32::from_bits(bits & 0xbfff_ffff) }
    }
}
