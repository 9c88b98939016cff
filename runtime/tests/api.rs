//! A layer over raw addresses on a device in plain Rust: every field is checked, by name, before anything is enqueued.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::borrow::Cow;
use std::sync::Arc;

use monomorph_runtime::queue::{Buf, Queue};
use monomorph_runtime::synth::SynthSource;
use monomorph_runtime::{
    ApiError, Error, HostCaches, Layer, LayerField, LayerIo, LayerRunner, LoadOptions, Model, RawLayer,
    RawMemory, RawTensor,
};
use plan::{Access, Arg, Launch, Phase, Place, QType, Role, Slot, Table, WeightDesc};
use support::{DIM, HostQueue, buffer, kernel, toy_table};

const BYTES: u64 = DIM as u64 * 4;
const CONTEXT: u32 = 8;

/// Optional fields that the table of these tests has; it does without the others.
const OPTIONAL: [Role; 3] = [Role::FfnGate, Role::AttnQBias, Role::FfnPostNorm];
const ABSENT: [Role; 8] = [
    Role::AttnKBias,
    Role::AttnVBias,
    Role::AttnOutputBias,
    Role::FfnUpBias,
    Role::FfnDownBias,
    Role::AttnQNorm,
    Role::AttnKNorm,
    Role::AttnPostNorm,
];

fn present() -> impl Iterator<Item = Role> {
    Layer::<()>::ROLES.into_iter().filter(|role| !ABSENT.contains(role))
}

/// A table whose first layer appends to the caches and adds each of its weights to the stream; its second has none.
fn table() -> Table {
    let mut table = toy_table();
    table.dims.n_layers = 2;
    let kernels = table.kernels.to_mut();
    let (append, add) = (kernels.len() as u32, kernels.len() as u32 + 1);
    kernels.push(kernel("append", &[("control", Access::Read), ("kv", Access::ReadWrite)]));
    kernels.push(kernel("add", &[("weight", Access::Read), ("hidden", Access::ReadWrite)]));
    let weights = table.weights.to_mut();
    weights.retain(|weight| weight.layer.is_none());
    let (first, n) = (weights.len() as u32, present().count() as u32);
    let (qtype, layer) = (QType::F32, Some(0));
    weights.extend(present().map(|role| WeightDesc {
        role,
        layer,
        qtype,
        rows: 1,
        cols: DIM as u32,
        packed_bytes: BYTES,
        repack: None,
    }));
    let cache = |slot| buffer(slot, 0, 4, Place::Own);
    let slots = [Slot::KCache(0), Slot::VCache(0), Slot::KCache(1), Slot::VCache(1)];
    table.caches = Cow::Owned(slots.map(cache).to_vec());
    let step = &mut table.steps.to_mut()[0];
    for desc in step.buffers.to_mut() {
        match desc.slot {
            Slot::Kv => desc.bytes = 32,
            Slot::Hidden => *desc = buffer(Slot::Hidden, BYTES, 0, Place::Arena { offset: 512 }),
            _ => {}
        }
    }
    step.arena_bytes = 512 + BYTES;
    let launch =
        |kernel, args: &[Arg]| Launch { kernel, layer, phase: Phase::Body, args: Cow::Owned(args.to_vec()) };
    let at = |slot| Arg::Buffer { index: step.buffer(slot).unwrap() as u32, offset: 0 };
    let (control, kv, hidden) = (at(Slot::Control), at(Slot::Kv), at(Slot::Hidden));
    let adds = (first..first + n).map(|weight| launch(add, &[Arg::Weight(weight), hidden]));
    let of_layer: Vec<Launch> = std::iter::once(launch(append, &[control, kv])).chain(adds).collect();
    step.launches.to_mut().splice(1..1, of_layer);
    table
}

struct Bench {
    host: Arc<HostQueue>,
    runner: LayerRunner,
    model: Model,
    good: RawLayer,
    io: LayerIo,
    _bufs: [Buf; 3],
}

fn bench() -> Bench {
    let host = Arc::new(HostQueue::new());
    let queue: Arc<dyn Queue> = host.clone();
    let options = LoadOptions { context: Some(CONTEXT), ..LoadOptions::default() };
    let model = Model::load(&queue, &table(), &SynthSource::new(1), &options).unwrap();
    let bufs = [BYTES, 12, 12].map(|bytes| Buf::new(&queue, bytes).unwrap());
    let [hidden, k_cache, v_cache] =
        [0, 1, 2].map(|i: usize| RawMemory { addr: bufs[i].addr().0, bytes: bufs[i].bytes() });
    let io = LayerIo { hidden, k_cache, v_cache, position: 2 };
    let (runner, good) = (model.layer_runner().unwrap(), RawLayer::from(model.layer(0).unwrap()));
    Bench { host, runner, model, good, io, _bufs: bufs }
}

impl Bench {
    /// What is wrong with a call; the device must not have heard of it.
    fn refused(&mut self, weights: &RawLayer, io: &LayerIo) -> ApiError {
        let before = self.host.calls();
        let result = self.runner.transformer_layer_indexed(0, weights, io);
        assert_eq!(self.host.calls(), before, "{result:?}");
        match result {
            Err(Error::Api(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    fn with(&self, role: Role, change: impl Fn(&mut RawTensor)) -> RawLayer {
        let changed = |found: Role| {
            let mut raw = *self.good.get(found)?;
            if found == role {
                change(&mut raw);
            }
            Some(raw)
        };
        Layer::from_roles(changed).unwrap()
    }
}

#[test]
fn each_weight_is_refused_by_name() {
    let mut bench = bench();
    let io = bench.io;
    for role in present() {
        let (layer, field, wanted) = (0, LayerField::Weight(role), BYTES);
        let null = bench.with(role, |raw| raw.addr = 0);
        assert_eq!(bench.refused(&null, &io), ApiError::Null { layer, field, wanted });
        let addr = bench.good.get(role).unwrap().addr + 8;
        let askew = bench.with(role, |raw| raw.addr += 8);
        assert_eq!(bench.refused(&askew, &io), ApiError::Misaligned { layer, field, addr, wanted: 16 });
        for found in [0, BYTES - 4, BYTES + 4] {
            let other = bench.with(role, |raw| raw.bytes = found);
            assert_eq!(bench.refused(&other, &io), ApiError::Length { layer, field, found, wanted });
        }
        let typed = bench.with(role, |raw| raw.qtype = QType::Q4K);
        let (found, wanted) = (QType::Q4K, QType::F32);
        assert_eq!(bench.refused(&typed, &io), ApiError::Type { layer, field, found, wanted });
        let (addr, bytes) = (u64::MAX - 15, BYTES);
        let wraps = bench.with(role, |raw| raw.addr = addr);
        assert_eq!(bench.refused(&wraps, &io), ApiError::Wraps { layer, field, addr, bytes });
    }
    let short = bench.with(Role::FfnDown, |raw| raw.bytes = 124);
    assert_eq!(bench.refused(&short, &io).to_string(), "layer 0, down: 124 bytes, 128 wanted");
}

#[test]
fn what_the_architecture_needs_and_what_it_does_not_have_is_refused_by_name() {
    let mut bench = bench();
    let (good, io) = (bench.good, bench.io);
    for role in OPTIONAL {
        let without = Layer::from_roles(|r| good.get(r).copied().filter(|_| r != role)).unwrap();
        let error = bench.refused(&without, &io);
        assert!(
            matches!(error, ApiError::Missing { field: LayerField::Weight(r), .. } if r == role),
            "{error}"
        );
    }
    for role in ABSENT {
        let more = |r| good.get(r).copied().or((r == role).then_some(good.q));
        let error = bench.refused(&Layer::from_roles(more).unwrap(), &io);
        assert!(
            matches!(error, ApiError::Unexpected { field: LayerField::Weight(r), .. } if r == role),
            "{error}"
        );
    }
    let error = bench.model.layer(1).unwrap_err();
    assert_eq!(error.to_string(), "layer 1, attn_norm: missing; architecture toy (spec toy) has it");
    let found = bench.runner.transformer_layer_indexed(2, &good, &io);
    assert!(matches!(found, Err(Error::Api(ApiError::Layer { layer: 2, limit: 2, .. }))));
}

#[test]
fn the_stream_and_the_caches_are_refused_by_name() {
    let mut bench = bench();
    let (good, io) = (bench.good, bench.io);
    type Pick = fn(&mut LayerIo) -> &mut RawMemory;
    let fields: [(LayerField, Pick, u64); 3] = [
        (LayerField::Hidden, |io| &mut io.hidden, BYTES),
        (LayerField::KCache, |io| &mut io.k_cache, 12),
        (LayerField::VCache, |io| &mut io.v_cache, 12),
    ];
    let layer = 0;
    for (field, pick, wanted) in fields {
        let mut with = |change: &dyn Fn(&mut RawMemory)| {
            let mut io = io;
            change(pick(&mut io));
            bench.refused(&good, &io)
        };
        assert_eq!(with(&|m| m.addr = 0), ApiError::Null { layer, field, wanted });
        let found = with(&|m| m.addr += 4);
        assert!(matches!(found, ApiError::Misaligned { field: f, wanted: 16, .. } if f == field), "{found}");
        let found = wanted - 4;
        assert_eq!(with(&|m| m.bytes -= 4), ApiError::Length { layer, field, found, wanted });
    }
    let long = LayerIo { hidden: RawMemory { bytes: BYTES + 4, ..io.hidden }, ..io };
    assert!(matches!(bench.refused(&good, &long), ApiError::Length { field: LayerField::Hidden, .. }));
    // A cache for two positions, and the third asked for.
    let found = bench.refused(&good, &LayerIo { position: 3, ..io });
    assert_eq!(found, ApiError::Length { layer, field: LayerField::KCache, found: 12, wanted: 16 });
    for (field, other, io) in [
        (LayerField::Hidden, LayerField::VCache, LayerIo { v_cache: io.hidden, ..io }),
        (LayerField::KCache, LayerField::VCache, LayerIo { v_cache: io.k_cache, ..io }),
        (
            LayerField::Hidden,
            LayerField::Weight(Role::FfnUp),
            LayerIo { hidden: RawMemory { addr: good.up.addr, bytes: BYTES }, ..io },
        ),
    ] {
        let error = bench.refused(&good, &io);
        assert!(
            matches!(error, ApiError::Overlap { field: f, other: o, .. } if (f, o) == (field, other)),
            "{error}"
        );
    }
    let before = bench.host.calls();
    let found = bench.runner.transformer_layer_indexed(0, &good, &LayerIo { position: CONTEXT, ..io });
    assert!(matches!(found, Err(Error::ContextFull { wanted: 9, limit: CONTEXT })));
    assert_eq!(bench.host.calls(), before);
}

fn f32s(model: &Model, addr: u64) -> Vec<f32> {
    let mut bytes = [0; BYTES as usize];
    model.queue().download(monomorph_runtime::queue::DeviceAddr(addr), &mut bytes).unwrap();
    bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn a_layer_runs_over_what_it_was_given() {
    let mut bench = bench();
    let (model, io) = (bench.model.clone(), bench.io);
    let sum = |weights: &RawLayer, start: f32| {
        let mut sum = vec![start; DIM];
        for role in present() {
            let weight = f32s(&model, weights.get(role).unwrap().addr);
            sum.iter_mut().zip(weight).for_each(|(s, w)| *s += w);
        }
        sum
    };
    // Weights in other places: Q's field holds the address of the gate.
    let other = bench.with(Role::AttnQ, |raw| *raw = bench.good.gate.unwrap());
    for weights in [other, bench.good] {
        bench._bufs[0].upload(0, &[0; BYTES as usize]).unwrap();
        let before = bench.host.calls();
        bench.runner.transformer_layer_indexed(0, &weights, &io).unwrap();
        assert_eq!(bench.host.calls() - before, 3, "two uploads and one launch of all kernels");
        assert_eq!(f32s(&model, io.hidden.addr), sum(&weights, 0.0));
    }
    let row = |buf: &Buf| {
        let mut row = [0; 4];
        buf.download(8, &mut row).unwrap();
        u32::from_le_bytes(row)
    };
    assert_eq!((row(&bench._bufs[1]), row(&bench._bufs[2])), (102, 202));
    // The same over host slices: only the row of the position changes.
    let mut hidden = vec![0.5; DIM];
    let (mut k, mut v) = ([7; 16], [9; 12]);
    bench.runner.layer_host(0, &mut hidden, 2, HostCaches { k: &mut k, v: &mut v }).unwrap();
    assert_eq!(hidden, sum(&bench.good, 0.5));
    assert_eq!(k, [7, 7, 7, 7, 7, 7, 7, 7, 102, 0, 0, 0, 7, 7, 7, 7]);
    assert_eq!(v, [9, 9, 9, 9, 9, 9, 9, 9, 202, 0, 0, 0]);
    let (live, before) = (bench.host.allocations().1, bench.host.calls());
    let found = bench.runner.layer_host(0, &mut hidden, 2, HostCaches { k: &mut k[..11], v: &mut v });
    assert!(matches!(found, Err(Error::Api(ApiError::Slice { what: "k", found: 11, wanted: 12 }))));
    let found = bench.runner.ffn_host(0, &mut hidden[1..]);
    assert!(matches!(found, Err(Error::Api(ApiError::Slice { what: "hidden", found: 31, wanted: 32 }))));
    assert_eq!((bench.host.allocations().1, bench.host.calls()), (live, before));
    // From the norm of the feed-forward on.
    let mut feed_forward = vec![0.0; DIM];
    bench.runner.ffn_host(0, &mut feed_forward).unwrap();
    let attention = [Role::AttnNorm, Role::AttnQ, Role::AttnK, Role::AttnV, Role::AttnOutput];
    let mut wanted = vec![0.0; DIM];
    for role in present().filter(|role| !attention.contains(role)) {
        let weight = f32s(&model, bench.good.get(role).unwrap().addr);
        wanted.iter_mut().zip(weight).for_each(|(s, w)| *s += w);
    }
    assert_eq!(feed_forward, wanted);
}
