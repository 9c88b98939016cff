//! Instructions against numbers worked out by hand: one line a case. `%w_0`, `%w_3`, `%w_4` hold the inputs, `%w_2` the
//! result; the values are the same on every lane.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::run_words;

trait Word {
    fn word(self) -> u32;
}

impl Word for f32 {
    fn word(self) -> u32 {
        self.to_bits()
    }
}

impl Word for u32 {
    fn word(self) -> u32 {
        self
    }
}

impl Word for i32 {
    fn word(self) -> u32 {
        self as u32
    }
}

fn one(body: &str, inputs: &[u32]) -> u32 {
    let mut words: Vec<u32> = inputs.to_vec();
    words.resize(4, 0);
    let body = format!(
        "ld.param.u64 %q_0, [p0];\nld.global.v4.u32 {{%w_0, %w_3, %w_4, %w_5}}, [%q_0];\nmov.b32 %f_0, %w_0;\n\
         mov.b32 %f_3, %w_3;\nmov.b32 %f_4, %w_4;\nmov.u32 %w_2, 0;\nmov.f32 %f_2, 0f00000000;\n{body}\n\
         mov.u32 %w_6, %tid.x;\nsetp.ne.u32 %p_9, %w_6, 0;\n@%p_9 bra $END;\nst.global.u32 [%q_0], %w_2;\n$END:\nret;\n"
    );
    run_words(32, "", &body, &words).unwrap_or_else(|trap| panic!("{trap}"))[0]
}

macro_rules! ptx_test {
    ($name:ident, $body:expr, [$($input:expr),*] => $want:expr) => {
        #[test]
        fn $name() {
            let got = one($body, &[$($input.word()),*]);
            let want = $want.word();
            assert_eq!(got, want, "got {got:#x}, want {want:#x}");
        }
    };
}

/// A float instruction `op d, a, b, c` whose result is moved to where the test looks.
macro_rules! float_test {
    ($name:ident, $inst:literal, [$($input:expr),*] => $want:expr) => {
        ptx_test!($name, concat!($inst, "\nmov.b32 %w_2, %f_2;"), [$($input),*] => $want);
    };
}

const NAN: u32 = 0x7fff_ffff;

float_test!(fma_rn_f32, "fma.rn.f32 %f_2, %f_0, %f_3, %f_4;", [2.0f32, 3.0f32, 5.0f32] => 11.0f32);
float_test!(fma_rounds_once, "fma.rn.f32 %f_2, %f_0, %f_3, %f_4;", [0x3f80_0001u32, 0x3f80_0001u32, 0xbf80_0002u32] => 0x2880_0000u32);
float_test!(add_f32_makes_the_canonical_nan, "add.rn.f32 %f_2, %f_0, %f_3;", [0xffc1_2345u32, 1.0f32] => NAN);
float_test!(inf_minus_inf_is_nan, "sub.rn.f32 %f_2, %f_0, %f_3;", [f32::INFINITY, f32::INFINITY] => NAN);
float_test!(mul_f32_keeps_denormals, "mul.rn.f32 %f_2, %f_0, %f_3;", [0x0080_0000u32, 0.5f32] => 0x0040_0000u32);
float_test!(div_f32_rounds_to_nearest, "div.rn.f32 %f_2, %f_0, %f_3;", [1.0f32, 3.0f32] => 0x3eaa_aaabu32);
float_test!(sqrt_f32_of_a_negative, "sqrt.rn.f32 %f_2, %f_0;", [-1.0f32] => NAN);
float_test!(min_f32_orders_zeros, "min.f32 %f_2, %f_0, %f_3;", [0.0f32, -0.0f32] => -0.0f32);
float_test!(max_f32_takes_the_number, "max.f32 %f_2, %f_0, %f_3;", [NAN, -3.0f32] => -3.0f32);
float_test!(cvt_f32_s32, "cvt.rn.f32.s32 %f_2, %w_0;", [16_777_217i32] => 16_777_216.0f32);
ptx_test!(cvt_s32_f32_saturates, "cvt.rzi.s32.f32 %w_2, %f_0;", [1e20f32] => i32::MAX);
ptx_test!(cvt_s32_f32_of_nan, "cvt.rni.s32.f32 %w_2, %f_0;", [NAN] => 0u32);
ptx_test!(cvt_rni_ties_to_even, "cvt.rni.s32.f32 %w_2, %f_0;", [2.5f32] => 2i32);
ptx_test!(cvt_f16_round_trip, "cvt.rn.f16.f32 %h_0, %f_0;\ncvt.f32.f16 %f_2, %h_0;\nmov.b32 %w_2, %f_2;", [65504.0f32] => 65504.0f32);
ptx_test!(cvt_f16_overflows, "cvt.rn.f16.f32 %h_0, %f_0;\ncvt.u32.u16 %w_2, %h_0;", [65520.0f32] => 0x7c00u32);
ptx_test!(cvt_s8_wraps_and_extends, "cvt.s8.s32 %w_2, %w_0;", [0x0000_0180u32] => -128i32);
ptx_test!(add_u32_wraps, "add.u32 %w_2, %w_0, %w_3;", [u32::MAX, 2u32] => 1u32);
ptx_test!(mul_hi_s32, "mul.hi.s32 %w_2, %w_0, %w_3;", [-1i32, 5i32] => -1i32);
ptx_test!(div_by_zero_is_all_ones, "div.u32 %w_2, %w_0, %w_3;", [7u32, 0u32] => u32::MAX);
ptx_test!(rem_s32_has_the_sign_of_a, "rem.s32 %w_2, %w_0, %w_3;", [-7i32, 4i32] => -3i32);
ptx_test!(dp4a_s32_s32, "dp4a.s32.s32 %w_2, %w_0, %w_3, %w_4;", [0x80ff_0102u32, 0x8001_0203u32, 10u32] => 16_384i32 - 1 + 2 + 6 + 10);
ptx_test!(dp4a_u32_s32, "dp4a.u32.s32 %w_2, %w_0, %w_3, %w_4;", [0xff00_0001u32, 0xff00_0002u32, 0u32] => -253i32);
ptx_test!(lop3_majority, "lop3.b32 %w_2, %w_0, %w_3, %w_4, 232;", [0b1100u32, 0b1010u32, 0b0110u32] => 0b1110u32);
ptx_test!(shl_clamps, "shl.b32 %w_2, %w_0, %w_3;", [1u32, 32u32] => 0u32);
ptx_test!(shr_s32_clamps, "shr.s32 %w_2, %w_0, %w_3;", [-8i32, 100u32] => -1i32);
ptx_test!(shf_l_wrap, "shf.l.wrap.b32 %w_2, %w_0, %w_3, %w_4;", [0x8000_0000u32, 1u32, 33u32] => 3u32);
ptx_test!(prmt_replicates_the_sign, "prmt.b32 %w_2, %w_0, %w_3, 47384;", [0x8877_6655u32, 0x4433_22ffu32] => expected_prmt());
ptx_test!(bfe_s32_extends, "bfe.s32 %w_2, %w_0, 4, 4;", [0x080u32] => -8i32);
ptx_test!(bfi_b32, "bfi.b32 %w_2, %w_0, %w_3, 8, 8;", [0xabu32, 0xffff_ffffu32] => 0xffff_abffu32);
ptx_test!(popc_and_clz, "popc.b32 %w_6, %w_0;\nclz.b32 %w_7, %w_0;\nshl.b32 %w_7, %w_7, 8;\nor.b32 %w_2, %w_6, %w_7;", [0x00f0u32] => 4u32 | 24 << 8);
ptx_test!(setp_unordered, "setp.ltu.f32 %p_0, %f_0, %f_3;\nselp.u32 %w_2, 1, 2, %p_0;", [NAN, 0.0f32] => 1u32);
ptx_test!(setp_ordered_with_nan, "setp.ne.f32 %p_0, %f_0, %f_3;\nselp.u32 %w_2, 1, 2, %p_0;", [NAN, 0.0f32] => 2u32);
ptx_test!(setp_signed, "setp.lt.s32 %p_0, %w_0, %w_3;\nselp.u32 %w_2, 1, 2, %p_0;", [-1i32, 0u32] => 1u32);
ptx_test!(setp_unsigned, "setp.lt.u32 %p_0, %w_0, %w_3;\nselp.u32 %w_2, 1, 2, %p_0;", [-1i32, 0u32] => 2u32);
ptx_test!(predicate_logic, "setp.eq.u32 %p_0, %w_0, 1;\nnot.pred %p_1, %p_0;\nxor.pred %p_2, %p_0, %p_1;\nand.pred %p_3, %p_2, %p_0;\nselp.u32 %w_2, 1, 2, %p_3;", [1u32] => 1u32);
ptx_test!(mov_packs_low_first, "mov.b64 %q_5, {%w_0, %w_3};\nshr.u64 %q_5, %q_5, 16;\ncvt.u32.u64 %w_2, %q_5;", [0x1111_2222u32, 0x3333_4444u32] => 0x4444_1111u32);
ptx_test!(mov_unpacks_halves, "mov.b32 {%h_0, %h_1}, %w_0;\ncvt.u32.u16 %w_2, %h_1;", [0xabcd_1234u32] => 0xabcdu32);
ptx_test!(mov_quarters, "mov.b64 %q_5, {%w_0, %w_3};\nmov.b64 {%h_0, %h_1, %h_2, %h_3}, %q_5;\nmov.b64 %q_6, {%h_3, %h_2, %h_1, %h_0};\ncvt.u32.u64 %w_2, %q_6;", [0x2222_1111u32, 0x4444_3333u32] => 0x3333_4444u32);
ptx_test!(mad_wide_s32, "cvt.u64.u32 %q_5, %w_4;\nmad.wide.s32 %q_6, %w_0, %w_3, %q_5;\nshr.u64 %q_6, %q_6, 32;\ncvt.u32.u64 %w_2, %q_6;", [-2i32, 3u32, 5u32] => u32::MAX);

/// Selector 0xb918: nibbles 8, 1, 9, b: sign of byte 0 (0x55: 00), byte 1 (66), sign of byte 1 (00), sign of byte 3 (ff).
fn expected_prmt() -> u32 {
    0xff00_6600
}

/// Element `i` of a 16 × 32 or 32 × 8 byte matrix of the test.
fn small(row: usize, col: usize, factor: usize) -> i32 {
    ((row * 7 + col * 13) * factor % 23) as i32 - 11
}

#[test]
fn mma_of_bytes_is_a_matrix_product() {
    // A: 16 × 32 row by row, B: 32 × 8 column by column, C and D: 16 × 8 row by row, each after the other, in words.
    let mut words = Vec::new();
    let pack = |f: &dyn Fn(usize) -> i32| (0..4).fold(0u32, |w, i| w | u32::from(f(i) as u8) << (8 * i));
    for row in 0..16 {
        words.extend((0..8).map(|w| pack(&|i| small(row, 4 * w + i, 1))));
    }
    for col in 0..8 {
        words.extend((0..8).map(|w| pack(&|i| small(4 * w + i, col, 3))));
    }
    words.extend((0..128).map(|i| i as u32 * 1000));
    // g = lane / 4 in w_1, t = lane % 4 in w_2; word indices become addresses by `at`.
    let at = |to: &str, index: &str, add: u32| {
        format!("add.u32 %w_3, {index}, {add};\nmad.wide.u32 {to}, %w_3, 4, %q_0;\n")
    };
    let mut body = String::from(
        "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %laneid;\nshr.u32 %w_1, %w_0, 2;\nand.b32 %w_2, %w_0, 3;\n\
         mad.lo.u32 %w_4, %w_1, 8, %w_2;\nshl.b32 %w_5, %w_2, 1;\nmad.lo.u32 %w_5, %w_1, 8, %w_5;\n",
    );
    for (reg, add) in [(6, 0), (7, 64), (8, 4), (9, 68), (10, 128), (11, 132)] {
        body += &at("%q_1", "%w_4", add);
        body += &format!("ld.global.u32 %w_{reg}, [%q_1];\n");
    }
    body += &at("%q_2", "%w_5", 192);
    body += &at("%q_3", "%w_5", 192 + 64);
    body += "ld.global.v2.u32 {%w_12, %w_13}, [%q_2];\nld.global.v2.u32 {%w_14, %w_15}, [%q_3];\n\
             mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%w_16, %w_17, %w_18, %w_19}, \
             {%w_6, %w_7, %w_8, %w_9}, {%w_10, %w_11}, {%w_12, %w_13, %w_14, %w_15};\n\
             st.global.v2.u32 [%q_2], {%w_16, %w_17};\nst.global.v2.u32 [%q_3], {%w_18, %w_19};\nret;\n";
    let out = run_words(32, "", &body, &words).unwrap();
    for row in 0..16 {
        for col in 0..8 {
            let dot: i32 = (0..32).map(|k| small(row, k, 1) * small(k, col, 3)).sum();
            let want = ((row * 8 + col) as i32 * 1000 + dot) as u32;
            assert_eq!(out[192 + row * 8 + col], want, "row {row} column {col}");
        }
    }
}

#[test]
fn mma_of_halves_is_a_matrix_product() {
    // A: 16 × 16 row by row, B: 16 × 8 column by column, C and D: 16 × 8 row by row; small integers are exact in f16.
    let half = |v: i32| u32::from(ptx::sem::f32_to_f16(v as f32));
    let pair = |f: &dyn Fn(usize) -> i32| half(f(0)) | half(f(1)) << 16;
    let mut words = Vec::new();
    for row in 0..16 {
        words.extend((0..8).map(|w| pair(&|i| small(row, 2 * w + i, 1))));
    }
    for col in 0..8 {
        words.extend((0..8).map(|w| pair(&|i| small(2 * w + i, col, 3))));
    }
    words.extend((0..128).map(|i| (i as f32 * 0.5).to_bits()));
    let at = |to: &str, index: &str, add: u32| {
        format!("add.u32 %w_3, {index}, {add};\nmad.wide.u32 {to}, %w_3, 4, %q_0;\n")
    };
    let mut body = String::from(
        "ld.param.u64 %q_0, [p0];\nmov.u32 %w_0, %laneid;\nshr.u32 %w_1, %w_0, 2;\nand.b32 %w_2, %w_0, 3;\n\
         mad.lo.u32 %w_4, %w_1, 8, %w_2;\nshl.b32 %w_5, %w_2, 1;\nmad.lo.u32 %w_5, %w_1, 8, %w_5;\n",
    );
    for (reg, add) in [(6, 0), (7, 64), (8, 4), (9, 68), (10, 128), (11, 132)] {
        body += &at("%q_1", "%w_4", add);
        body += &format!("ld.global.u32 %w_{reg}, [%q_1];\n");
    }
    body += &at("%q_2", "%w_5", 192);
    body += &at("%q_3", "%w_5", 192 + 64);
    body += "ld.global.v2.f32 {%f_0, %f_1}, [%q_2];\nld.global.v2.f32 {%f_2, %f_3}, [%q_3];\n\
             mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f_4, %f_5, %f_6, %f_7}, \
             {%w_6, %w_7, %w_8, %w_9}, {%w_10, %w_11}, {%f_0, %f_1, %f_2, %f_3};\n\
             st.global.v2.f32 [%q_2], {%f_4, %f_5};\nst.global.v2.f32 [%q_3], {%f_6, %f_7};\nret;\n";
    let out = run_words(32, "", &body, &words).unwrap();
    for row in 0..16 {
        for col in 0..8 {
            let dot: i32 = (0..16).map(|k| small(row, k, 1) * small(k, col, 3)).sum();
            let want = (row * 8 + col) as f32 * 0.5 + dot as f32;
            assert_eq!(f32::from_bits(out[192 + row * 8 + col]), want, "row {row} column {col}");
        }
    }
}
