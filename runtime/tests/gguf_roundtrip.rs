//! What the writer wrote, the reader gives back: every value type, every tensor type, streamed or whole, and the
//! located refusals of the typed getters.

use monomorph_runtime::gguf::write::{KvValue, WriteError, Writer};
use monomorph_runtime::gguf::{GgmlType, Gguf, GgufError, Value, ValueType, optional};

fn full() -> Writer<'static> {
    let nested = KvValue::Array(
        ValueType::Array,
        vec![KvValue::strings(["a", ""]), KvValue::i32s(&[]), KvValue::strings(["é"])],
    );
    Writer::new()
        .kv("general.architecture", "llama")
        .kv("n.u8", 200_u8)
        .kv("n.i8", -7_i8)
        .kv("n.u16", 60_000_u16)
        .kv("n.i16", -300_i16)
        .kv("n.u32", u32::MAX)
        .kv("n.i32", i32::MIN)
        .kv("n.u64", u64::MAX)
        .kv("n.i64", i64::MIN)
        .kv("n.f32", 1e-6_f32)
        .kv("n.f64", 1e300_f64)
        .kv("n.nan", f32::NAN)
        .kv("yes", true)
        .kv("a.nested", nested)
        .kv("a.str", KvValue::strings(["<s>", "", "\u{2581}the\n"]))
        .kv("a.f32", KvValue::f32s(&[0.5, -1.0, f32::INFINITY]))
        .kv("a.i32", KvValue::i32s(&[1, -2, 3]))
        .kv("a.bool", KvValue::bools(&[true, false, true]))
        .kv("a.u8", KvValue::bytes(&[1, 2, 255]))
        .kv("a.u64", KvValue::Array(ValueType::U64, vec![5_u64.into(), u64::MAX.into()]))
        .tensor("x", &[3], GgmlType::F32, vec![1; 12])
        .tensor("blk.0.w", &[256, 2, 1, 3], GgmlType::Q4_K, vec![2; 144 * 6])
        .tensor("b", &[5], GgmlType::I8, vec![3; 5])
}

#[test]
fn values_come_back() {
    let g = Gguf::from_bytes(full().finish().unwrap()).unwrap();
    assert_eq!((g.version(), g.alignment(), g.n_entries(), g.n_tensors()), (3, 32, 20, 3));
    assert_eq!(g.get_str("general.architecture").unwrap(), "llama");
    assert_eq!(g.get_u32("n.u8").unwrap(), 200);
    assert_eq!(g.get_i32("n.i8").unwrap(), -7);
    assert_eq!(g.get_u32("n.u16").unwrap(), 60_000);
    assert_eq!(g.get_i32("n.i16").unwrap(), -300);
    assert_eq!(g.get_u32("n.u32").unwrap(), u32::MAX);
    assert_eq!(g.get_i32("n.i32").unwrap(), i32::MIN);
    assert_eq!(g.get_u64("n.u64").unwrap(), u64::MAX);
    assert_eq!(g.get("n.i64"), Some(Value::I64(i64::MIN)));
    assert_eq!(g.get_f32("n.f32").unwrap(), 1e-6);
    assert_eq!(g.get("n.f64"), Some(Value::F64(1e300)));
    assert!(g.get_bool("yes").unwrap());
    assert_eq!(g.get_arr_str("a.str").unwrap().iter().collect::<Vec<_>>(), ["<s>", "", "\u{2581}the\n"]);
    assert_eq!(g.get_arr_f32("a.f32").unwrap().iter().collect::<Vec<_>>(), [0.5, -1.0, f32::INFINITY]);
    assert_eq!(g.get_arr_f32("a.f32").unwrap().get(1), Some(-1.0));
    assert_eq!(g.get_arr_f32("a.f32").unwrap().get(3), None);
    assert_eq!(g.get_arr_i32("a.i32").unwrap().iter().collect::<Vec<_>>(), [1, -2, 3]);
    assert_eq!(g.get_arr_i32("a.u8").unwrap().get(2), Some(255));
    assert_eq!(g.get_arr_bool("a.bool").unwrap().iter().collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(g.get_arr_u8("a.u8").unwrap(), [1, 2, 255]);
    let nested: Vec<usize> = g
        .get_arr("a.nested")
        .unwrap()
        .iter()
        .map(|inner| match inner {
            Value::Array(array) => array.iter().count(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(nested, [2, 0, 1]);
    assert_eq!(g.entries().map(|(key, _)| key).nth(1), Some("n.u8"));
}

#[test]
fn tensors_come_back() {
    let bytes = full().finish().unwrap();
    let g = Gguf::from_bytes(bytes.clone()).unwrap();
    for (name, dims, ty, fill) in [
        ("x", &[3][..], GgmlType::F32, 1_u8),
        ("blk.0.w", &[256, 2, 1, 3], GgmlType::Q4_K, 2),
        ("b", &[5], GgmlType::I8, 3),
    ] {
        let tensor = g.expect_tensor(name, dims, &[GgmlType::BF16, ty]).unwrap();
        assert_eq!(tensor.elems(), dims.iter().product::<u64>());
        assert!(tensor.file_offset().is_multiple_of(32) && tensor.file_offset() >= g.data_start());
        let mut data = vec![0; tensor.bytes() as usize];
        g.read_tensor(tensor.idx(), 0, &mut data).unwrap();
        assert!(data.iter().all(|b| *b == fill), "{name}");
        g.read_tensor(tensor.idx(), tensor.bytes(), &mut []).unwrap();
        let past = g.read_tensor(tensor.idx(), 1, &mut data);
        assert!(matches!(past, Err(GgufError::ReadOutside { .. })), "{past:?}");
        let wrap = g.read_tensor(tensor.idx(), u64::MAX, &mut data);
        assert!(matches!(wrap, Err(GgufError::ReadOutside { .. })), "{wrap:?}");
    }
    let none = g.read_tensor(3, 0, &mut []);
    assert!(matches!(none, Err(GgufError::TensorIndex { found: 3, limit: 3 })), "{none:?}");
}

#[test]
fn every_tensor_type_has_the_size_the_writer_gives_it() {
    for &ty in GgmlType::ALL {
        let rows = [ty.block_elems() * 2, 3];
        let data = vec![0; ty.block_bytes() as usize * 6];
        let file = Writer::new().tensor("t", &rows, ty, data).finish().unwrap();
        let g = Gguf::from_bytes(file).unwrap();
        let tensor = g.expect_tensor("t", &rows, &[ty]).unwrap();
        assert_eq!(tensor.bytes(), ty.block_bytes() * 6, "{ty}");
    }
}

#[test]
fn getters_tell_missing_from_wrong() {
    let g = Gguf::from_bytes(full().finish().unwrap()).unwrap();
    let missing = g.get_u32("nowhere").unwrap_err();
    assert_eq!(missing.to_string(), "missing key \"nowhere\": wanted integer");
    assert!(optional(g.get_str("nowhere")).unwrap().is_none());
    assert!(g.find_tensor("nowhere").is_none());
    let wrong = [
        g.get_u32("general.architecture").map(|_| ()),
        g.get_u32("n.f32").map(|_| ()),
        g.get_f32("n.u32").map(|_| ()),
        g.get_str("n.u8").map(|_| ()),
        g.get_bool("n.u8").map(|_| ()),
        g.get_arr_str("a.i32").map(|_| ()),
        g.get_arr_str("n.u8").map(|_| ()),
        g.get_arr_i32("a.f32").map(|_| ()),
        g.get_arr_u8("a.i32").map(|_| ()),
        optional(g.get_str("n.u8")).map(|_| ()),
    ];
    for (idx, result) in wrong.into_iter().enumerate() {
        assert!(matches!(result, Err(GgufError::WrongType { .. })), "{idx}: {result:?}");
    }
    let range = [
        g.get_u32("n.i8").map(|_| ()),
        g.get_u32("n.u64").map(|_| ()),
        g.get_i32("n.u32").map(|_| ()),
        g.get_u64("n.i64").map(|_| ()),
        g.get_u32_in("n.u8", 1..=199).map(|_| ()),
        g.get_f32("n.f64").map(|_| ()),
        g.get_f32("n.nan").map(|_| ()),
        g.get_arr_i32("a.u64").map(|_| ()),
        g.get_arr_i32_in("a.i32", 0..=9).map(|_| ()),
    ];
    for (idx, result) in range.into_iter().enumerate() {
        assert!(matches!(result, Err(GgufError::OutOfRange { .. })), "{idx}: {result:?}");
    }
    assert!(matches!(g.expect_len("a.str", 4), Err(GgufError::WrongLength { found: 3, wanted: 4, .. })));
    g.expect_len("a.str", 3).unwrap();
    let shape = g.expect_tensor("x", &[4], &[GgmlType::F32]).unwrap_err().to_string();
    assert!(shape.ends_with("found shape [3], wanted [4]"), "{shape}");
    let ty = g.expect_tensor("x", &[3], &[GgmlType::F16, GgmlType::BF16]).unwrap_err().to_string();
    assert!(ty.ends_with("found type F32, wanted F16 or BF16"), "{ty}");
    let none = g.expect_tensor("y", &[3, 2], &[GgmlType::F32]).unwrap_err();
    assert!(none.is_missing() && none.to_string().ends_with("wanted [3, 2] F32"), "{none}");
}

/// The offset in an error is where the bytes in question lie: changing them there changes the outcome.
#[test]
fn an_error_names_the_offset_of_the_value() {
    let bytes = full().finish().unwrap();
    let g = Gguf::from_bytes(bytes.clone()).unwrap();
    let Err(GgufError::OutOfRange { offset, .. }) = g.get_arr_i32_in("a.i32", 0..=9) else {
        panic!("in range")
    };
    let mut fixed = bytes;
    fixed[offset as usize..][..4].copy_from_slice(&2_i32.to_le_bytes());
    let g = Gguf::from_bytes(fixed).unwrap();
    assert_eq!(g.get_arr_i32_in("a.i32", 0..=9).unwrap().iter().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn the_writer_is_deterministic_and_streams_the_same_bytes() {
    let whole = full().finish().unwrap();
    assert_eq!(whole, full().finish().unwrap());
    let mut stream = full().begin(Vec::new()).unwrap();
    stream.tensor(&[1; 12]).unwrap();
    for _ in 0..6 {
        stream.piece(&[2; 144]).unwrap();
    }
    let early = full().begin(Vec::new()).unwrap().finish();
    assert!(matches!(early, Err(WriteError::Unfinished { found: 0, wanted: 3 })));
    stream.tensor(&[3; 5]).unwrap();
    assert!(matches!(stream.piece(&[0]), Err(WriteError::Extra { found: 3, wanted: 3 })));
    assert_eq!(stream.finish().unwrap(), whole);
}

#[test]
fn alignment_is_kept() {
    let data = vec![9; 4];
    let writer = Writer::new().alignment(4096).tensor("a", &[1], GgmlType::F32, data.clone());
    let g = Gguf::from_bytes(writer.tensor("b", &[1], GgmlType::F32, data).finish().unwrap()).unwrap();
    assert_eq!(g.alignment(), 4096);
    assert_eq!(g.tensors().map(|t| t.file_offset()).collect::<Vec<_>>(), [4096, 8192]);
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let refused = [
        Writer::new().kv("k", 1_u8).kv("k", 2_u8),
        Writer::new().kv("", 1_u8),
        Writer::new().kv("\n", 1_u8),
        Writer::new().kv("clé", 1_u8),
        Writer::new().alignment(24),
        Writer::new().kv("k", KvValue::Array(ValueType::U8, vec![1_u16.into()])),
        Writer::new().tensor("a", &[], GgmlType::F32, vec![]),
        Writer::new().tensor("a", &[1, 1, 1, 1, 1], GgmlType::F32, vec![0; 4]),
        Writer::new().tensor("a", &[0], GgmlType::F32, vec![]),
        Writer::new().tensor("a", &[1 << 31], GgmlType::I8, vec![]),
        Writer::new().tensor("a", &[31], GgmlType::Q4_0, vec![0; 18]),
        Writer::new().tensor("a", &[1], GgmlType::F32, vec![0; 3]),
        Writer::new().tensor("a", &[1], GgmlType::F32, vec![0; 5]),
        Writer::new().tensor("n".repeat(65), &[1], GgmlType::F32, vec![0; 4]),
        Writer::new().declare("a", &[1], GgmlType::F32),
    ];
    for (idx, writer) in refused.into_iter().enumerate() {
        assert!(writer.finish().is_err(), "{idx}");
    }
}
