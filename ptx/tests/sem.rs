//! The scalar meaning of pure rows against models written from the ISA bit by bit, and floats against exact integers.

mod exact;

use exact::{Direction, EDGE_FLOATS, Exact, Random};
use monomorph_ptx::form::every_form;
use monomorph_ptx::sem::*;
use monomorph_ptx::{Form, Mod, Op, Ty, Types};

const ROUNDS: u32 = 200_000;

const EDGE_WORDS: &[u32] = &[
    0,
    1,
    2,
    7,
    8,
    15,
    16,
    24,
    31,
    32,
    33,
    63,
    64,
    127,
    128,
    255,
    256,
    0x100,
    0xff00,
    0x7fff_ffff,
    0x8000_0000,
    0x8080_8080,
    0x7f7f_7f7f,
    0xffff_ffff,
    0xaaaa_5555,
];

fn form(op: Op, mods: &[Mod], types: &[Ty]) -> Form {
    let form = Form::new(op, mods, Types::from_list(types).unwrap_or(Types::NONE));
    assert_eq!(form.check(), Ok(()), "{}", form.text());
    form
}

/// Pairs and triples of edge values, then random ones.
fn triples() -> impl Iterator<Item = [u32; 3]> {
    let edges = EDGE_WORDS
        .iter()
        .flat_map(|a| EDGE_WORDS.iter().flat_map(move |b| EDGE_WORDS.iter().map(move |c| [*a, *b, *c])));
    let mut random = Random(7);
    edges.chain((0..ROUNDS).map(move |i| {
        let small = if i % 2 == 0 { u32::MAX } else { 0x3f };
        [random.word(), random.word(), random.word() & small]
    }))
}

fn bit(value: u64, i: u32) -> u64 {
    if i < 64 { value >> i & 1 } else { 0 }
}

#[test]
fn dp4a_and_dp2a_sum_products_of_extended_parts() {
    for [a, b, c] in triples() {
        for (a_ty, b_ty) in [(Ty::U32, Ty::U32), (Ty::U32, Ty::S32), (Ty::S32, Ty::U32), (Ty::S32, Ty::S32)] {
            let part = |word: u32, ty: Ty, width: u32, i: u32| {
                let raw = i64::from(word >> (width * i)) & ((1 << width) - 1);
                if ty.is_signed() && raw >> (width - 1) == 1 { raw - (1 << width) } else { raw }
            };
            let words = [a, b, c].map(u64::from);
            let dot: i64 = (0..4).map(|i| part(a, a_ty, 8, i) * part(b, b_ty, 8, i)).sum();
            let expected = (dot + i64::from(c)) as u32;
            assert_eq!(dp4a(a_ty, b_ty, [a, b, c]), expected);
            assert_eq!(eval(form(Op::Dp4a, &[], &[a_ty, b_ty]), &words), Some(u64::from(expected)));
            for (half, first) in [(Mod::Lo, 0), (Mod::Hi, 2)] {
                let dot: i64 = (0..2).map(|i| part(a, a_ty, 16, i) * part(b, b_ty, 8, first + i)).sum();
                let expected = (dot + i64::from(c)) as u32;
                assert_eq!(eval(form(Op::Dp2a, &[half], &[a_ty, b_ty]), &words), Some(u64::from(expected)));
            }
        }
    }
}

#[test]
fn prmt_picks_bytes_and_signs() {
    for [a, b, c] in triples() {
        let pool: Vec<u8> = a.to_le_bytes().into_iter().chain(b.to_le_bytes()).collect();
        let mut expected = [0u8; 4];
        for (i, byte) in expected.iter_mut().enumerate() {
            let nibble = c >> (4 * i) & 15;
            let picked = pool[(nibble & 7) as usize];
            *byte = match (nibble >= 8, picked >= 0x80) {
                (false, _) => picked,
                (true, true) => 0xff,
                (true, false) => 0,
            };
        }
        assert_eq!(prmt(a, b, c), u32::from_le_bytes(expected), "{a:x} {b:x} {c:x}");
    }
}

#[test]
fn lop3_looks_each_bit_up() {
    let mut random = Random(3);
    for lut in 0..256 {
        for _ in 0..50 {
            let [a, b, c] = [random.word(), random.word(), random.word()];
            let look = |i: u32| lut >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (c >> i & 1)) & 1;
            let expected = (0..32).map(|i| look(i) << i).sum::<u32>();
            assert_eq!(lop3(a, b, c, lut), expected);
        }
    }
    // The ISA's own examples: a & b & c, a | b | c, a & (b ^ c).
    assert_eq!(lop3(0xF0, 0xCC, 0xAA, 0x80), 0x80);
    assert_eq!(lop3(0xF0, 0xCC, 0xAA, 0xFE), 0xFE);
    assert_eq!(lop3(0xF0, 0xCC, 0xAA, 0x60) & 0xff, 0x60);
}

/// The ISA's pseudo-code of `bfe`.
fn bfe_model(ty: Ty, a: u64, b: u32, c: u32) -> u64 {
    let msb = ty.bits() - 1;
    let (pos, len) = (b & 0xff, c & 0xff);
    let sign = if !ty.is_signed() || len == 0 { 0 } else { bit(a, (pos + len - 1).min(msb)) };
    (0..=msb).map(|i| if i < len && pos + i <= msb { bit(a, pos + i) << i } else { sign << i }).sum()
}

#[test]
fn bfe_and_bfi_follow_the_pseudo_code() {
    for [a, b, c] in triples() {
        assert_eq!(u64::from(bfe_u32(a, b, c)), bfe_model(Ty::U32, a.into(), b, c), "{a:x} {b} {c}");
        assert_eq!(u64::from(bfe_s32(a, b, c)), bfe_model(Ty::S32, a.into(), b, c), "{a:x} {b} {c}");
        let wide = u64::from(a) << 32 | u64::from(b ^ c);
        for ty in [Ty::U32, Ty::S32] {
            let a = wide & mask(ty.bits());
            let got = eval(form(Op::Bfe, &[], &[ty]), &[a, b.into(), c.into()]);
            assert_eq!(got, Some(bfe_model(ty, a, b, c)), "{ty} {a:x} {b} {c}");
        }
        let (pos, len) = (b & 0xff, c & 0xff);
        for (ty, width) in [(Ty::B32, 32)] {
            let (a, into) = (wide & mask(width), (!wide).rotate_left(9) & mask(width));
            let mut expected = into;
            for i in (0..len).filter(|i| pos + i < width) {
                expected = expected & !(1 << (pos + i)) | bit(a, i) << (pos + i);
            }
            let got = eval(form(Op::Bfi, &[], &[ty]), &[a, into, b.into(), c.into()]);
            assert_eq!(got, Some(expected));
            if width == 32 {
                assert_eq!(u64::from(bfi_b32([a as u32, into as u32], b, c)), expected);
            }
        }
    }
}

#[test]
fn shifts_fill_and_funnel() {
    for [a, b, c] in triples() {
        let pair: Vec<u32> = (0..64).map(|i| if i < 32 { a >> i & 1 } else { b >> (i - 32) & 1 }).collect();
        for (direction, mode) in
            [(Mod::L, Mod::Wrap), (Mod::L, Mod::Clamp), (Mod::R, Mod::Wrap), (Mod::R, Mod::Clamp)]
        {
            let n = if mode == Mod::Wrap { c % 32 } else { c.min(32) };
            let first = if direction == Mod::L { 32 - n } else { n };
            let expected = (0..32).map(|i| pair[(first + i) as usize] << i).sum::<u32>();
            assert_eq!(shf(direction, mode, [a, b, c]), expected);
        }
        for ty in [Ty::U32, Ty::S32, Ty::U64, Ty::S64, Ty::U16, Ty::S16, Ty::B32] {
            let value = (u64::from(a) << 32 | u64::from(b)) & mask(ty.bits());
            let fill = if ty.is_signed() { bit(value, ty.bits() - 1) } else { 0 };
            let right = |i: u32| {
                if u64::from(i) + u64::from(c) < u64::from(ty.bits()) { bit(value, i + c) } else { fill }
            };
            let expected = (0..ty.bits()).map(|i| right(i) << i).sum::<u64>();
            assert_eq!(
                eval(form(Op::Shr, &[], &[ty]), &[value, c.into()]),
                Some(expected),
                "{ty} {value:x} {c}"
            );
        }
        assert_eq!(u64::from(shl_b32(a, c)), (u64::from(a) << c.min(32)) & mask(32));
        for (op, ty, fast) in [(Op::Shr, Ty::U32, shr_u32(a, c)), (Op::Shr, Ty::S32, shr_s32(a, c))] {
            assert_eq!(eval(form(op, &[], &[ty]), &[a.into(), c.into()]), Some(fast.into()));
        }
        let wide = u64::from(a) << 32 | u64::from(b);
        let shifted = if c >= 64 { 0 } else { wide << c };
        assert_eq!(eval(form(Op::Shl, &[], &[Ty::B64]), &[wide, c.into()]), Some(shifted));
    }
}

#[test]
fn integer_arithmetic_is_that_of_the_host() {
    for [a, b, c] in triples() {
        let args = [a, b, c].map(u64::from);
        let get = |op, mods: &[Mod], ty| eval(form(op, mods, &[ty]), &args);
        let (sa, sb) = (a as i32, b as i32);
        let word = |v: u32| Some(u64::from(v));
        assert_eq!(get(Op::AddInt, &[], Ty::U32), word(a.wrapping_add(b)));
        assert_eq!(get(Op::SubInt, &[], Ty::S32), word(a.wrapping_sub(b)));
        assert_eq!(get(Op::MulInt, &[Mod::Lo], Ty::S32), word(a.wrapping_mul(b)));
        assert_eq!(get(Op::MulInt, &[Mod::Hi], Ty::S32), word(mul_hi_s32(a, b)));
        assert_eq!(get(Op::MulInt, &[Mod::Hi], Ty::U32), word(mul_hi_u32(a, b)));
        assert_eq!(get(Op::MadInt, &[Mod::Lo], Ty::U32), word(a.wrapping_mul(b).wrapping_add(c)));
        assert_eq!(get(Op::MadInt, &[Mod::Hi], Ty::S32), word(mul_hi_s32(a, b).wrapping_add(c)));
        assert_eq!(get(Op::MulWide, &[Mod::Wide], Ty::U32), Some(args[0] * args[1]));
        assert_eq!(get(Op::MulWide, &[Mod::Wide], Ty::S32), Some((i64::from(sa) * i64::from(sb)) as u64));
        let wide = (i64::from(sa) * i64::from(sb)).wrapping_add(i64::from(c));
        assert_eq!(get(Op::MadWide, &[Mod::Wide], Ty::S32), Some(wide as u64));
        assert_eq!(get(Op::DivInt, &[], Ty::U32), word(div_u32(a, b)));
        assert_eq!(get(Op::DivInt, &[], Ty::S32), word(div_s32(sa, sb) as u32));
        assert_eq!(get(Op::RemInt, &[], Ty::U32), word(rem_u32(a, b)));
        assert_eq!(get(Op::RemInt, &[], Ty::S32), word(rem_s32(sa, sb) as u32));
        assert_eq!(get(Op::MinInt, &[], Ty::S32), word(sa.min(sb) as u32));
        assert_eq!(get(Op::MaxInt, &[], Ty::U32), word(a.max(b)));
        assert_eq!(get(Op::AbsInt, &[], Ty::S32), word(sa.wrapping_abs() as u32));
        assert_eq!(get(Op::NegInt, &[], Ty::S32), word(sa.wrapping_neg() as u32));
        assert_eq!(get(Op::Popc, &[], Ty::B32), Some((0..32).map(|i| bit(args[0], i)).sum()));
        assert_eq!(get(Op::Clz, &[], Ty::B32), word(a.leading_zeros()));
        assert_eq!(get(Op::Brev, &[], Ty::B32), Some((0..32).map(|i| bit(args[0], 31 - i) << i).sum()));
        let (x, y) = (args[0] << 32 | args[1], args[2] << 31 | args[0]);
        let wide = |op, mods: &[Mod], ty| eval(form(op, mods, &[ty]), &[x, y]);
        assert_eq!(
            wide(Op::MulInt, &[Mod::Hi], Ty::U64),
            Some(((u128::from(x) * u128::from(y)) >> 64) as u64)
        );
        let signed = i128::from(x as i64) * i128::from(y as i64);
        assert_eq!(wide(Op::MulInt, &[Mod::Hi], Ty::S64), Some((signed >> 64) as u64));
        assert_eq!(wide(Op::MulInt, &[Mod::Lo], Ty::S64), Some(x.wrapping_mul(y)));
    }
    assert_eq!((div_u32(5, 0), rem_u32(5, 0), div_s32(5, 0), rem_s32(-5, 0)), (u32::MAX, u32::MAX, -1, -1));
    assert_eq!((div_s32(i32::MIN, -1), rem_s32(i32::MIN, -1)), (i32::MIN, 0));
    assert_eq!((div_s32(-7, 2), rem_s32(-7, 2)), (-3, -1));
}

#[test]
fn f16_values_are_exact_and_every_tie_goes_to_even() {
    let value = |h: u16| {
        let (exponent, fraction) = (i32::from(h >> 10 & 31), f64::from(h & 0x3ff));
        match exponent {
            0 => fraction * 2f64.powi(-24),
            _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
        }
    };
    for h in 0..0x7c00u16 {
        assert_eq!(f64::from(f16_to_f32(h)), value(h));
        assert_eq!(f16_to_f32(h | 0x8000).to_bits(), f16_to_f32(h).to_bits() | 0x8000_0000);
        // With exponent 31 read as a number, the step past the greatest finite value is 65536: infinity begins
        // halfway to it.
        let middle = ((value(h) + value(h + 1)) / 2.0) as f32;
        let even = h + (h & 1);
        for sign in [0u32, 0x8000_0000] {
            let back = |x: f32| f32_to_f16(f32::from_bits(x.to_bits() | sign)) ^ (sign >> 16) as u16;
            assert_eq!(back(f16_to_f32(h)), h);
            assert_eq!(back(middle), even, "{h:x}");
            assert_eq!(back(middle.next_down()), h);
            assert_eq!(back(middle.next_up()), h + 1);
        }
    }
    assert_eq!(f16_to_f32(0x7c00), f32::INFINITY);
    assert_eq!(f32_to_f16(f32::NEG_INFINITY), 0xfc00);
    assert_eq!(f32_to_f16(f32::MAX), 0x7c00);
    for h in 0x7c01..=0x7fffu16 {
        assert_eq!(f16_to_f32(h).to_bits(), NAN_F32);
        assert_eq!(f16_to_f32(h | 0x8000).to_bits(), NAN_F32);
        assert_eq!(f32_to_f16(f32::from_bits(0x7f80_0000 | u32::from(h & 0x3ff))), 0x7fff);
    }
    assert_eq!(pack_f16x2(1.0, -2.0), 0x3c00_c000);
}

#[test]
fn bf16_rounds_to_nearest_even() {
    for h in 0..0x7f80u16 {
        let exact = bf16_to_f32(h);
        let middle = f32::from_bits(u32::from(h) << 16 | 0x8000);
        assert_eq!(f32_to_bf16(exact), h);
        assert_eq!(f32_to_bf16(-exact), h | 0x8000);
        assert_eq!(f32_to_bf16(middle), h + (h & 1));
        assert_eq!(f32_to_bf16(middle.next_down()), h);
        assert_eq!(f32_to_bf16(middle.next_up()), h + 1);
    }
    assert_eq!(f32_to_bf16(f32::INFINITY), 0x7f80);
    assert_eq!(f32_to_bf16(f32::from_bits(0xff80_0001)), 0x7fff);
    assert_eq!(bf16_to_f32(0x7f81).to_bits(), 0x7f81_0000);
}

#[test]
fn comparisons_follow_order_and_unorder() {
    let edges = || EDGE_FLOATS.iter().map(|bits| f32::from_bits(*bits));
    for (a, b) in edges().flat_map(|a| edges().map(move |b| (a, b))) {
        let args = [u64::from(a.to_bits()), u64::from(b.to_bits())];
        let un = a.is_nan() || b.is_nan();
        for (m, expected) in [
            (Mod::Eq, a == b),
            (Mod::Ne, !un && a != b),
            (Mod::Lt, a < b),
            (Mod::Le, a <= b),
            (Mod::Gt, a > b),
            (Mod::Ge, a >= b),
            (Mod::Equ, un || a == b),
            (Mod::Neu, a != b),
            (Mod::Ltu, un || a < b),
            (Mod::Leu, un || a <= b),
            (Mod::Gtu, un || a > b),
            (Mod::Geu, un || a >= b),
            (Mod::Num, !un),
            (Mod::IsNan, un),
        ] {
            assert_eq!(
                eval(form(Op::Setp, &[m], &[Ty::F32]), &args),
                Some(u64::from(expected)),
                "{a} {m} {b}"
            );
        }
    }
    for [a, b, _] in triples().step_by(5) {
        let args = [u64::from(a), u64::from(b)];
        let is = |m, ty| eval(form(Op::Setp, &[m], &[ty]), &args) == Some(1);
        assert_eq!(is(Mod::Lt, Ty::S32), (a as i32) < b as i32);
        assert_eq!(is(Mod::Lt, Ty::U32), a < b);
        assert_eq!(is(Mod::Ge, Ty::S16), a as i16 >= b as i16);
        assert_eq!(is(Mod::Ne, Ty::B32), a != b);
        assert_eq!(is(Mod::Gt, Ty::S64), a > b);
    }
}

#[test]
fn conversions_saturate_wrap_and_round() {
    let f = |x: f32| u64::from(x.to_bits());
    let cvt = |mods: &[Mod], to, from, a: u64| eval(form(Op::Cvt, mods, &[to, from]), &[a]).unwrap_or(0xdead);
    for (m, expected) in
        [(Mod::Rni, [2, -2, 2]), (Mod::Rzi, [2, -2, 1]), (Mod::Rmi, [2, -3, 1]), (Mod::Rpi, [3, -2, 2])]
    {
        for (x, want) in [2.5f32, -2.5, 1.75].into_iter().zip(expected) {
            assert_eq!(cvt(&[m], Ty::S32, Ty::F32, f(x)), u64::from(want as u32), "{m} {x}");
            assert_eq!(cvt(&[m], Ty::F32, Ty::F32, f(x)), f(want as f32));
        }
    }
    assert_eq!((cvt_rni_s32_f32(2.5), cvt_rzi_s32_f32(-2.9), cvt_rni_s32_f32(f32::NAN)), (2, -2, 0));
    assert_eq!((cvt_rn_f32_s32(-16_777_217), cvt_rn_f32_u32(u32::MAX)), (-16_777_216.0, 4_294_967_296.0));
    for (to, low, high) in [(Ty::S8, 0x80, 0x7f), (Ty::U8, 0, 0xff), (Ty::S16, 0x8000, 0x7fff)] {
        assert_eq!(cvt(&[Mod::Rzi], to, Ty::F32, f(-1e9)), low);
        assert_eq!(cvt(&[Mod::Rzi], to, Ty::F32, f(1e9)), high);
        assert_eq!(cvt(&[Mod::Rzi], to, Ty::F32, f(f32::NAN)), 0);
    }
    assert_eq!(cvt(&[Mod::Rni], Ty::S64, Ty::F32, f(f32::NAN)), 1 << 63);
    assert_eq!(cvt(&[Mod::Rni], Ty::U64, Ty::F32, f(f32::INFINITY)), u64::MAX);
    assert_eq!(cvt(&[], Ty::S8, Ty::S32, 0x1ff), 0xff);
    assert_eq!(extend(Ty::S8, 0xff), u64::MAX);
    assert_eq!(cvt(&[], Ty::S64, Ty::S32, 0xffff_fffe), u64::MAX - 1);
    assert_eq!(cvt(&[], Ty::U64, Ty::S8, 0x1_0080), (-128i64) as u64);
    assert_eq!(cvt(&[Mod::Sat], Ty::S8, Ty::S32, 0x1ff), 0x7f);
    assert_eq!(cvt(&[Mod::Sat], Ty::U8, Ty::S32, 0xffff_ffff), 0);
    assert_eq!(cvt(&[Mod::Rni, Mod::Sat], Ty::F32, Ty::F32, f(1.4)), f(1.0));
    assert_eq!(cvt(&[Mod::Sat], Ty::F32, Ty::F32, f(f32::NAN)), 0);
    assert_eq!(cvt(&[Mod::Sat], Ty::F32, Ty::F32, f(-0.0)), 0);
    let mut random = Random(5);
    for _ in 0..ROUNDS {
        let wide = random.next() >> (random.next() % 40);
        for (m, direction) in [
            (Mod::Rn, Direction::NearestEven),
            (Mod::Rz, Direction::Zero),
            (Mod::Rm, Direction::Down),
            (Mod::Rp, Direction::Up),
        ] {
            let exact = Exact::whole(wide).round(direction);
            assert_eq!(cvt(&[m], Ty::F32, Ty::U64, wide), f(exact), "{wide} {m}");
        }
        // Through f64, which is exact for these, to the one rounding of f32_to_f16.
        let short = random.word() >> (random.next() % 20);
        let half = cvt(&[Mod::Rn], Ty::F16, Ty::U32, short.into()) as u16;
        let error = |h: u16| (f64::from(f16_to_f32(h)) - f64::from(short)).abs();
        if short < 65_520 {
            assert!(
                error(half) <= error(half + 1) && (half == 0 || error(half) <= error(half - 1)),
                "{short}"
            );
        } else {
            assert_eq!(half, 0x7c00);
        }
    }
}

#[test]
fn results_fit_their_type() {
    let mut random = Random(9);
    for form in every_form() {
        let args = [random.next(), random.next(), random.next(), random.next()];
        let sources = if form.op == Op::Mov { 1 } else { form.row().operands.len().saturating_sub(1) };
        let Some(result) = eval(form, &args[..sources]) else { continue };
        let ty = match form.op {
            Op::Setp => Ty::Pred,
            Op::MulWide | Op::MadWide => form.ty().and_then(Ty::widened).unwrap_or(Ty::B64),
            Op::Popc | Op::Clz | Op::CvtPack => Ty::B32,
            _ => form.ty().unwrap_or(Ty::B64),
        };
        let width = if ty == Ty::Pred { 1 } else { ty.bits() };
        assert_eq!(result & !mask(width), 0, "{} {args:x?}", form.text());
    }
}
