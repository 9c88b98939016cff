//! Parts of a model through the runtime's own calls: the same bits as in a session's step.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

#[path = "support/device.rs"]
mod device;

use codegen::layout::{Matrix, quantize_row};
use monomorph::plan::{Slot, WeightDesc};
use monomorph::runtime::queue::Buf;
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{
    ApiError, Error, HostCaches, LayerIo, LoadOptions, Model, RawLayer, RawMemory, RawTensor, Session,
};
use monomorph::{golden, specs};

const SEED: u64 = 1;
const TOKENS: [u32; 3] = [5, 900, 31];

fn model() -> Model {
    let plan = codegen::plan::build(&specs::find("tiny").unwrap(), golden::device(90).unwrap()).unwrap();
    let options = LoadOptions { context: Some(16), ..LoadOptions::default() };
    Model::load(&device::queue(), &plan.table, &SynthSource::new(SEED), &options).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn hidden_of(session: &Session) -> Vec<u32> {
    let mut bytes = vec![0; session.model().table().dims.dim as usize * 4];
    session.read_slot(Slot::Hidden, &mut bytes).unwrap();
    bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn memory(buf: &Buf) -> RawMemory {
    RawMemory { addr: buf.addr().0, bytes: buf.bytes() }
}

fn uploaded(model: &Model, bytes: &[u8]) -> Buf {
    let buf = Buf::new(model.queue(), bytes.len() as u64).unwrap();
    buf.upload(0, bytes).unwrap();
    buf
}

/// The bytes of a weight as a file has them.
fn raw_bytes(model: &Model, desc: &WeightDesc) -> Vec<u8> {
    let mut raw = vec![0; desc.raw_bytes() as usize];
    SynthSource::new(SEED).fill(model.table(), desc, 0, &mut raw);
    raw
}

fn matrix(desc: &WeightDesc) -> Matrix {
    Matrix { qtype: desc.qtype, rows: desc.rows, cols: desc.cols }
}

#[test]
fn layers_over_raw_addresses_and_over_host_slices_have_the_bits_of_a_session() {
    let model = model();
    let mut runner = model.layer_runner().unwrap();
    let n_layers = model.table().dims.n_layers;
    let row = model.table().caches[0].bytes_per_pos as usize;
    let mut session = model.session().unwrap();
    // Exactly as long as the tokens need: a kernel that read further would trap.
    let cache = || Buf::new(model.queue(), (row * TOKENS.len()) as u64).unwrap();
    let raw_caches: Vec<[Buf; 2]> = (0..n_layers).map(|_| [cache(), cache()]).collect();
    let mut host_caches =
        vec![[vec![0u8; row * TOKENS.len()], vec![0u8; row * TOKENS.len()]]; n_layers as usize];
    let mut last = vec![];
    for (position, token) in (0u32..).zip(TOKENS) {
        session.step(token).unwrap();
        let start = runner.embed_host(token).unwrap();
        let hidden =
            uploaded(&model, start.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>().as_slice());
        let mut on_host = start;
        for (layer, ([k, v], host)) in (0..n_layers).zip(raw_caches.iter().zip(&mut host_caches)) {
            let io = LayerIo { hidden: memory(&hidden), k_cache: memory(k), v_cache: memory(v), position };
            let weights = RawLayer::from(model.layer(layer).unwrap());
            runner.transformer_layer_indexed(layer, &weights, &io).unwrap();
            let [k, v] = host;
            runner.layer_host(layer, &mut on_host, position, HostCaches { k, v }).unwrap();
        }
        let mut raw = vec![0f32; on_host.len()];
        let mut bytes = vec![0; raw.len() * 4];
        hidden.download(0, &mut bytes).unwrap();
        for (value, b) in raw.iter_mut().zip(bytes.chunks(4)) {
            *value = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        }
        assert!(bits(&raw) == hidden_of(&session), "raw addresses, position {position}");
        assert!(bits(&on_host) == hidden_of(&session), "host slices, position {position}");
        last = on_host;
    }
    for (layer, ([raw, _], [host, _])) in (0..n_layers).zip(raw_caches.iter().zip(&host_caches)) {
        let (mut wanted, mut found) = (vec![0; row * TOKENS.len()], vec![0; row * TOKENS.len()]);
        session.read_slot(Slot::KCache(layer), &mut wanted).unwrap();
        raw.download(0, &mut found).unwrap();
        assert!(found == wanted && *host == wanted, "keys of layer {layer}");
    }
    // The head, over what the last layer left.
    let mut again = model.session().unwrap();
    TOKENS[..2].iter().for_each(|token| again.step(*token).unwrap());
    again.step_with_head(TOKENS[2]).unwrap();
    let mut logits = vec![0.0; model.table().dims.vocab_size as usize];
    again.logits(&mut logits).unwrap();
    assert!(bits(&runner.head_host(&last).unwrap()) == bits(&logits), "logits");
}

#[test]
fn weights_of_the_caller_are_what_runs_and_a_layer_without_attention_is_its_feed_forward() {
    let model = model();
    let mut runner = model.layer_runner().unwrap();
    let start = runner.embed_host(77).unwrap();
    let loaded = model.layer(2).unwrap();
    // Packed zeros are a matrix of zeros: attention adds nothing.
    let zeros = uploaded(&model, &vec![0; loaded.o.bytes as usize]);
    let o = RawTensor { addr: zeros.addr().0, bytes: loaded.o.bytes, qtype: loaded.o.desc.qtype };
    let row = model.table().caches[0].bytes_per_pos;
    let [k, v] = [0; 2].map(|_| Buf::new(model.queue(), row).unwrap());
    let run = |runner: &mut monomorph::runtime::LayerRunner, weights: &RawLayer| {
        let bytes: Vec<u8> = start.iter().flat_map(|v| v.to_le_bytes()).collect();
        let hidden = uploaded(&model, &bytes);
        let io = LayerIo { hidden: memory(&hidden), k_cache: memory(&k), v_cache: memory(&v), position: 0 };
        runner.transformer_layer_indexed(2, weights, &io).unwrap();
        let mut bytes = vec![0; bytes.len()];
        hidden.download(0, &mut bytes).unwrap();
        bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<u32>>()
    };
    let whole = RawLayer::from(loaded);
    let silent = run(&mut runner, &RawLayer { o, ..whole });
    let mut feed_forward = start.clone();
    runner.ffn_host(2, &mut feed_forward).unwrap();
    assert!(silent == bits(&feed_forward));
    assert!(silent != bits(&start), "the feed-forward does something");
    assert!(run(&mut runner, &whole) != silent, "addresses of one call do not stay for the next");
}

#[test]
fn a_matrix_times_a_vector_is_the_sum_of_products() {
    let model = model();
    let mut runner = model.layer_runner().unwrap();
    let names = [
        "blk.0.attn_q.weight",
        "blk.1.attn_k.weight",
        "blk.3.attn_v.weight",
        "blk.7.attn_output.weight",
        "blk.2.ffn_down.weight",
        "blk.3.ffn_down.weight",
        "token_embd.weight",
    ];
    for name in names {
        let desc = model.weight(name).unwrap().desc.clone();
        assert_eq!(desc.name(), name);
        let x: Vec<f32> = (0..desc.cols).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect();
        let y = runner.gemv_host(name, &x).unwrap();
        assert_eq!(y.len(), desc.rows as usize);
        let (matrix, raw) = (matrix(&desc), raw_bytes(&model, &desc));
        let (weights, magnitudes) = (matrix.dequantize(&raw), matrix.magnitudes(&raw));
        let x = quantize_row(&x).values();
        let rows = weights.chunks(x.len()).zip(magnitudes.chunks(x.len()));
        for (row, (y, (w, terms))) in y.iter().zip(rows).enumerate() {
            let wanted: f64 = w.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum();
            // At most some dozen roundings of f32 lie between a term and the sum.
            let bound = 4e-6 * terms.iter().zip(&x).map(|(w, x)| w * x.abs()).sum::<f64>();
            assert!((f64::from(*y) - wanted).abs() < bound, "{name}, row {row}: {y} for {wanted}");
        }
    }
}

#[test]
fn names_and_layers_lead_to_the_same_packed_bytes() {
    let model = model();
    let layer = model.layer(3).unwrap();
    assert_eq!(model.weight("blk.3.attn_v.weight"), Some(layer.v));
    assert_eq!(model.weight("blk.3.ffn_norm.weight"), Some(layer.ffn_norm));
    assert_eq!((layer.q_bias, layer.q_norm, layer.attn_post_norm), (None, None, None));
    let desc = layer.v.desc;
    let mut packed = vec![0; layer.v.bytes as usize];
    model.queue().download(layer.v.addr, &mut packed).unwrap();
    assert!(packed == matrix(desc).pack(&raw_bytes(&model, desc)));
    assert!(model.weight("blk.8.attn_v.weight").is_none() && model.weight("blk.3.attn_q.bias").is_none());
    assert!(matches!(model.layer(8), Err(Error::Api(ApiError::Layer { layer: 8, limit: 8, .. }))));
}

#[test]
fn host_slices_of_other_lengths_and_products_that_are_not_stored_are_refused() {
    let model = model();
    let mut runner = model.layer_runner().unwrap();
    let api = |result: Result<Vec<f32>, Error>| match result {
        Err(Error::Api(error)) => error,
        other => panic!("{other:?}"),
    };
    let slice = |what, found, wanted| ApiError::Slice { what, found, wanted };
    assert_eq!(api(runner.gemv_host("blk.0.attn_q.weight", &[0.0; 255])), slice("x", 255, 256));
    assert_eq!(api(runner.head_host(&[0.0; 257])), slice("hidden", 257, 256));
    for name in ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"] {
        let error = api(runner.gemv_host(name, &[0.0; 256]));
        assert_eq!(error, ApiError::OnlyFused { name: name.into(), kernel: "gemm_gate_up_swiglu".into() });
    }
    let error = api(runner.gemv_host("blk.0.attn_norm.weight", &[0.0; 256]));
    assert!(matches!(error, ApiError::NotMatrix { rows: 1, cols: 256, .. }), "{error}");
    assert!(matches!(api(runner.gemv_host("blk.0.attn_q.bias", &[])), ApiError::NoWeight { .. }));
    let row = model.table().caches[0].bytes_per_pos as usize;
    let (mut k, mut v) = (vec![0; 2 * row], vec![0; 2 * row - 1]);
    let caches = HostCaches { k: &mut k, v: &mut v };
    let error = runner.layer_host(0, &mut [0.0; 256], 1, caches).map(|()| vec![]);
    assert_eq!(api(error), slice("v", 2 * row as u64 - 1, 2 * row as u64));
    let caches = HostCaches { k: &mut k, v: &mut v };
    let error = runner.layer_host(0, &mut [0.0; 256], 16, caches);
    assert!(matches!(error, Err(Error::ContextFull { wanted: 17, limit: 16 })));
    assert!(matches!(runner.embed_host(4096), Err(Error::Token { token: 4096, vocab_size: 4096 })));
    assert!(runner.ffn_host(0, &mut [0.0; 3]).is_err());
}
