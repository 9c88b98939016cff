//! The generator of synthetic weights: a counter through a 64 × 64 → 128 bit multiplication, so that every block
//! starts from a state of its own without drawing what lies before it.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

/// Odd constants with half of their bits set, from the digits of the golden ratio and of the square root of 3.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: u64 = 0xbb67_ae85_84ca_a73b;

impl Random {
    /// The stream of block number `block` of the tensor of `seed`.
    pub fn new(seed: u64, block: u64) -> Self {
        Self { state: fold(seed ^ STEP, block.wrapping_mul(STEP) ^ MIX) }
    }

    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        fold(self.state, self.state ^ MIX)
    }

    /// Uniform in `0..1`, with 24 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 40) as f64 / f64::from(1u32 << 24)
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        let mut words = out.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = words.into_remainder();
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// Both halves of the product, folded into one.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A hash of `bytes` under `seed`, for seeds made from names.
pub(super) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed ^ MIX, |state, byte| fold(state ^ u64::from(*byte), STEP).wrapping_add(MIX))
}
