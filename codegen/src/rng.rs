//! A small seeded generator for trials and random weights: splitmix64 (Steele, Lea and Flood, 2014).

/// Equal seeds give equal numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64, u64);

impl Rng {
    /// A generator from a seed.
    pub const fn new(seed: u64) -> Rng {
        Rng(seed, seed)
    }

    /// What it was made from.
    pub const fn seed(&self) -> u64 {
        self.1
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in `0..n`; `n` must not be 0 (0 gives 0).
    pub fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u32
    }

    /// Uniform in [-1, 1).
    pub fn signed(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// About normal, deviation 1: twelve uniform draws summed.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.signed()).sum::<f32>() * 0.5
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}
