//! f32 arithmetic against exact integers, and the NaNs and signs of zero that the ISA asks for.

mod exact;

use exact::{Direction, EDGE_FLOATS, Exact, Random};
use monomorph_ptx::sem::*;
use monomorph_ptx::{Form, Mod, Op, Ty, Types};

const ROUNDS: u32 = 1_000_000;

fn assert_float(got: f32, expected: f32, what: &str) {
    assert!(
        got.to_bits() == expected.to_bits() || got == 0.0 && expected == 0.0,
        "{what}: {got:e} {expected:e}"
    );
}

#[test]
fn arithmetic_rounds_the_exact_result_once() {
    let mut random = Random(11);
    for i in 0..ROUNDS {
        let (a, b) = (random.float(), random.float());
        // Every other c nearly cancels the product.
        let c = if i % 2 == 0 { random.float() } else { -(a * b) * (1.0 + (i % 7) as f32 * f32::EPSILON) };
        let c = if c.is_finite() { c } else { 1.0 };
        let what = format!("{:08x} {:08x} {:08x}", a.to_bits(), b.to_bits(), c.to_bits());
        let (x, y, z) = (Exact::of(a), Exact::of(b), Exact::of(c));
        let fused = x.times(y).plus(z).round(Direction::NearestEven);
        assert_float(fma_f32(a, b, c), fused, &what);
        assert_float(fma_f32_by_f64(a, b, c), fused, &what);
        assert_eq!(fma_f32(a, b, c).to_bits(), fma_f32_by_f64(a, b, c).to_bits(), "{what}");
        assert_float(add_f32(a, b), x.plus(y).round(Direction::NearestEven), &what);
        assert_float(mul_f32(a, b), x.times(y).round(Direction::NearestEven), &what);
        for (m, direction) in
            [(Mod::Rz, Direction::Zero), (Mod::Rm, Direction::Down), (Mod::Rp, Direction::Up)]
        {
            assert_float(add_f32_directed(m, a, b), x.plus(y).round(direction), &what);
            assert_float(mul_f32_directed(m, a, b), x.times(y).round(direction), &what);
        }
    }
}

#[test]
fn fused_multiply_add_agrees_with_itself_on_every_edge() {
    let edges = || EDGE_FLOATS.iter().map(|bits| f32::from_bits(*bits));
    for (a, b, c) in edges().flat_map(|a| edges().flat_map(move |b| edges().map(move |c| (a, b, c)))) {
        let (one, other) = (fma_f32(a, b, c).to_bits(), fma_f32_by_f64(a, b, c).to_bits());
        assert_eq!(one, other, "{a:e} {b:e} {c:e}");
        if a.is_nan() || b.is_nan() || c.is_nan() {
            assert_eq!(one, NAN_F32);
        }
    }
    assert_eq!(fma_f32(f32::INFINITY, 0.0, 1.0).to_bits(), NAN_F32);
    assert_eq!(fma_f32_by_f64(f32::INFINITY, 1.0, f32::NEG_INFINITY).to_bits(), NAN_F32);
}

#[test]
fn every_nan_of_arithmetic_is_canonical() {
    // Through `black_box`, so that the compiled code and not the compiler's constant folding answers.
    let edges: Vec<f32> =
        std::hint::black_box(EDGE_FLOATS.iter().map(|bits| f32::from_bits(*bits)).collect());
    let mut nans = 0;
    for (a, b) in edges.iter().flat_map(|a| edges.iter().map(move |b| (*a, *b))) {
        for (name, result) in [
            ("add", add_f32(a, b)),
            ("sub", sub_f32(a, b)),
            ("mul", mul_f32(a, b)),
            ("div", div_f32(a, b)),
            ("fma", fma_f32(a, b, b)),
            ("rcp", rcp_f32(a)),
            ("sqrt", sqrt_f32(a)),
            ("abs", abs_f32(a)),
            ("neg", neg_f32(a)),
            ("rni", round_integral(Mod::Rni, a)),
            ("half", f16_to_f32(a.to_bits() as u16)),
        ] {
            nans += u32::from(result.is_nan());
            assert!(
                !result.is_nan() || result.to_bits() == NAN_F32,
                "{name} {a:e} {b:e}: {:x}",
                result.to_bits()
            );
        }
        assert_eq!(sqrt_f32(a).is_nan(), a.is_nan() || a < 0.0);
        // A root rounded to f64 and then to f32 is rounded correctly: 53 bits are more than twice 24.
        let root = f64::from(a).sqrt() as f32;
        assert!(a.is_nan() || a < 0.0 || sqrt_f32(a).to_bits() == root.to_bits(), "{a:e}");
    }
    assert!(nans > 100);
}

#[test]
fn zeros_and_nans_have_the_signs_of_the_isa() {
    let nan = f32::from_bits(0xffc0_1234);
    let bits = |x: f32| x.to_bits();
    assert_eq!(bits(add_f32(nan, 1.0)), NAN_F32);
    assert_eq!(bits(sub_f32(f32::INFINITY, f32::INFINITY)), NAN_F32);
    assert_eq!(bits(div_f32(0.0, 0.0)), NAN_F32);
    assert_eq!(bits(sqrt_f32(-1.0)), NAN_F32);
    assert_eq!(bits(sqrt_f32(-0.0)), bits(-0.0));
    assert_eq!(rcp_f32(-0.0), f32::NEG_INFINITY);
    assert_eq!((bits(abs_f32(nan)), bits(neg_f32(nan)), bits(neg_f32(0.0))), (NAN_F32, NAN_F32, bits(-0.0)));
    for (a, b) in [(0.0, -0.0), (-0.0, 0.0)] {
        assert_eq!((bits(min_f32(a, b)), bits(max_f32(a, b))), (bits(-0.0), bits(0.0)));
    }
    assert_eq!(
        (min_f32(nan, 2.0), max_f32(2.0, nan), min_f32(1.0, 2.0), max_f32(1.0, 2.0)),
        (2.0, 2.0, 1.0, 2.0)
    );
    assert_eq!((bits(min_f32(nan, nan)), bits(max_f32(nan, nan))), (NAN_F32, NAN_F32));
    assert_eq!((bits(min_nan_f32(nan, 2.0)), bits(max_nan_f32(2.0, nan))), (NAN_F32, NAN_F32));
    assert_eq!((min_nan_f32(1.0, 2.0), max_nan_f32(1.0, 2.0)), (1.0, 2.0));
    assert_eq!(bits(add_f32_directed(Mod::Rm, 1.0, -1.0)), bits(-0.0));
    assert_eq!(bits(add_f32_directed(Mod::Rz, 1.0, -1.0)), bits(0.0));
    assert_eq!(bits(add_f32_directed(Mod::Rm, 0.0, 0.0)), bits(0.0));
    assert_eq!(bits(add_f32_directed(Mod::Rp, nan, 0.0)), NAN_F32);
    assert_eq!(add_f32_directed(Mod::Rz, f32::INFINITY, 1.0), f32::INFINITY);
    let copy = Form::new(Op::Selp, &[], Types::one(Ty::F32));
    assert_eq!(eval(copy, &[u64::from(bits(nan)), 0, 1]), Some(u64::from(bits(nan))));
}
