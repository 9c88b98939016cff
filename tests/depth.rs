//! Decoding at the end of a context of 32,768 positions, on kernels of a reduced shape with the attention of the 8B model:
//! heads of 128, four to a key head, f16 caches, and as many stretches of the cache as there may be. The caches hold random
//! keys and values, since a prompt of that length takes hours on the emulator.
//!
//! A step is held against its equations in f64, and a batch against its rows alone. With MONOMORPH_TEST_DEVICE set to a
//! device, its logits and its caches are also those of the emulator, bit for bit.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests may")]

#[path = "support/device.rs"]
mod device;
#[path = "support/reference.rs"]
mod reference;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use codegen::ModelSpec;
use codegen::rng::Rng;
use half::f16;
use monomorph::golden;
use monomorph::plan::{Slot, Table};
use monomorph::runtime::queue::Queue;
use monomorph::runtime::synth::SynthSource;
use monomorph::runtime::{BatchRow, LoadOptions, Model, Session};
use reference::{Reference, Weights, cosine, weights};

const SEED: u64 = 3;
const CONTEXT: u32 = 32_768;
/// Tokens in the cache: the two that follow fill the context, and the stretches do not divide it.
const DEPTH: u32 = CONTEXT - 2;
/// Of another sequence in the same batch.
const SHALLOW: u32 = 1_001;
const TOKENS: [u32; 2] = [77, 201];

const SPEC: &str = r#"
name = "deep"
architecture = "llama"
vocab_size = 256
dim = 256
hidden_dim = 256
n_layers = 2
n_heads = 8
n_kv_heads = 2
head_dim = 128
context = 32768
norm_eps = 1e-5
rope_kind = "norm"
rope_base = 500000.0
qkv_bias = false
tied_head = false
steps = { decode = [1, 4], prefill = [] }

[types]
token_embd = "q4_k"
output = "q6_k"
attn_q = "q4_k"
attn_k = "q4_k"
attn_v = "q6_k"
attn_output = "q4_k"
ffn_gate = "q4_k"
ffn_up = "q4_k"
ffn_down = "q6_k"
"#;

/// Deviation of keys: scores deviate as much, so that thousands of positions count and none decides.
const KEYS: f64 = 1.5;
/// Of values: their mean over those positions is then of order one, as the stream is.
const VALUES: f64 = 64.0;

/// Activations go into matrices with 8 bits: about 0.4 % of noise an element, which sums hardly see.
const LEAST_COSINE: f64 = 0.9995;
/// A reference without a stretch must be further from the result than the right one, by this factor of `1 − cosine`.
const LEAST_FACTOR: f64 = 3.0;

fn table() -> Table {
    let spec = ModelSpec::from_toml(SPEC).unwrap();
    codegen::plan::build(&spec, golden::device(90).unwrap()).unwrap().table
}

/// One cache of random f16, about normal.
fn random_cache(slot: Slot, sequence: u64, bytes: &mut [u8]) {
    let (n, deviation) = match slot {
        Slot::KCache(layer) => (2 * u64::from(layer), KEYS),
        Slot::VCache(layer) => (2 * u64::from(layer) + 1, VALUES),
        other => panic!("{other:?} is no cache"),
    };
    let mut rng = Rng::new(1000 * sequence + n);
    for element in bytes.as_chunks_mut::<2>().0 {
        // Four uniform 16-bit numbers, whose sum deviates by √(4/12) of their range.
        let word = rng.next_u64();
        let sum: f64 = (0..4).map(|i| f64::from((word >> (16 * i)) as u16) / 65_536.0 - 0.5).sum();
        *element = f16::from_f64(sum * deviation * 3f64.sqrt()).to_le_bytes();
    }
}

fn session(model: &Model, sequence: u64, depth: u32) -> Session {
    let mut session = model.session().unwrap();
    session.restore(depth, |slot, bytes| random_cache(slot, sequence, bytes)).unwrap();
    assert_eq!(session.position(), depth);
    session
}

fn model(queue: &Arc<dyn Queue>, table: &Table) -> Model {
    let options = LoadOptions { context: Some(CONTEXT), ..LoadOptions::default() };
    Model::load(queue, table, &SynthSource::new(SEED), &options).unwrap()
}

fn logits(table: &Table, get: impl Fn(&mut [f32])) -> Vec<f32> {
    let mut logits = vec![0.0; table.dims.vocab_size as usize];
    get(&mut logits);
    logits
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// What a session alone does with `tokens`: the logits after each.
fn alone(session: &mut Session, tokens: &[u32]) -> Vec<Vec<f32>> {
    let table = session.model().table().clone();
    let step = |token: &u32| {
        session.step_with_head(*token).unwrap();
        logits(&table, |out| session.logits(out).unwrap())
    };
    tokens.iter().map(step).collect()
}

/// The last rows of every cache, which the steps appended.
fn appended(session: &Session) -> Vec<u8> {
    let mut all = Vec::new();
    for desc in session.model().table().caches.iter() {
        let row = desc.bytes_per_pos as usize;
        let mut bytes = vec![0; row * session.position() as usize];
        session.read_slot(desc.slot, &mut bytes).unwrap();
        all.extend_from_slice(&bytes[row * DEPTH as usize..]);
    }
    all
}

/// The equations of one step, without the values of `hidden` positions.
fn wanted(table: &Table, weights: &Weights, hidden: Range<usize>) -> Vec<f64> {
    let row = (table.dims.kv_dim()) as usize;
    let cache = |slot: Slot| -> Vec<Vec<f64>> {
        let mut bytes = vec![0; 2 * row * DEPTH as usize];
        random_cache(slot, 1, &mut bytes);
        let values = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f64());
        values.collect::<Vec<_>>().chunks(row).map(<[f64]>::to_vec).collect()
    };
    let layers = 0..table.dims.n_layers;
    let keys = layers.clone().map(|layer| cache(Slot::KCache(layer))).collect();
    let mut values: Vec<_> = layers.map(|layer| cache(Slot::VCache(layer))).collect();
    values.iter_mut().for_each(|rows| rows[hidden.clone()].iter_mut().for_each(|row| row.fill(0.0)));
    let mut forward = Reference { dims: &table.dims, weights, keys, values };
    forward.step(TOKENS[0] as usize, DEPTH as usize)
}

#[test]
fn the_last_steps_of_a_long_context_are_their_equations_and_the_same_in_a_batch_and_on_every_device() {
    let (table, start) = (table(), Instant::now());
    let said = |what: &str| eprintln!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    let queue = device::queue();
    let model = model(&queue, &table);
    let mut single = session(&model, 1, DEPTH);
    let found = alone(&mut single, &TOKENS);
    said("two steps");
    assert!(found.iter().flatten().all(|v| v.is_finite()));
    assert!(single.step(1).is_err(), "the context is full");

    let weights = weights(&table, SEED);
    let exact = cosine(&found[0], &wanted(&table, &weights, 0..0));
    eprintln!("cosine {exact:.6}");
    assert!(exact >= LEAST_COSINE, "cosine {exact}");
    // The first of 64 stretches, one in the middle, and the last: each of them counts.
    for hidden in [0..512, 16_384..16_896, DEPTH as usize - 512..DEPTH as usize] {
        let without = cosine(&found[0], &wanted(&table, &weights, hidden.clone()));
        eprintln!("without positions {hidden:?}: cosine {without:.6}");
        assert!(1.0 - without > LEAST_FACTOR * (1.0 - exact), "{hidden:?} is not noticed: cosine {without}");
    }
    said("equations");

    let mut other = session(&model, 2, SHALLOW);
    let beside = alone(&mut other, &TOKENS[..1]);
    let mut deep = session(&model, 1, DEPTH);
    other.rewind(SHALLOW).unwrap();
    let mut batch = model.batch(4).unwrap();
    let mut rows = [
        BatchRow { session: &mut other, tokens: &TOKENS[..1] },
        BatchRow { session: &mut deep, tokens: &TOKENS },
    ];
    batch.step(&mut rows).unwrap();
    for (row, wanted) in beside.iter().chain(&found).enumerate() {
        let together = logits(&table, |out| batch.logits(row, out).unwrap());
        assert!(bits(&together) == bits(wanted), "row {row} of a batch");
    }
    assert!(appended(&deep) == appended(&single), "keys and values of a batch");
    said("batch");

    if queue.sm().is_some() {
        let emulated = self::model(&device::emulator(), &table);
        let mut there = session(&emulated, 1, DEPTH);
        let wanted = alone(&mut there, &TOKENS);
        for (step, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert!(bits(found) == bits(wanted), "step {step} on {} and on the emulator", queue.name());
        }
        assert!(appended(&single) == appended(&there), "keys and values on {}", queue.name());
        said("emulator");
    }
}
