//! Each construct of the DSL, executed: what the kernel computes is what the same Rust computes.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod dsl_common;
use dsl_common::{Buf, floats, run, run_f32, words};
use monomorph_codegen::dsl::prelude::*;

const N: usize = 64;

#[kernel(grid = 1, block = 64)]
pub fn loops(n: u32, out: Out<u32>) {
    let t = thread_idx_x();
    let mut total = 0u32;
    for i in 0..n {
        total += i * 2 + 1;
    }
    for i in 0..t {
        total += i;
    }
    for i in (t..20u32).step_by(3) {
        total ^= i;
    }
    for i in unroll(0..n, 4) {
        total += i * i;
    }
    for i in unroll(0..t, 4) {
        total += i ^ 5;
    }
    for i in unroll(0..9) {
        // Decided at build time, so the jumps are Rust's.
        if i == 1 {
            continue;
        }
        if i > 3 {
            break;
        }
        total += i;
    }
    let mut k = t;
    while k > 1 {
        k = k / 2;
        total += 1;
    }
    for s in -3..(t.as_i32() - 10) {
        total += s.as_u32();
    }
    out.store(t, total);
}

fn loops_reference(n: u32, t: u32) -> u32 {
    let mut total = 0u32;
    (0..n).for_each(|i| total += i * 2 + 1);
    (0..t).for_each(|i| total += i);
    (t..20).step_by(3).for_each(|i| total ^= i);
    (0..n).for_each(|i| total += i * i);
    (0..t).for_each(|i| total += i ^ 5);
    total += 2 + 3;
    let mut k = t;
    while k > 1 {
        k /= 2;
        total += 1;
    }
    (-3..(t as i32 - 10)).for_each(|s| total = total.wrapping_add(s as u32));
    total
}

#[test]
fn loops_run_as_their_rust_does() {
    for n in [0, 1, 2, 4, 7, 8, 11, 16] {
        let want: Vec<u32> = (0..N as u32).map(|t| loops_reference(n, t)).collect();
        assert_eq!(run(loops(n), &[Buf::Fresh(N)]), want, "n = {n}");
    }
}

#[kernel(grid = 1, block = 64)]
pub fn carried(x: In<u32>, out: Out<u32>) {
    let t = thread_idx_x();
    let (mut a, mut b) = (0u32, 1u32);
    let mut seen = [0u32; 4];
    let mut pair = (0u32, 0.0);
    let mut p = x;
    for i in 0..t {
        // A swap with a sum: moves of the loop's variables must be parallel.
        (a, b) = (b, a + b);
        seen[0] = seen[3];
        seen[3] = seen[1];
        seen[1] = i;
        pair.0 += seen[0];
        pair.1 += 1.0;
        p = p.offset(1);
    }
    let last = p.at(0).load();
    out.store(
        t,
        a ^ (seen[0] << 4) ^ (seen[1] << 8) ^ (seen[3] << 12) ^ pair.0 ^ pair.1.trunc_to_u32() ^ last,
    );
}

#[test]
fn variables_of_a_loop_change_at_the_same_moment() {
    let x: Vec<u32> = (0..N as u32).map(|i| i * 977).collect();
    let want: Vec<u32> = (0..N as u32)
        .map(|t| {
            let (mut a, mut b, mut seen, mut sum) = (0u32, 1u32, [0u32; 4], 0u32);
            for i in 0..t {
                (a, b) = (b, a.wrapping_add(b));
                seen[0] = seen[3];
                seen[3] = seen[1];
                seen[1] = i;
                sum += seen[0];
            }
            a ^ (seen[0] << 4) ^ (seen[1] << 8) ^ (seen[3] << 12) ^ sum ^ t ^ x[t as usize]
        })
        .collect();
    assert_eq!(run(carried(), &[words(x), Buf::Fresh(N)]), want);
}

#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Plain,
    Twice,
}
impl BuildTime for Mode {}

#[device]
fn clamp_add(v: V<u32>, places: &mut [V<u32>; 2]) -> V<u32> {
    if v > 40 {
        places[1] += 1;
        40.into_v()
    } else {
        v
    }
}

#[kernel(grid = (2, 1), block = 32)]
pub fn branches(mode: Mode, limit: u32, out: Out<u32>) {
    let t = cta_id() * 32 + thread_idx_x();
    if t >= limit {
        return;
    }
    let mut n = t;
    if mode == Mode::Twice {
        n *= 2;
    }
    if t % 2 == 0 && t > 4 || t == 3 {
        n += 100;
        if t > 30 {
            n += 1000;
        }
    } else if t == 7 {
        n = 7;
    } else {
        for i in 0..t {
            if i % 3 == 0 {
                n += i;
            }
        }
    }
    let mut places = [n, n];
    let clamped = clamp_add(t, &mut places);
    let parity = if !(t % 2 == 0) { 1u32 } else { 0u32 };
    let pair = if t < 10 { (n, 1u32) } else { (places[1], 2u32) };
    let host = if limit > 10 { 5 } else { 6 };
    out.store(t, n + places[1] * 3 + clamped + parity + pair.0 + pair.1 + host);
}

fn branches_reference(mode: Mode, limit: u32, t: u32) -> u32 {
    let mut n = if mode == Mode::Twice { t * 2 } else { t };
    if t.is_multiple_of(2) && t > 4 || t == 3 {
        n += 100;
        if t > 30 {
            n += 1000;
        }
    } else if t == 7 {
        n = 7;
    } else {
        n += (0..t).filter(|i| i % 3 == 0).sum::<u32>();
    }
    let second = if t > 40 { n + 1 } else { n };
    let pair = if t < 10 { (n, 1) } else { (second, 2) };
    n + second * 3 + t.min(40) + t % 2 + pair.0 + pair.1 + if limit > 10 { 5 } else { 6 }
}

#[test]
fn branches_run_as_their_rust_does() {
    for (mode, limit) in [(Mode::Plain, 64), (Mode::Twice, 64), (Mode::Plain, 50), (Mode::Twice, 9)] {
        let got = run(branches(mode, limit), &[words([9; N])]);
        for t in 0..N as u32 {
            let want = if t < limit { branches_reference(mode, limit, t) } else { 9 };
            assert_eq!(got[t as usize], want, "t = {t}, limit = {limit}");
        }
    }
}

#[kernel(grid = 1, block = 64)]
pub fn arithmetic(x: In<u32>, y: In<f32>, out: Out<u32>) {
    let t = thread_idx_x();
    let (a, f) = (x.at(t).load(), y.at(t).load());
    let s = a.as_i32();
    let g = 1.0 + f * 2.0 - f / 3.0;
    let mut h = a * 3 + (a >> 3) - (a & 0xff) + (a | 1) % 7 + (!a ^ 5) + (a << 2) / 9;
    h += (s >> 2).as_u32() + (-s).as_u32() + (s / 3).as_u32();
    h ^= g.bits();
    h += g.trunc_to_i32().as_u32() + (f * 100.5).round_to_i32().as_u32();
    h ^= select(f < 0.5, a, 17u32) + min(a, 100u32) + f.max(0.25).bits();
    h += popc(a) + clz(a) + bfe(a, 4u32, 8u32) + prmt(a, h, 0x5410u32) + mul_hi(a, 12345u32);
    h ^= dp4a_ss(a, h, dev(7i32)).as_u32() + dp4a_uu(a, a, h) + lop3(a, h, 99u32, 0x96);
    h += f.to_f16().to_f32().bits() + a.low_i8().as_u32() + shf_l(a, h, 5u32);
    let wide = mul_wide(a, h) + 77;
    let [lo, hi] = unpack(wide);
    h ^= lo ^ hi ^ fma(f, g, 1.0).bits() ^ sqrt(abs(f)).bits() ^ (f != f).to_u32();
    out.store(t, h);
}

fn arithmetic_reference(a: u32, f: f32) -> u32 {
    let s = a as i32;
    let g = 1.0 + f * 2.0 - f / 3.0;
    let mut h = (a.wrapping_mul(3))
        .wrapping_add(a >> 3)
        .wrapping_sub(a & 0xff)
        .wrapping_add((a | 1) % 7)
        .wrapping_add(!a ^ 5)
        .wrapping_add((a << 2) / 9);
    h = h.wrapping_add((s >> 2) as u32).wrapping_add(s.wrapping_neg() as u32).wrapping_add((s / 3) as u32);
    h ^= g.to_bits();
    h = h.wrapping_add(g as i32 as u32).wrapping_add((f * 100.5).round_ties_even() as i32 as u32);
    h ^= (if f < 0.5 { a } else { 17 }).wrapping_add(a.min(100)).wrapping_add(f.max(0.25).to_bits());
    h = h
        .wrapping_add(a.count_ones())
        .wrapping_add(a.leading_zeros())
        .wrapping_add(a >> 4 & 0xff)
        .wrapping_add((a & 0xffff) | (h << 16))
        .wrapping_add(((u64::from(a) * 12345) >> 32) as u32);
    let bytes = |w: u32| w.to_le_bytes();
    let signed: i32 = (0..4).map(|i| i32::from(bytes(a)[i] as i8) * i32::from(bytes(h)[i] as i8)).sum();
    let unsigned: u32 = (0..4).map(|i| u32::from(bytes(a)[i]).pow(2)).sum();
    h ^= ((signed + 7) as u32).wrapping_add(h.wrapping_add(unsigned)).wrapping_add(a ^ h ^ 99);
    // Inputs are multiples of 1/64 below 4: exact in f16.
    h = h
        .wrapping_add(f.to_bits())
        .wrapping_add(a as u8 as i8 as i32 as u32)
        .wrapping_add((u64::from(h) << 32 | u64::from(a)).rotate_left(5).checked_shr(32).unwrap() as u32);
    let wide = u64::from(a) * u64::from(h) + 77;
    h ^ wide as u32 ^ (wide >> 32) as u32 ^ f.mul_add(g, 1.0).to_bits() ^ f.abs().sqrt().to_bits()
}

#[test]
fn operators_and_intrinsics_compute_what_rust_computes() {
    let x: Vec<u32> = (0..N as u32).map(|i| i.wrapping_mul(0x9e37_79b9) ^ 0x1234).collect();
    let y: Vec<f32> = (0..N).map(|i| i as f32 / 16.0 - 1.5).collect();
    let got = run(arithmetic(), &[words(x.clone()), floats(&y), Buf::Fresh(N)]);
    for i in 0..N {
        assert_eq!(got[i], arithmetic_reference(x[i], y[i]), "i = {i}, a = {:#x}, f = {}", x[i], y[i]);
    }
}

#[kernel(grid = 1, block = 64)]
pub fn memory(
    bytes: In<u8>,
    signed: In<i8>,
    halves: In<u16>,
    floats16: In<F16>,
    counter: InOut<u32>,
    out: Out<u32>,
) {
    let t = thread_idx_x();
    let tile = shared::<u32>(80u32);
    let narrow = shared::<i8>(64u32);
    tile.at(t).store(bytes.at(t + 1).load() + signed.at(t).load().as_u32());
    narrow.at(t).store(t.as_i32() - 70);
    if t < 16 {
        tile.at(t + 64).store(halves.offset(t).at(2).load());
    }
    sync_threads();
    let [a, b] = tile.at((63 - t) & 62).load_x2();
    let old = counter.at(0).atomic_add(Scope::Gpu, 1u32);
    counter.at(1).red_max(Scope::Gpu, t);
    let f = floats16.at(t).load().to_f32().trunc_to_u32();
    let spread = narrow.at(t ^ 1).load().as_u32();
    let unused = select(old > 1000, 1u32, 0u32);
    out.store(t, a + b * 2 + tile.at((t & 15) + 64).load() + f + spread + unused);
    sync_threads();
    if t == 0 {
        out.store(64, counter.at(0).load_acquire(Scope::Gpu));
        out.store(65, counter.at(1).load_relaxed(Scope::Gpu));
    }
}

#[test]
fn memory_of_every_kind_holds_what_was_stored() {
    let words_of = |n: usize| (0..n as u32).map(|i| i.wrapping_mul(0x9e37_79b9));
    let byte = |i: usize| words_of(32).flat_map(u32::to_le_bytes).nth(i).unwrap();
    // Bits of f16: 0..64: small integers have exact bits.
    let f16 = |v: u32| if v == 0 { 0 } else { (15 + v.ilog2()) << 10 | (v << 10 >> v.ilog2()) & 0x3ff };
    let floats16 = (0..32).map(|i| f16(2 * i) | f16(2 * i + 1) << 16);
    let got = run(
        memory(),
        &[
            words(words_of(32)),
            words(words_of(32)),
            words(words_of(32)),
            words(floats16),
            words([0, 0]),
            Buf::Fresh(66),
        ],
    );
    let tile: Vec<u32> = (0..80)
        .map(|i| match i {
            64.. => u32::from(u16::from_le_bytes([byte(2 * (i - 62)), byte(2 * (i - 62) + 1)])),
            _ => u32::from(byte(i + 1)).wrapping_add(byte(i) as i8 as u32),
        })
        .collect();
    for t in 0..64 {
        let pair = (63 - t) & 62;
        let want = tile[pair]
            .wrapping_add(tile[pair + 1].wrapping_mul(2))
            .wrapping_add(tile[64 + t % 16])
            .wrapping_add(t as u32)
            .wrapping_add(((t ^ 1) as i32 - 70) as u32);
        assert_eq!(got[t], want, "t = {t}");
    }
    assert_eq!(got[64..], [64, 63]);
}

#[kernel(grid = 1, block = 128)]
pub fn collectives(x: In<f32>, out: Out<f32>) {
    let t = thread_idx_x();
    let v = x.at(t).load();
    let partial = shared::<f32>(4u32);
    let total = block_sum(v, partial, 4);
    let greatest = block_max(v, partial, 4);
    let eight = sum_lanes(v, 8);
    let votes = ballot(v > 0.0);
    let some = any(v > 1e9).to_u32() + all(v > -1e9).to_u32() * 2;
    let neighbour = shuffle_idx(v, (lane_id() + 1) & 31);
    out.store(t * 4, total);
    out.store(t * 4 + 1, greatest + some.to_f32());
    out.store(t * 4 + 2, eight + popc(votes).to_f32());
    out.store(t * 4 + 3, neighbour + redux_max(t).to_f32());
}

#[test]
fn collectives_reduce_over_lanes_warps_and_the_block() {
    // Small integers: sums are exact in any order.
    let x: Vec<f32> = (0..128).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
    let got = run_f32(collectives(), &[floats(&x), Buf::Fresh(512)]);
    for t in 0..128 {
        let warp = &x[t / 32 * 32..][..32];
        let positive = warp.iter().filter(|v| **v > 0.0).count() as f32;
        let eight: f32 = x[t / 8 * 8..][..8].iter().sum();
        assert_eq!(got[t * 4], x.iter().sum::<f32>());
        assert_eq!(got[t * 4 + 1], x.iter().copied().fold(f32::MIN, f32::max) + 2.0);
        assert_eq!(got[t * 4 + 2], eight + positive);
        assert_eq!(got[t * 4 + 3], warp[(t + 1) % 32] + (t / 32 * 32 + 31) as f32);
    }
}

#[kernel(grid = n / 64, block = 64)]
pub fn exponentials(n: u32, x: In<f32>, y: Out<f32>) {
    let i = cta_id() * 64 + thread_idx_x();
    y.store(i, exp(x.at(i).load()));
}

#[test]
fn exp_is_within_two_ulps_and_right_at_the_ends() {
    let mut x: Vec<f32> = (0..20_000).map(|i| -105.0 + i as f32 * (195.0 / 20_000.0)).collect();
    x.extend([
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.0,
        -0.0,
        88.722_83,
        88.722_84,
        -103.972_08,
        -103.28,
        1e-30,
        f32::MAX,
        f32::MIN,
    ]);
    x.resize(x.len().next_multiple_of(64), 1.0);
    let got = run_f32(exponentials(x.len() as u32), &[floats(&x), Buf::Fresh(x.len())]);
    let mut worst = 0.0f64;
    for (x, got) in x.iter().zip(&got) {
        let want = f64::from(*x).exp();
        if x.is_nan() {
            assert!(got.is_nan());
        } else if want > f64::from(f32::MAX) {
            assert_eq!(*got, f32::INFINITY, "exp({x})");
        } else {
            let exponent = want.max(f64::from(f32::MIN_POSITIVE)).log2().floor() as i32;
            let ulp = 2f64.powi(exponent - 23);
            let error = (f64::from(*got) - want).abs() / ulp;
            worst = worst.max(error);
            assert!(error <= 2.0, "exp({x}) = {got}, want {want}: {error} ulp");
        }
    }
    println!("worst error {worst} ulp");
}
