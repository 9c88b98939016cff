//! How tensor cores add up halves, against what an H200 gave.
#![allow(clippy::unwrap_used, reason = "tests may")]

use monomorph_ptx::sem::tensor::{Adder, COLUMNS, DEPTH, Factors, Half, ROWS};

/// 24 sums each of: random bits, one magnitude, many magnitudes, cancellation, subnormal factors, zeros beside large values,
/// infinities and NaN, weights of attention, results near the least f32; of f16, then of bf16.
const MEASURED: &str = include_str!("data/tensor-h200.txt");

struct Case {
    half: Half,
    a: [u16; DEPTH],
    b: [u16; DEPTH],
    c: u32,
    d: u32,
}

fn halves(digits: &str) -> [u16; DEPTH] {
    std::array::from_fn(|i| u16::from_str_radix(&digits[4 * i..4 * i + 4], 16).unwrap())
}

fn cases() -> Vec<Case> {
    let lines = MEASURED.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let half = if words[0] == "f16" { Half::F16 } else { Half::Bf16 };
            let [c, d] = [3, 4].map(|i| u32::from_str_radix(words[i], 16).unwrap());
            Case { half, a: halves(words[1]), b: halves(words[2]), c, d }
        })
        .collect()
}

fn dot(adder: Adder, case: &Case) -> u32 {
    adder.dot(&Factors::new(case.half, case.a), &Factors::new(case.half, case.b), case.c)
}

#[test]
fn every_measured_sum_comes_out_to_the_bit() {
    let cases = cases();
    assert_eq!(cases.len(), 432);
    for (i, case) in cases.iter().enumerate() {
        let found = dot(Adder::HOPPER, case);
        assert_eq!(found, case.d, "case {i}: {found:08x} for {:08x}, C = {:08x}", case.d, case.c);
    }
}

/// The measured sums tell the generations apart, so the test above can fail.
#[test]
fn an_adder_of_another_generation_gives_other_sums() {
    let differ = cases().iter().filter(|case| dot(Adder::AMPERE, case) != case.d).count();
    assert!(differ > 50, "{differ}");
}

#[test]
fn sums_that_an_f32_holds_are_exact() {
    let small = |i: usize| monomorph_ptx::sem::f32_to_f16(i as f32 - 7.0);
    let a = Factors::new(Half::F16, std::array::from_fn(small));
    let b = Factors::new(Half::F16, std::array::from_fn(|i| small(DEPTH - i)));
    let want: f32 = (0..DEPTH).map(|i| (i as f32 - 7.0) * (9.0 - i as f32)).sum::<f32>() + 0.5;
    for adder in [Adder::AMPERE, Adder::HOPPER] {
        assert_eq!(f32::from_bits(adder.dot(&a, &b, 0.5f32.to_bits())), want);
    }
}

/// A tile is its sums: of measured rows and columns in all combinations of neighbours, some rows twice.
#[test]
fn a_tile_is_its_sums() {
    let cases = cases();
    for some in cases.windows(ROWS).filter(|w| w.iter().all(|case| case.half == w[0].half)) {
        let half = some[0].half;
        let a = std::array::from_fn(|row| some[row / 2 * 2].a);
        let b = std::array::from_fn(|col| some[col].b);
        let c = std::array::from_fn(|row| {
            std::array::from_fn(|col| [some[row / 4 * 4].c, some[col].c, 0][(row / 4 + col) % 3])
        });
        for adder in [Adder::AMPERE, Adder::HOPPER] {
            let d = adder.tile(half, &a, &b, &c);
            for row in 0..ROWS {
                for col in 0..COLUMNS {
                    let want =
                        adder.dot(&Factors::new(half, a[row]), &Factors::new(half, b[col]), c[row][col]);
                    assert_eq!(d[row][col], want, "row {row}, column {col}");
                }
            }
        }
    }
}
