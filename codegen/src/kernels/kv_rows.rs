//! Rows of the K and V caches: how kernels read and write the types of [`plan::KvType`], and the same in plain Rust.

use super::operation::{Expect, Q8Block};
use super::quantize;
use crate::dsl::prelude::*;
use crate::rng::Rng;
use ::plan::KvType;

/// Elements that are loaded at once.
pub(super) const PIECE: u32 = 8;
/// Elements of a block of q8_0.
const BLOCK: u32 = 32;

/// Rows of `dim` elements, one for each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KvRows {
    pub(super) kv: KvType,
    pub(super) dim: u32,
}

/// Where a row goes, and whether it does: of CTAs that have the same row, one stores it.
#[derive(Clone, Copy)]
pub(super) struct Keeper {
    /// Address of the cache.
    pub(super) cache: V<u64>,
    /// Where the row begins.
    pub(super) place: V<u32>,
    pub(super) stores: V<bool>,
}

impl KvRows {
    pub(super) const fn new(kv: KvType, dim: u32) -> KvRows {
        KvRows { kv, dim }
    }

    pub(super) const fn bytes(self) -> u32 {
        self.kv.row_bytes(self.dim)
    }

    /// Whether elements are stored in blocks, with [`KvRows::store_block`], and not in pairs.
    pub(super) const fn in_blocks(self) -> bool {
        matches!(self.kv, KvType::Q8_0)
    }

    /// Where the row of a position begins: in elements, for q8_0 in bytes.
    #[device]
    pub(super) fn place(self, position: V<u32>) -> V<u32> {
        match self.kv {
            KvType::F16 | KvType::F32 => position * self.dim,
            KvType::Q8_0 => position * self.bytes(),
        }
    }

    /// Loads eight elements of the row at `place`, as they lie in memory: `element` is a multiple of 8.
    #[device]
    pub(super) fn fetch<K: Readable>(self, cache: Ptr<u8, K>, place: V<u32>, element: V<u32>) -> Vec<V<u32>> {
        match self.kv {
            KvType::F16 => {
                let from = cache.cast::<F16>().offset(place).offset(element).cast::<u32>();
                from.at(0).load_x4().to_vec()
            }
            KvType::F32 => {
                let from = cache.cast::<u32>().offset(place).offset(element);
                [from.at(0).load_x4(), from.at(4).load_x4()].concat()
            }
            KvType::Q8_0 => {
                let row = cache.offset(place);
                let [low, high] = row.offset(element).cast::<u32>().at(0).load_x2();
                let scale = row.offset(self.dim).cast::<F16>().at(element / BLOCK).load();
                vec![low, high, scale.bits()]
            }
        }
    }

    /// [`KvRows::fetch`] of halves that nobody else on the multiprocessor reads: the L1 cache keeps what others come back to.
    #[device]
    pub(super) fn fetch_once<K: Readable>(
        self,
        cache: Ptr<u8, K>,
        place: V<u32>,
        element: V<u32>,
    ) -> Vec<V<u32>> {
        if matches!(self.kv, KvType::F16) {
            let from = cache.cast::<F16>().offset(place).offset(element).cast::<u32>();
            from.at(0).cached(Cache::NoAllocate).load_x4().to_vec()
        } else {
            self.fetch(cache, place, element)
        }
    }

    /// The values of what [`KvRows::fetch`] loaded; all conversions are exact.
    #[device]
    pub(super) fn widen(self, words: &[V<u32>]) -> Vec<V<f32>> {
        let mut out = Vec::new();
        match self.kv {
            KvType::F16 => {
                for w in each(words.iter().copied()) {
                    let [low, high] = unpack_f16(w);
                    out.push(low.to_f32());
                    out.push(high.to_f32());
                }
            }
            KvType::F32 => out.extend(words.iter().map(|w| V::<f32>::from_bits(*w))),
            KvType::Q8_0 => {
                let scale = V::<F16>::from_bits(words[2]).to_f32();
                for w in each(words.iter().copied().take(2)) {
                    out.extend(signed_bytes(w).map(|q| q * scale));
                }
            }
        }
        out
    }

    /// Stores two elements of the row at `place`; not for q8_0, whose elements come in blocks.
    #[device]
    pub(super) fn store(self, cache: V<u64>, place: V<u32>, elements: [V<u32>; 2], values: [V<f32>; 2]) {
        match self.kv {
            KvType::F16 => {
                let cache: Out<F16> = at_address(cache);
                let row = cache.offset(place);
                row.at(elements[0]).store(values[0].to_f16());
                row.at(elements[1]).store(values[1].to_f16());
            }
            KvType::F32 => {
                let cache: Out<f32> = at_address(cache);
                let row = cache.offset(place);
                row.at(elements[0]).store(values[0]);
                row.at(elements[1]).store(values[1]);
            }
            KvType::Q8_0 => refuse("pairs of elements are no blocks of q8_0"),
        }
    }

    /// Stores an element of a row, where the CTA is the one to do so, and gives what reading it will give. In q8_0 a warp stores a
    /// block, one element a lane.
    #[device]
    pub(super) fn keep(self, to: Keeper, element: V<u32>, value: V<f32>) -> V<f32> {
        match self.kv {
            KvType::F16 => {
                let cache: Out<F16> = at_address(to.cache);
                let kept = value.to_f16();
                if to.stores {
                    cache.offset(to.place).at(element).store(kept);
                }
                kept.to_f32()
            }
            KvType::F32 => {
                let cache: Out<f32> = at_address(to.cache);
                if to.stores {
                    cache.offset(to.place).at(element).store(value);
                }
                value
            }
            KvType::Q8_0 => {
                let (q, scale) = quantize::block_of_warp(value);
                let scale = scale.to_f16();
                if to.stores {
                    self.write_block(at_address::<u8, _>(to.cache).offset(to.place), element, (q, scale));
                }
                q.to_f32() * scale.to_f32()
            }
        }
    }

    /// Stores a block of q8_0 of the row at `place`, one element a lane; all lanes of a warp take part.
    #[device]
    pub(super) fn store_block(self, cache: V<u64>, place: V<u32>, element: V<u32>, value: V<f32>) {
        let cache: Out<u8> = at_address(cache);
        let (q, scale) = quantize::block_of_warp(value);
        self.write_block(cache.offset(place), element, (q, scale.to_f16()));
    }

    #[device]
    fn write_block(self, row: Out<u8>, element: V<u32>, (q, scale): (V<i32>, V<F16>)) {
        row.at(element).store(q.as_u32());
        if lane_id() == 0 {
            row.offset(self.dim).cast::<F16>().at(element / BLOCK).store(scale);
        }
    }
}

/// The four signed bytes of a word. With its sign bit turned, a byte is the low byte of a float between 2^23 and 2^23 +
/// 255, whose distance to 2^23 + 128 is the number: exact, and cheaper than a conversion.
#[device]
fn signed_bytes(word: V<u32>) -> [V<f32>; 4] {
    let turned = word ^ 0x8080_8080;
    [0, 1, 2, 3].map(|i| V::<f32>::from_bits(prmt(turned, 0x4b00_0000u32, 0x7440u32 | i)) - 8_388_736.0)
}

/// The same rows on the host.
impl KvRows {
    /// Rows of normal values.
    pub(super) fn random(self, rng: &mut Rng, n_rows: u32) -> Vec<u8> {
        (0..n_rows)
            .flat_map(|_| self.encode(&(0..self.dim).map(|_| rng.normal()).collect::<Vec<_>>()))
            .collect()
    }

    pub(super) fn encode(self, row: &[f32]) -> Vec<u8> {
        let half = |x: f32| ptx::sem::f32_to_f16(x).to_le_bytes();
        let mut bytes: Vec<u8> = match self.kv {
            KvType::F16 => row.iter().flat_map(|x| half(*x)).collect(),
            KvType::F32 => row.iter().flat_map(|x| x.to_le_bytes()).collect(),
            KvType::Q8_0 => {
                let blocks = row.chunks(BLOCK as usize);
                let largest = |block: &[f32]| block.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                let scales = blocks.clone().flat_map(|block| half(largest(block) / 127.0));
                let steps = |block: &[f32]| -> Vec<u8> {
                    let step = largest(block) / 127.0;
                    block.iter().map(|x| (x / step).round() as i8 as u8).collect()
                };
                blocks.clone().flat_map(steps).chain(scales).collect()
            }
        };
        bytes.resize(self.bytes() as usize, 0);
        bytes
    }

    /// What a cache must hold after one position's row was stored (values with their bounds), or none.
    pub(super) fn expect(self, row: Option<(u32, Vec<(f64, f64)>)>) -> Expect {
        let Some((position, values)) = row else { return Expect::Unchanged };
        let first = (position * self.bytes()) as usize;
        let places =
            |unit: usize| values.iter().enumerate().map(move |(i, (v, b))| (first / unit + i, *v, *b));
        match self.kv {
            KvType::F16 => Expect::NearF16(places(2).collect()),
            KvType::F32 => Expect::NearF32(places(4).collect()),
            KvType::Q8_0 => {
                let blocks = values.chunks(BLOCK as usize).enumerate();
                let block = |(i, values): (usize, &[(f64, f64)])| Q8Block {
                    quants: first + i * BLOCK as usize,
                    scale: first + self.dim as usize + 2 * i,
                    values: values.to_vec(),
                };
                Expect::Q8(blocks.map(block).collect())
            }
        }
    }

    /// An element of a position's row.
    pub(super) fn decode(self, cache: &[u8], position: u32, element: u32) -> f64 {
        let row = &cache[(position * self.bytes()) as usize..][..self.bytes() as usize];
        let e = element as usize;
        let half = |i: usize| f64::from(ptx::sem::f16_to_f32(u16::from_le_bytes([row[i], row[i + 1]])));
        match self.kv {
            KvType::F16 => half(2 * e),
            KvType::F32 => {
                f64::from(f32::from_le_bytes([row[4 * e], row[4 * e + 1], row[4 * e + 2], row[4 * e + 3]]))
            }
            KvType::Q8_0 => f64::from(row[e] as i8) * half(self.dim as usize + 2 * (e / BLOCK as usize)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back_within_half_a_step() {
        let mut rng = Rng::new(3);
        for kv in KvType::ALL {
            let rows = KvRows::new(kv, 96);
            let x: Vec<f32> = (0..96).map(|_| rng.normal()).collect();
            let bytes = [vec![0xff; rows.bytes() as usize], rows.encode(&x)].concat();
            for (e, x) in x.iter().enumerate() {
                let bound = match kv {
                    KvType::F32 => 0.0,
                    KvType::F16 => 0.002,
                    KvType::Q8_0 => 0.02,
                };
                assert!((rows.decode(&bytes, 1, e as u32) - f64::from(*x)).abs() <= bound, "{kv} {e}");
            }
        }
    }
}
