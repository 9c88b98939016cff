//! Defects of tensor descriptions, and of tensors against the file and each other.

use monomorph_runtime::gguf::{GgmlType, Gguf, GgufError as E};

use crate::bytes::*;
use crate::cases;

fn two(first: Vec<u8>, second: Vec<u8>) -> Vec<u8> {
    File::new().tensor(first).tensor(second).data(4096).build()
}

#[test]
fn names() {
    let named = |name: &[u8]| with_tensor(tensor(name, &[8], T_F32, 0));
    cases! {
        "empty name": named(b"") => E::BadName { problem: "is empty", .. },
        "name of NUL": named(b"a\0") => E::BadName { problem: "holds a control character", .. },
        "name with a line break": named(b"a\nb") => E::BadName { .. },
        "name with a C1 control": named("a\u{85}".as_bytes()) => E::BadName { .. },
        "name of no UTF-8": named(b"\xff\xfe") => E::NotUtf8 { .. },
        "name of 65 bytes": named(&[b'n'; 65]) => E::Length { found: 65, limit: 64, .. },
        "name of 2^64 - 1 bytes": {
            let mut file = File::new().tensor(long_text(u64::MAX, "abc")).data(64);
            file.n_tensors = Some(1);
            file.build()
        } => E::Length { .. },
        "duplicate name": two(tensor("a", &[8], T_F32, 0), tensor("a", &[8], T_F32, 64))
            => E::DuplicateTensor { first, offset, .. } if first < offset,
    }
    assert!(Gguf::from_bytes(named(&[b'n'; 64])).is_ok());
    assert!(Gguf::from_bytes(named("tête".as_bytes())).is_ok());
}

#[test]
fn dimensions() {
    for n in [0, 5, 6, 255, 1 << 31, u32::MAX] {
        cases! { "count": with_tensor(tensor_of("a", (n, &[1; 8]), T_F32, 0)) => E::DimCount { found, .. } if *found == n, }
    }
    for dim in [0, 1 << 31, 1 << 32, (1 << 32) + 32, 1 << 62, 1 << 63, u64::MAX] {
        for (axis, dims) in [(0, vec![dim]), (1, vec![32, dim]), (0, vec![dim, 32]), (3, vec![32, 1, 1, dim])]
        {
            cases! {
                "dimension": with_tensor(tensor("a", &dims, T_F32, 0))
                    => E::Dim { axis: at, found, .. } if *at == axis && *found == dim,
            }
        }
    }
}

#[test]
fn sizes_do_not_wrap() {
    let max = (1 << 31) - 1;
    for (ty, block) in [(T_F32, 1), (8, 32), (T_Q4_K, 256), (T_I8, 1), (28, 1)] {
        let most = max / block * block;
        for dims in [
            vec![1 << 16; 4],
            vec![most; 4],
            vec![most; 3],
            vec![1 << 30, 1 << 30],
            vec![1 << 30, 1 << 30, 1 << 30, 4],
            vec![most],
        ] {
            cases! { "size": with_tensor(tensor("a", &dims, ty, 0)) => E::TensorSize { limit, .. } if *limit < 5000, }
        }
    }
    // Each fits the file; together with the offset they do not.
    cases! {
        "offset + size": with_tensor(tensor("a", &[1024], T_F32, 32)) => E::Outside { .. },
        "offset wraps": with_tensor(tensor("a", &[32], T_F32, u64::MAX - 31)) => E::Outside { found, .. } if *found > u128::from(u64::MAX),
        "data start + offset wraps": with_tensor(tensor("a", &[8], T_F32, u64::MAX - 127)) => E::Outside { .. },
    }
}

#[test]
fn types_and_blocks() {
    for id in [4, 5, 31, 32, 33, 36, 37, 38] {
        cases! { "removed": with_tensor(tensor("a", &[256], id, 0)) => E::TensorType { problem: "removed", found, .. } if *found == id, }
    }
    for id in [42, 99, 999, 1 << 31, u32::MAX] {
        cases! { "unknown": with_tensor(tensor("a", &[256], id, 0)) => E::TensorType { problem: "unknown", .. }, }
    }
    for ty in GgmlType::ALL.iter().filter(|ty| ty.block_elems() > 1) {
        let block = ty.block_elems();
        for row in [1, block - 1, block + 1, block / 2, block * 3 / 2] {
            cases! { "row": with_tensor(tensor("a", &[row, block], ty.id(), 0)) => E::Row { found, limit, .. } if *found == row && *limit == block, }
        }
    }
}

#[test]
fn places_in_the_file() {
    let f32s = |n, offset| with_tensor(tensor("a", &[n], T_F32, offset));
    cases! {
        "offset not aligned": f32s(8, 1) => E::Unaligned { found: 1, limit: 32, .. },
        "offset aligned to 16": f32s(8, 16) => E::Unaligned { .. },
        "offset 2^64 - 1": f32s(8, u64::MAX) => E::Unaligned { .. },
        "starts at the end": f32s(8, 4096) => E::Outside { .. },
        "ends one element late": f32s(1025, 0) => E::Outside { found, limit, .. } if *found == u128::from(*limit) + 4,
        "offset far outside": f32s(8, 1 << 40) => E::Outside { .. },
        "no data at all": File::new().tensor(tensor("a", &[8], T_F32, 0)).build() => E::Outside { .. },
        "equal places": two(tensor("a", &[8], T_F32, 0), tensor("b", &[8], T_F32, 0)) => E::Overlap { .. },
        "one inside another": two(tensor("a", &[64], T_F32, 0), tensor("b", &[1], T_F32, 128)) => E::Overlap { .. },
        "overlap by one byte": two(tensor("b", &[8], T_F32, 32), tensor("a", &[33], T_I8, 0))
            => E::Overlap { found, limit, .. } if *found + 1 == *limit,
        "third over first": File::new().tensor(tensor("a", &[512], T_F32, 0)).tensor(tensor("b", &[8], T_F32, 2048))
            .tensor(tensor("c", &[1], T_I8, 2016)).data(4096).build() => E::Overlap { .. },
    }
    // What is odd but right: gaps, reverse order, the last byte of the file, no padding behind the last tensor.
    for file in [
        f32s(1024, 0),
        two(tensor("a", &[8], T_F32, 0), tensor("b", &[8], T_F32, 2048)),
        two(tensor("a", &[8], T_F32, 2048), tensor("b", &[8], T_F32, 0)),
        File::new().tensor(tensor("a", &[3], T_I8, 0)).data(3).build(),
    ] {
        Gguf::from_bytes(file).unwrap();
    }
}
