//! A device in plain Rust for tests of the runtime: it runs toy kernels by name, counts what is allocated, and
//! can fail at the k-th call. With it a tiny table whose results are known by hand.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use monomorph_runtime::queue::{Call, DeviceAddr, Kernels, MemoryInfo, Poison, Queue, QueueError, Replay};
use plan::sampling::{Chooser, NOT_FINITE, SAMPLING_WORDS, SamplingParams, window};
use plan::{
    Access, Arg, BufferDesc, Dims, HISTORY, KernelDesc, Launch, ParamDesc, Phase, Place, QType, Role,
    RopeKind, Slot, Step, StepKind, Table, Variant, WAITING_CTAS, WeightDesc,
};

/// Entries of the toy vocabulary, and the width of its stream.
pub const VOCAB: usize = 16;
pub const DIM: usize = 32;
/// A logit is set to NaN at this position.
pub const NAN_POSITION: u32 = 20;

/// CTAs that may wait at once here.
const WAITING: u32 = 7;

/// A fake device. Memory is host vectors by address; kernels are Rust functions.
pub struct HostQueue {
    shared: Arc<Shared>,
}

struct Shared {
    memory: Mutex<Memory>,
    free_bytes: u64,
    calls: AtomicU64,
    /// The call that fails, counted from 0, and how.
    fail_at: Option<(u64, Failure)>,
    poison: Poison,
    /// Counts host allocations of the calling thread, and those that the fake kernels make.
    probe: Mutex<Option<fn() -> u64>>,
    own_allocations: AtomicU64,
    /// Names of kernels that were made ready before anything launched them.
    prepared: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Memory {
    next: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    allocs: u64,
    frees: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    OutOfMemory,
    Fatal,
    Request,
}

impl HostQueue {
    pub fn new() -> Self {
        Self::with(u64::MAX, None)
    }

    pub fn with(free_bytes: u64, fail_at: Option<(u64, Failure)>) -> Self {
        let memory = Mutex::new(Memory { next: 0x1000, ..Memory::default() });
        let (calls, poison) = (AtomicU64::new(0), Poison::default());
        let (probe, own_allocations) = (Mutex::new(None), AtomicU64::new(0));
        let prepared = Mutex::default();
        let shared = Shared { memory, free_bytes, calls, fail_at, poison, probe, own_allocations, prepared };
        Self { shared: Arc::new(shared) }
    }

    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// From now on, counts by `probe` the host allocations that the fake kernels make.
    pub fn count_own(&self, probe: fn() -> u64) {
        *self.shared.probe.lock().unwrap() = Some(probe);
    }

    /// Host allocations that the fake kernels made.
    pub fn own_allocations(&self) -> u64 {
        self.shared.own_allocations.load(Ordering::SeqCst)
    }

    /// Kernels that were made ready, in order.
    pub fn prepared(&self) -> Vec<String> {
        self.shared.prepared.lock().unwrap().clone()
    }

    /// Allocations ever made, and those that are live.
    pub fn allocations(&self) -> (u64, u64) {
        let memory = self.shared.memory.lock().unwrap();
        (memory.allocs, memory.allocs - memory.frees)
    }
}

impl Shared {
    fn enter(&self) -> Result<(), QueueError> {
        self.poison.check()?;
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let Some((at, failure)) = self.fail_at else { return Ok(()) };
        if call != at {
            return Ok(());
        }
        self.poison.watch(Err(match failure {
            Failure::OutOfMemory => QueueError::OutOfMemory { device: "host".into(), wanted: 1, free: 0 },
            Failure::Fatal => QueueError::Trap { kernel: "k".into(), trap: format!("injected at call {at}") },
            Failure::Request => QueueError::Range { addr: 0, wanted: 0 },
        }))
    }
}

impl Memory {
    fn slice(&mut self, addr: u64, bytes: usize) -> Result<&mut [u8], QueueError> {
        let range = || QueueError::Range { addr, wanted: bytes as u64 };
        let (start, block) = self.blocks.range_mut(..=addr).next_back().ok_or_else(range)?;
        let at = (addr - start) as usize;
        block.get_mut(at..at + bytes).ok_or_else(range)
    }

    fn f32s(&mut self, addr: u64, n: usize) -> Result<Vec<f32>, QueueError> {
        let bytes = self.slice(addr, n * 4)?;
        Ok(bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn put(&mut self, addr: u64, values: impl IntoIterator<Item = [u8; 4]>) -> Result<(), QueueError> {
        let mut at = addr;
        for value in values {
            self.slice(at, 4)?.copy_from_slice(&value);
            at += 4;
        }
        Ok(())
    }

    /// As the plan says of the launch that chooses.
    fn feed_back(&mut self, token: u32, at: [u64; 3]) -> Result<(), QueueError> {
        let [control, chosen, history] = at;
        let position = self.u32_at(control + 20)? + 1;
        self.put(chosen, [token.to_le_bytes()])?;
        self.put(control + 16, [token.to_le_bytes(), position.to_le_bytes()])?;
        self.put(history + u64::from(position % HISTORY) * 4, [token.to_le_bytes()])
    }

    fn params(&mut self, at: u64) -> Result<SamplingParams, QueueError> {
        let mut word = |i: u64| self.u32_at(at + 4 * i);
        Ok(SamplingParams {
            temperature: f32::from_bits(word(0)?),
            min_p: f32::from_bits(word(1)?),
            penalty: f32::from_bits(word(2)?),
            top_k: word(3)?,
            top_p: u64::from(word(4)?) | u64::from(word(5)?) << 32,
            seed: u64::from(word(6)?) | u64::from(word(7)?) << 32,
            since: word(8)?,
        })
    }

    fn u32_at(&mut self, addr: u64) -> Result<u32, QueueError> {
        let b = self.slice(addr, 4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
}

impl Queue for HostQueue {
    fn name(&self) -> &str {
        "host"
    }
    fn sm(&self) -> Option<u32> {
        Some(90)
    }
    fn waiting_ctas(&self) -> u32 {
        WAITING
    }
    fn memory(&self) -> Result<Option<MemoryInfo>, QueueError> {
        self.shared.enter()?;
        let free = self.shared.free_bytes;
        Ok(Some(MemoryInfo { free, total: free }))
    }
    fn alloc(&self, bytes: u64) -> Result<DeviceAddr, QueueError> {
        self.shared.enter()?;
        let mut memory = self.shared.memory.lock().unwrap();
        let addr = memory.next;
        memory.next += bytes.next_multiple_of(256) + 256;
        memory.allocs += 1;
        memory.blocks.insert(addr, vec![0xee; bytes as usize]);
        Ok(DeviceAddr(addr))
    }
    fn free(&self, addr: DeviceAddr) {
        let mut memory = self.shared.memory.lock().unwrap();
        assert!(memory.blocks.remove(&addr.0).is_some(), "free of {addr:?}, which is not allocated");
        memory.frees += 1;
    }
    fn upload(&self, to: DeviceAddr, bytes: &[u8]) -> Result<(), QueueError> {
        self.shared.enter()?;
        self.shared.memory.lock().unwrap().slice(to.0, bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }
    fn download(&self, from: DeviceAddr, out: &mut [u8]) -> Result<(), QueueError> {
        self.shared.enter()?;
        out.copy_from_slice(self.shared.memory.lock().unwrap().slice(from.0, out.len())?);
        Ok(())
    }
    fn zero(&self, at: DeviceAddr, bytes: u64) -> Result<(), QueueError> {
        self.shared.enter()?;
        self.shared.memory.lock().unwrap().slice(at.0, bytes as usize)?.fill(0);
        Ok(())
    }
    fn load(&self, kernels: &[KernelDesc]) -> Result<Arc<dyn Kernels>, QueueError> {
        self.shared.enter()?;
        let names = kernels.iter().map(|k| k.name.to_string()).collect();
        Ok(Arc::new(HostKernels { names, shared: Arc::clone(&self.shared) }))
    }
    fn synchronize(&self) -> Result<(), QueueError> {
        self.shared.enter()
    }
}

struct HostKernels {
    names: Vec<String>,
    shared: Arc<Shared>,
}

impl HostKernels {
    fn run(&self, call: &Call) -> Result<(), QueueError> {
        let mut memory = self.shared.memory.lock().unwrap();
        let m = &mut *memory;
        let name = self.names.get(call.kernel as usize).map(String::as_str);
        match (name, &*call.args) {
            // packed = raw, byte for byte reversed: not the identity, so that a missing repack is seen
            (Some("repack"), &[raw, packed]) => {
                let n = VOCAB * DIM * 4;
                let mut bytes = m.slice(raw, n)?.to_vec();
                bytes.reverse();
                m.slice(packed, n)?.copy_from_slice(&bytes);
            }
            // hidden = token's row of the embedding + cache sum; cache[position] = token
            (Some("embed"), &[control, table, kv, hidden]) => {
                assert_eq!(m.u32_at(control)?, 1, "one active row");
                assert_eq!(m.u32_at(control + 4 * u64::from(WAITING_CTAS))?, WAITING, "what the queue tells");
                let position = m.u32_at(control + 20)?;
                // As the kernel: steps after a logit that was none go on with some token.
                let token = m.u32_at(control + 16)?.min(VOCAB as u32 - 1);
                let cache = u64::from(m.u32_at(kv)?) | u64::from(m.u32_at(kv + 4)?) << 32;
                m.put(cache + u64::from(position) * 4, [token.to_le_bytes()])?;
                let mut sum = 0;
                for pos in 0..=position {
                    sum += m.u32_at(cache + u64::from(pos) * 4)?;
                }
                let row = VOCAB - 1 - token as usize;
                let row = m.slice(table + (row * DIM * 4) as u64, DIM * 4)?.to_vec();
                let first = row.last_chunk::<4>().map(|b| f32::from_le_bytes([b[3], b[2], b[1], b[0]]));
                let values = [first.unwrap_or(0.0), sum as f32, position as f32];
                m.put(hidden, values.map(f32::to_le_bytes))?;
            }
            // hidden += weight
            (Some("add"), &[weight, hidden]) => {
                let (weight, before) = (m.f32s(weight, DIM)?, m.f32s(hidden, DIM)?);
                m.put(hidden, before.iter().zip(weight).map(|(h, w)| (h + w).to_le_bytes()))?;
            }
            // K cache[position] = 100 + position, V cache[position] = 200 + position
            (Some("append"), &[control, kv]) => {
                assert_eq!(m.u32_at(control)?, 1, "one active row");
                assert_eq!(m.u32_at(control + 4 * u64::from(WAITING_CTAS))?, WAITING, "what the queue tells");
                let position = m.u32_at(control + 20)?;
                for (at, base) in [(kv, 100), (kv + 8, 200)] {
                    let cache = u64::from(m.u32_at(at)?) | u64::from(m.u32_at(at + 4)?) << 32;
                    m.put(cache + u64::from(position) * 4, [(base + position).to_le_bytes()])?;
                }
            }
            // logits[i] = 1 at the sum of all tokens modulo V, smaller elsewhere; NaN once at one position
            (Some("head"), &[hidden, logits]) => {
                let hidden = m.f32s(hidden, 3)?;
                let best = hidden[1] as usize % VOCAB;
                let mut all: Vec<f32> =
                    (0..VOCAB).map(|i| if i == best { 1.0 } else { -(i as f32) }).collect();
                if hidden[2] as u32 == NAN_POSITION {
                    all[3] = f32::NAN;
                }
                m.put(logits, all.into_iter().map(f32::to_le_bytes))?;
            }
            // chosen = argmax logits, fed back
            (Some("argmax"), &[control, logits, chosen, history]) => {
                let all = m.f32s(logits, VOCAB)?;
                let token = Chooser::default().choose(&SamplingParams::GREEDY, &all, &[], 0);
                m.feed_back(token.unwrap_or(NOT_FINITE), [control, chosen, history])?;
            }
            // chosen = a draw, fed back
            (Some("sample"), &[control, params, history, logits, chosen]) => {
                let all = m.f32s(logits, VOCAB)?;
                let params = m.params(params)?;
                let position = m.u32_at(control + 20)?;
                let recent = window(params.since, position)
                    .map(|position| m.u32_at(history + u64::from(position % HISTORY) * 4))
                    .collect::<Result<Vec<u32>, _>>()?;
                let token = Chooser::default().choose(&params, &all, &recent, position);
                m.feed_back(token.unwrap_or(NOT_FINITE), [control, chosen, history])?;
            }
            _ => {
                return Err(QueueError::Arguments { kernel: call.kernel, found: call.args.len(), wanted: 0 });
            }
        }
        Ok(())
    }
}

impl Kernels for HostKernels {
    fn prepare(&self, kernels: &[u32]) -> Result<(), QueueError> {
        self.shared.enter()?;
        let names = kernels.iter().map(|idx| self.names[*idx as usize].clone());
        self.shared.prepared.lock().unwrap().extend(names);
        Ok(())
    }
    fn launch(&self, calls: &[Call]) -> Result<(), QueueError> {
        self.shared.enter()?;
        let probe = *self.shared.probe.lock().unwrap();
        let before = probe.map_or(0, |probe| probe());
        let result = calls.iter().try_for_each(|call| self.run(call));
        let made = probe.map_or(0, |probe| probe()) - before;
        self.shared.own_allocations.fetch_add(made, Ordering::SeqCst);
        result
    }
    fn profile(&self, calls: &[Call]) -> Result<Vec<Duration>, QueueError> {
        self.launch(calls)?;
        Ok(vec![Duration::from_nanos(1); calls.len()])
    }
    fn record(self: Arc<Self>, calls: Vec<Call>) -> Result<Box<dyn Replay>, QueueError> {
        self.shared.enter()?;
        Ok(Box::new(HostReplay { calls, kernels: self }))
    }
}

struct HostReplay {
    calls: Vec<Call>,
    kernels: Arc<HostKernels>,
}

impl Replay for HostReplay {
    fn run(&self) -> Result<(), QueueError> {
        self.kernels.launch(&self.calls)
    }
    fn calls(&self) -> &[Call] {
        &self.calls
    }
}

pub fn kernel(name: &'static str, params: &[(&'static str, Access)]) -> KernelDesc {
    let param = |&(name, access): &(&'static str, Access)| ParamDesc {
        name: Cow::Borrowed(name),
        elem: Cow::Borrowed("f32"),
        access,
    };
    KernelDesc {
        entry: Cow::Borrowed(name),
        name: Cow::Borrowed(name),
        constants: Cow::Borrowed(""),
        ptx: Cow::Borrowed(""),
        grid: [1, 1, 1],
        block: [32, 1, 1],
        shared_bytes: 0,
        cooperative: false,
        params: Cow::Owned(params.iter().map(param).collect()),
        bytes: 0,
        macs: 0,
    }
}

pub fn buffer(slot: Slot, bytes: u64, bytes_per_pos: u64, place: Place) -> BufferDesc {
    BufferDesc { slot, bytes, bytes_per_pos, place }
}

/// A model whose next token is the sum of all tokens so far, modulo the vocabulary.
pub fn toy_table() -> Table {
    use Access::{Read, ReadWrite, Write};
    let arg = |index: u32| Arg::Buffer { index, offset: 0 };
    let launch = |kernel: u32, phase, args: &[Arg]| Launch {
        kernel,
        layer: None,
        phase,
        args: Cow::Owned(args.to_vec()),
    };
    let weight = |role, layer, rows, repack| WeightDesc {
        role,
        layer,
        qtype: QType::F32,
        rows,
        cols: DIM as u32,
        packed_bytes: u64::from(rows) * DIM as u64 * 4,
        repack,
    };
    Table {
        spec: Cow::Borrowed("toy"),
        hash: Cow::Borrowed("toy"),
        sm: 90,
        dims: toy_dims(),
        kernels: Cow::Owned(vec![
            kernel("repack", &[("raw", Read), ("packed", Write)]),
            kernel("embed", &[("control", Read), ("table", Read), ("cache", ReadWrite), ("hidden", Write)]),
            kernel("head", &[("hidden", Read), ("logits", Write)]),
            kernel(
                "argmax",
                &[("control", ReadWrite), ("logits", Read), ("chosen", Write), ("history", Write)],
            ),
            kernel(
                "sample",
                &[
                    ("control", ReadWrite),
                    ("params", Read),
                    ("history", ReadWrite),
                    ("logits", Read),
                    ("chosen", Write),
                ],
            ),
        ]),
        weights: Cow::Owned(vec![
            weight(Role::TokenEmbd, None, VOCAB as u32, Some(0)),
            weight(Role::OutputNorm, None, 1, None),
            weight(Role::AttnNorm, Some(0), 1, None),
        ]),
        caches: Cow::Owned(vec![buffer(Slot::KCache(0), 0, 4, Place::Own)]),
        steps: Cow::Owned(vec![Step {
            kind: StepKind::Decode,
            rows: 1,
            buffers: Cow::Owned(vec![
                buffer(Slot::Control, 32, 0, Place::Own),
                buffer(Slot::RopeTable, 0, 32 / 2 * 8, Place::Own),
                buffer(Slot::Kv, 8, 0, Place::Own),
                buffer(Slot::Hidden, 12, 0, Place::Arena { offset: 0 }),
                buffer(Slot::Logits, VOCAB as u64 * 4, 0, Place::Arena { offset: 256 }),
                buffer(Slot::Chosen, 4, 0, Place::Own),
                buffer(Slot::History, u64::from(HISTORY) * 4, 0, Place::Own),
                buffer(Slot::Sampling, u64::from(SAMPLING_WORDS) * 4, 0, Place::Own),
            ]),
            arena_bytes: 512,
            launches: Cow::Owned(vec![
                launch(1, Phase::Body, &[arg(0), Arg::Weight(0), arg(2), arg(3)]),
                launch(2, Phase::Head, &[arg(3), arg(4)]),
                launch(3, Phase::Greedy, &[arg(0), arg(4), arg(5), arg(6)]),
                launch(4, Phase::Sample, &[arg(0), arg(7), arg(6), arg(4), arg(5)]),
            ]),
        }]),
    }
}

pub fn toy_dims() -> Dims {
    Dims {
        architecture: Cow::Borrowed("toy"),
        vocab_size: VOCAB as u32,
        dim: DIM as u32,
        hidden_dim: 64,
        n_layers: 1,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 32,
        context: 64,
        norm_eps: 1e-5,
        rope_kind: RopeKind::Neox,
        rope_base: 10_000.0,
        qkv_bias: false,
        tied_head: true,
        kv_type: Default::default(),
        activations: Default::default(),
        variant: Variant::LLAMA,
    }
}
