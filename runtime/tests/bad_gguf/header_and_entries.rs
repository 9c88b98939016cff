//! Defects of the header and of metadata entries.

use monomorph_runtime::gguf::GgufError as E;

use crate::bytes::*;
use crate::cases;

fn header(change: impl FnOnce(&mut File)) -> Vec<u8> {
    let mut file = File::new();
    change(&mut file);
    file.build()
}

#[test]
fn magic_and_version() {
    cases! {
        "empty file": vec![] => E::Truncated { offset: 0, wanted: 4, left: 0, .. },
        "three bytes": b"GGU".to_vec() => E::Truncated { left: 3, .. },
        "magic alone": b"GGUF".to_vec() => E::Truncated { offset: 4, .. },
        "wrong magic": header(|f| f.magic = *b"GGUX") => E::Magic { .. },
        "magic of zeros": header(|f| f.magic = [0; 4]) => E::Magic { .. },
        "escape codes as magic": header(|f| f.magic = *b"\x1b[2J") => E::Magic { .. },
        "version 0": header(|f| f.version = 0) => E::Version { found: 0 },
        "version 1": header(|f| f.version = 1) => E::VersionOne,
        "version 4": header(|f| f.version = 4) => E::Version { found: 4 },
        "big-endian 2": header(|f| f.version = 2_u32.swap_bytes()) => E::BigEndian { .. },
        "big-endian 3": header(|f| f.version = 3_u32.swap_bytes()) => E::BigEndian { found: 0x0300_0000 },
        "version -1": header(|f| f.version = u32::MAX) => E::Version { .. },
    }
}

#[test]
fn version_2_is_read_as_3_is() {
    let g = monomorph_runtime::gguf::Gguf::from_bytes(header(|f| f.version = 2)).unwrap();
    assert_eq!((g.version(), g.get_str("general.architecture").unwrap()), (2, "llama"));
}

#[test]
fn counts() {
    for n in [u64::MAX, 1 << 63, 1 << 62, 1 << 40, 1 << 32, 1 << 31, 1 << 19, 40] {
        cases! {
            "entry count": header(|f| f.n_entries = Some(n)) => E::Count { what: "metadata", offset: 16, found, .. } if *found == n,
            "tensor count": header(|f| f.n_tensors = Some(n)) => E::Count { what: "tensor", offset: 8, found, .. } if *found == n,
        }
    }
    // A large file holds the bytes for the count, but the caps refuse it.
    let mut huge = File::new().data(40 << 20);
    huge.n_tensors = Some(1 << 17);
    cases! { "tensor cap": huge.build() => E::Count { what: "tensor", limit: 65_536, .. }, }
    (huge.n_tensors, huge.n_entries) = (None, Some(1 << 20));
    cases! { "entry cap": huge.build() => E::Count { what: "metadata", limit: 262_144, .. }, }
    // The least entry has 14 bytes and the least tensor 33: exactly one more than the rest of the file can hold.
    let mut small = File::new();
    (small.entries, small.alignment, small.data_bytes) = (Vec::new(), 1, 3 * 14 + 13);
    small.n_entries = Some(4);
    cases! { "entry count just over": small.build() => E::Count { found: 4, limit: 3, .. }, }
    (small.n_entries, small.n_tensors, small.data_bytes) = (Some(0), Some(3), 2 * 33 + 32);
    cases! { "tensor count just over": small.build() => E::Count { found: 3, limit: 2, .. }, }
    // One more than there is: the padding reads as an empty name.
    let mut one_more = File::new().tensor(tensor("a", &[8], T_F32, 0)).data(64);
    one_more.n_tensors = Some(2);
    cases! { "tensor count + 1": one_more.build() => E::BadName { .. }, }
    let mut one_more = File::new().data(64);
    one_more.n_entries = Some(2);
    cases! { "entry count + 1": one_more.build() => E::BadName { .. }, }
}

#[test]
fn keys() {
    cases! {
        "empty key": with_entry(entry("", U8, [0])) => E::BadName { problem: "is empty", .. },
        "key of NUL": with_entry(entry("a\0b", U8, [0])) => E::BadName { .. },
        "key with a line break": with_entry(entry("a\nb", U8, [0])) => E::BadName { .. },
        "key with DEL": with_entry(entry("a\x7f", U8, [0])) => E::BadName { .. },
        "key of UTF-8": with_entry(entry("clé", U8, [0])) => E::BadName { .. },
        "key of no UTF-8": with_entry(entry(b"a\xff", U8, [0])) => E::NotUtf8 { found: 1, .. },
        "key too long": with_entry(entry("k".repeat(65_536), U8, [0])) => E::Length { limit: 65_535, .. },
        "key past the end": with_entry(long_text(1000, "abc")) => E::Truncated { wanted: 1000, .. },
        "key length 2^64 - 1": with_entry(long_text(u64::MAX, "abc")) => E::Length { found: u64::MAX, .. },
        "duplicate key": File::new().with(entry("k", U8, [0])).with(entry("k", U8, [0])).build()
            => E::DuplicateKey { first, offset, .. } if first < offset,
        "duplicate key of another type": with_entry(entry("general.architecture", U8, [0])) => E::DuplicateKey { .. },
        "duplicate far apart": (0..500).fold(File::new(), |f, i| f.with(entry(format!("k{}", i % 499), U8, [0]))).build()
            => E::DuplicateKey { .. },
        "two alignments": File::new().with(alignment(32)).with(alignment(64)).build() => E::DuplicateKey { .. },
    }
}

#[test]
fn strings_and_scalars() {
    cases! {
        "value type 13": with_entry(entry("k", 13, [0; 16])) => E::ValueType { found: 13, limit: 12, .. },
        "value type 2^32 - 1": with_entry(entry("k", u32::MAX, [0; 16])) => E::ValueType { .. },
        "boolean 2": with_entry(entry("k", BOOL, [2])) => E::Bool { found: 2, .. },
        "boolean 255": with_entry(entry("k", BOOL, [255])) => E::Bool { found: 255, .. },
        "string past the end": with_entry(entry("k", STR, long_text(500, "abc"))) => E::Truncated { wanted: 500, .. },
        "string of 2^63": with_entry(entry("k", STR, long_text(1 << 63, "abc"))) => E::Length { .. },
        "string over the cap": with_entry(entry("k", STR, long_text((16 << 20) + 1, "abc"))) => E::Length { .. },
        "string of no UTF-8": with_entry(entry("k", STR, text(b"ab\xc0\x80"))) => E::NotUtf8 { found: 2, .. },
        "surrogate": with_entry(entry("k", STR, text(b"\xed\xa0\x80"))) => E::NotUtf8 { found: 0, .. },
    }
}

#[test]
fn arrays() {
    for (elem, bytes) in [(U8, 1_u128), (U32, 4), (F32, 4), (BOOL, 1), (STR, 8), (U64, 8), (ARRAY, 12)] {
        for n in [u64::MAX, 1 << 63, (u64::MAX / 8) + 2, (u64::MAX / 12) + 2, 1 << 40, 1 << 30, 100] {
            cases! {
                "array length": with_entry(entry("k", ARRAY, array(elem, n, [0; 8])))
                    => E::ArrayLength { found, wanted, .. } if *found == n && *wanted == u128::from(n) * bytes,
            }
        }
    }
    cases! {
        "element type 13": with_entry(entry("k", ARRAY, array(13, 1, [0; 8]))) => E::ValueType { found: 13, .. },
        "element type 13, empty": with_entry(entry("k", ARRAY, array(13, 0, []))) => E::ValueType { .. },
        "boolean 3 in an array": with_entry(entry("k", ARRAY, array(BOOL, 3, [0, 1, 3]))) => E::Bool { found: 3, .. },
        "no UTF-8 in an array": with_entry(entry("k", ARRAY, array(STR, 2, [text("a"), text([0xff])].concat())))
            => E::NotUtf8 { .. },
        "long string in an array": with_entry(entry("k", ARRAY, array(STR, 1, long_text(u64::MAX, "a"))))
            => E::Length { .. },
        "bad element in a nested array": with_entry(entry("k", ARRAY, array(ARRAY, 1, array(BOOL, 1, [9]))))
            => E::Bool { found: 9, .. },
    }
}

fn nested(depth: usize) -> Vec<u8> {
    let mut value = ARRAY.to_le_bytes().to_vec();
    for _ in 1..depth {
        value.extend(array(ARRAY, 1, []));
    }
    value.extend(array(U8, 1, [0]));
    [&text("k")[..], &value].concat()
}

#[test]
fn nesting() {
    for depth in 1..=4 {
        assert!(monomorph_runtime::gguf::Gguf::from_bytes(with_entry(nested(depth))).is_ok(), "{depth}");
    }
    for depth in [5, 6, 65, 100_000] {
        cases! { "nesting": with_entry(nested(depth)) => E::Nesting { found: 5, limit: 4, .. }, }
    }
}

#[test]
fn alignments() {
    for bytes in [0, 1, 2, 4, 7, 24, 33, 48, 65_535, 1 << 17, 1 << 30, 1 << 31, u32::MAX] {
        cases! { "alignment": with_entry(alignment(bytes)) => E::Alignment { found, .. } if *found == bytes, }
    }
    for (ty, value) in
        [(I32, vec![32, 0, 0, 0]), (U64, vec![32, 0, 0, 0, 0, 0, 0, 0]), (U8, vec![32]), (STR, text("32"))]
    {
        cases! { "alignment type": with_entry(entry("general.alignment", ty, value)) => E::WrongType { .. }, }
    }
    cases! {
        "alignment array": with_entry(entry("general.alignment", ARRAY, array(U32, 1, [32, 0, 0, 0]))) => E::WrongType { .. },
    }
    for bytes in [8, 16, 32, 64, 4096, 65_536] {
        let mut file = File::new().with(alignment(bytes)).tensor(tensor("a", &[2], T_F32, 0)).data(8);
        file.alignment = bytes as usize;
        assert!(monomorph_runtime::gguf::Gguf::from_bytes(file.build()).is_ok(), "{bytes}");
    }
}
