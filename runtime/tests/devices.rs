//! A model of four PTX kernels, written by hand, from weights to tokens: on the emulator with all its checks, and on
//! the first CUDA device when there is one. The results are computed again in plain Rust and must be equal bit for bit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::borrow::Cow;
use std::sync::Arc;

use monomorph_runtime::queue::{Buf, Call, EmulatorOptions, EmulatorQueue, Queue, QueueError};
use monomorph_runtime::synth::SynthSource;
use monomorph_runtime::{
    DeviceChoice, DeviceOptions, Error, ErrorClass, FinishReason, GenerateOptions, LoadOptions, Model,
    RopeTable, open_device,
};
use plan::{
    Access, Arg, BufferDesc, Dims, KernelDesc, Launch, ParamDesc, Phase, Place, QType, Role, RopeKind, Slot,
    Step, StepKind, Table, Variant, WeightDesc,
};

/// Width of the stream and entries of the vocabulary: a thread for each.
const N: usize = 32;

/// packed[i] = 2 raw[i]
const REPACK: &str = "
    ld.param.u64 %q_0, [raw];
    ld.param.u64 %q_1, [packed];
    mov.u32 %w_0, %tid.x;
    mov.u32 %w_1, %ctaid.x;
    mad.lo.u32 %w_0, %w_1, 32, %w_0;
    mul.wide.u32 %q_2, %w_0, 4;
    add.s64 %q_0, %q_0, %q_2;
    add.s64 %q_1, %q_1, %q_2;
    ld.global.f32 %f_0, [%q_0];
    add.rn.f32 %f_0, %f_0, %f_0;
    st.global.f32 [%q_1], %f_0;
    ret;";

/// hidden[i] = table[token][i]
const EMBED: &str = "
    ld.param.u64 %q_0, [control];
    ld.param.u64 %q_1, [table];
    ld.param.u64 %q_2, [hidden];
    mov.u32 %w_0, %tid.x;
    ld.global.u32 %w_1, [%q_0+16];
    mad.lo.u32 %w_1, %w_1, 32, %w_0;
    mul.wide.u32 %q_3, %w_1, 4;
    add.s64 %q_1, %q_1, %q_3;
    mul.wide.u32 %q_3, %w_0, 4;
    add.s64 %q_2, %q_2, %q_3;
    ld.global.f32 %f_0, [%q_1];
    st.global.f32 [%q_2], %f_0;
    ret;";

/// logits[i] = hidden[i] norm[i] + rope[position][i]
const HEAD: &str = "
    ld.param.u64 %q_0, [control];
    ld.param.u64 %q_1, [hidden];
    ld.param.u64 %q_2, [norm];
    ld.param.u64 %q_3, [rope];
    ld.param.u64 %q_4, [logits];
    mov.u32 %w_0, %tid.x;
    mul.wide.u32 %q_5, %w_0, 4;
    ld.global.u32 %w_1, [%q_0+20];
    mul.wide.u32 %q_6, %w_1, 128;
    add.s64 %q_1, %q_1, %q_5;
    add.s64 %q_2, %q_2, %q_5;
    add.s64 %q_3, %q_3, %q_5;
    add.s64 %q_3, %q_3, %q_6;
    add.s64 %q_4, %q_4, %q_5;
    ld.global.f32 %f_0, [%q_1];
    ld.global.f32 %f_1, [%q_2];
    ld.global.f32 %f_2, [%q_3];
    fma.rn.f32 %f_0, %f_0, %f_1, %f_2;
    st.global.f32 [%q_4], %f_0;
    ret;";

/// chosen = argmax logits, by the first thread
const ARGMAX: &str = "
    ld.param.u64 %q_0, [logits];
    ld.param.u64 %q_1, [chosen];
    mov.u32 %w_0, %tid.x;
    setp.ne.u32 %p_0, %w_0, 0;
    @%p_0 ret;
    mov.u32 %w_1, 0;
    ld.global.f32 %f_0, [%q_0];
$LOOP:
    add.u32 %w_0, %w_0, 1;
    setp.ge.u32 %p_0, %w_0, 32;
    @%p_0 bra $DONE;
    mul.wide.u32 %q_2, %w_0, 4;
    add.s64 %q_2, %q_0, %q_2;
    ld.global.f32 %f_1, [%q_2];
    setp.gt.f32 %p_1, %f_1, %f_0;
    selp.f32 %f_0, %f_1, %f_0, %p_1;
    selp.b32 %w_1, %w_0, %w_1, %p_1;
    bra $LOOP;
$DONE:
    st.global.u32 [%q_1], %w_1;
    ret;";

/// Reads an address that no allocation has.
const STRAY: &str = "
    ld.param.u64 %q_0, [logits];
    mov.b64 %q_1, 64;
    ld.global.f32 %f_0, [%q_1];
    st.global.f32 [%q_0], %f_0;
    ret;";

/// values += 1, by way of the last bytes of dynamic shared memory
const STREAM: &str = "
    ld.param.u64 %q_0, [values];
    mov.u32 %w_0, %tid.x;
    setp.eq.u32 %p_0, %w_0, 0;
    @%p_0 mbarrier.init.shared.b64 [big], 1;
    @%p_0 fence.mbarrier_init.release.cluster;
    bar.sync 0;
    @%p_0 mbarrier.arrive.expect_tx.shared.b64 %q_1, [big], 128;
    @%p_0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [big+65536], [%q_0], 128, [big];
$WAIT:
    mbarrier.try_wait.parity.shared.b64 %p_1, [big], 0;
    @!%p_1 bra $WAIT;
    mov.u32 %w_1, big;
    mad.lo.u32 %w_1, %w_0, 4, %w_1;
    ld.shared.f32 %f_0, [%w_1+65536];
    add.rn.f32 %f_0, %f_0, 0f3F800000;
    mul.wide.u32 %q_2, %w_0, 4;
    add.s64 %q_2, %q_0, %q_2;
    st.global.f32 [%q_2], %f_0;
    ret;";

fn kernel(name: &'static str, grid: u32, params: &[(&'static str, Access)], body: &str) -> KernelDesc {
    let declared: Vec<String> = params.iter().map(|(name, _)| format!(".param .u64 {name}")).collect();
    let ptx = format!(
        ".version 8.1\n.target sm_90\n.address_size 64\n.visible .entry {name}({})\n.reqntid 32, 1, 1\n{{\n\
         .reg .b32 %w_<4>;\n.reg .f32 %f_<4>;\n.reg .b64 %q_<8>;\n.reg .pred %p_<2>;\n{body}\n}}\n",
        declared.join(", ")
    );
    let param = |&(name, access): &(&'static str, Access)| ParamDesc {
        name: Cow::Borrowed(name),
        elem: Cow::Borrowed("f32"),
        access,
    };
    KernelDesc {
        entry: Cow::Borrowed(name),
        name: Cow::Borrowed(name),
        constants: Cow::Borrowed(""),
        ptx: Cow::Owned(ptx),
        grid: [grid, 1, 1],
        block: [32, 1, 1],
        shared_bytes: 0,
        cooperative: false,
        params: Cow::Owned(params.iter().map(param).collect()),
        bytes: 0,
        macs: 0,
    }
}

fn dims() -> Dims {
    Dims {
        architecture: Cow::Borrowed("hand"),
        vocab_size: N as u32,
        dim: N as u32,
        hidden_dim: N as u32,
        n_layers: 1,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: N as u32,
        context: 4096,
        norm_eps: 1e-5,
        rope_kind: RopeKind::Neox,
        rope_base: 10_000.0,
        qkv_bias: false,
        tied_head: false,
        kv_type: Default::default(),
        activations: Default::default(),
        variant: Variant::LLAMA,
    }
}

fn table() -> Table {
    use Access::{Read, Write};
    let buffer = |slot, bytes, bytes_per_pos, place| BufferDesc { slot, bytes, bytes_per_pos, place };
    let launch =
        |kernel, phase, args: &[Arg]| Launch { kernel, layer: None, phase, args: Cow::Owned(args.to_vec()) };
    let arg = |index| Arg::Buffer { index, offset: 0 };
    let weight = |role, rows: usize, repack| WeightDesc {
        role,
        layer: None,
        qtype: QType::F32,
        rows: rows as u32,
        cols: N as u32,
        packed_bytes: (rows * N * 4) as u64,
        repack,
    };
    Table {
        spec: Cow::Borrowed("hand"),
        hash: Cow::Borrowed("hand"),
        sm: 90,
        dims: dims(),
        kernels: Cow::Owned(vec![
            kernel("repack", N as u32, &[("raw", Read), ("packed", Write)], REPACK),
            kernel("embed", 1, &[("control", Read), ("table", Read), ("hidden", Write)], EMBED),
            kernel(
                "head",
                1,
                &[("control", Read), ("hidden", Read), ("norm", Read), ("rope", Read), ("logits", Write)],
                HEAD,
            ),
            kernel("argmax", 1, &[("logits", Read), ("chosen", Write)], ARGMAX),
        ]),
        weights: Cow::Owned(vec![weight(Role::TokenEmbd, N, Some(0)), weight(Role::OutputNorm, 1, None)]),
        caches: Cow::Owned(vec![]),
        steps: Cow::Owned(vec![Step {
            kind: StepKind::Decode,
            rows: 1,
            buffers: Cow::Owned(vec![
                buffer(Slot::Control, 32, 0, Place::Own),
                buffer(Slot::RopeTable, 0, N as u64 * 4, Place::Own),
                buffer(Slot::Hidden, N as u64 * 4, 0, Place::Arena { offset: 0 }),
                buffer(Slot::Logits, N as u64 * 4, 0, Place::Arena { offset: 256 }),
                buffer(Slot::Chosen, 4, 0, Place::Own),
            ]),
            arena_bytes: 512,
            launches: Cow::Owned(vec![
                launch(1, Phase::Body, &[arg(0), Arg::Weight(0), arg(2)]),
                launch(2, Phase::Head, &[arg(0), arg(2), Arg::Weight(1), arg(1), arg(3)]),
                launch(3, Phase::Head, &[arg(3), arg(4)]),
            ]),
        }]),
    }
}

/// The same model in plain Rust.
struct Reference {
    embedding: Vec<f32>,
    norm: Vec<f32>,
    rope: RopeTable,
}

impl Reference {
    fn new(seed: u64) -> Self {
        let table = table();
        let read = |idx: usize| {
            let mut bytes = vec![0; table.weights[idx].raw_bytes() as usize];
            SynthSource::new(seed).fill(&table, &table.weights[idx], 0, &mut bytes);
            bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>()
        };
        let embedding = read(0).into_iter().map(|v| v + v).collect();
        Self { embedding, norm: read(1), rope: RopeTable::new(10_000.0, N as u32) }
    }

    fn logits(&self, token: u32, position: u32) -> Vec<f32> {
        let mut rope = vec![0.0; N];
        self.rope.fill(position, &mut rope);
        let row = &self.embedding[token as usize * N..];
        (0..N).map(|i| row[i].mul_add(self.norm[i], rope[i])).collect()
    }

    fn next(&self, token: u32, position: u32) -> u32 {
        let logits = self.logits(token, position);
        (0..N as u32).fold(0, |best, i| if logits[i as usize] > logits[best as usize] { i } else { best })
    }
}

fn emulator() -> Arc<dyn Queue> {
    Arc::new(EmulatorQueue::new(EmulatorOptions { threads: 2, checks: emulator::Checks::Full }))
}

/// The CUDA device that MONOMORPH_TEST_DEVICE names, or the first; `None`, and a line that says so, when there is none.
fn cuda() -> Option<Arc<dyn Queue>> {
    let choice = std::env::var("MONOMORPH_TEST_DEVICE").map(|name| name.parse().unwrap());
    match open_device(choice.unwrap_or(DeviceChoice::Cuda(0)), &DeviceOptions::default()) {
        Ok(opened) => Some(opened.queue),
        Err(error) => {
            assert!(std::env::var_os("REQUIRE_GPU").is_none(), "REQUIRE_GPU is set, and {error}");
            println!("skipped: no CUDA device: {error}");
            None
        }
    }
}

fn generates_what_the_reference_does(queue: &Arc<dyn Queue>) {
    let reference = Reference::new(5);
    let model = Model::load(queue, &table(), &SynthSource::new(5), &LoadOptions::default()).unwrap();
    let mut session = model.session().unwrap();
    let options = GenerateOptions { max_tokens: Some(40), ..GenerateOptions::default() };
    let prompt = [3, 9, 27];
    let mut generation = session.generate(&prompt, options).unwrap();
    let tokens: Vec<u32> = generation.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(generation.finish_reason(), Some(FinishReason::Length));
    let (mut last, mut expected) = (27, Vec::new());
    for position in 2..42 {
        last = reference.next(last, position);
        expected.push(last);
    }
    assert_eq!(tokens, expected, "{}", queue.name());
    let mut logits = [0.0; N];
    session.logits(&mut logits).unwrap();
    assert_eq!(logits.as_slice(), reference.logits(expected[38], 41));
    assert_eq!(session.profile_step(7).unwrap().len(), 3);
    session.logits(&mut logits).unwrap();
    assert_eq!(logits.as_slice(), reference.logits(7, 42));
}

/// More than both halves of staging, at odd lengths.
fn copies_come_back_as_they_went(queue: &Arc<dyn Queue>) {
    for bytes in [1usize, 8, 255, 256, 257, (4 << 20) - 1, (4 << 20) + 3, (13 << 20) + 5] {
        let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
        let buf = Buf::new(queue, bytes as u64).unwrap();
        buf.upload(0, &sent).unwrap();
        let mut back = vec![0; bytes];
        buf.download(0, &mut back).unwrap();
        assert!(back == sent, "{bytes} bytes on {}", queue.name());
        assert!(matches!(buf.upload(1, &sent), Err(QueueError::Range { .. })));
        queue.zero(buf.addr(), bytes as u64).unwrap();
        buf.download(0, &mut back).unwrap();
        assert!(back.iter().all(|byte| *byte == 0), "{bytes} bytes on {}", queue.name());
    }
}

/// A launch gives its kernel the shared memory that the table says, beyond what a module may declare.
fn large_shared_memory_is_there(queue: &Arc<dyn Queue>) {
    if queue.sm().is_some_and(|sm| sm < 90) {
        println!("skipped: sm_{:?} has no bulk copies", queue.sm());
        return;
    }
    let mut stream = kernel("stream", 1, &[("values", Access::ReadWrite)], STREAM);
    let declared = stream.ptx.replace(".visible", ".extern .shared .align 128 .b8 big[];\n.visible");
    (stream.ptx, stream.shared_bytes) = (Cow::Owned(declared), 65_536 + 128);
    let kernels = queue.load(&[stream]).unwrap();
    let buf = Buf::new(queue, 128).unwrap();
    let sent: Vec<u8> = (0..32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    buf.upload(0, &sent).unwrap();
    kernels.launch(&[Call { kernel: 0, args: Box::new([buf.addr().0]) }]).unwrap();
    let mut back = [0; 128];
    buf.download(0, &mut back).unwrap();
    let back: Vec<f32> = back.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let want: Vec<f32> = (1..33).map(|i| i as f32).collect();
    assert_eq!(back, want, "{}", queue.name());
}

/// A kernel that leaves its buffer is fatal, and every later call says so at once.
fn a_stray_access_loses_the_device(queue: &Arc<dyn Queue>) -> String {
    let stray = kernel("stray", 1, &[("logits", Access::ReadWrite)], STRAY);
    let kernels = queue.load(&[stray]).unwrap();
    let buf = Buf::new(queue, 4096).unwrap();
    queue.zero(buf.addr(), 4096).unwrap();
    let wrong = kernels.launch(&[Call { kernel: 0, args: Box::new([]) }]).unwrap_err();
    assert!(matches!(wrong, QueueError::Arguments { found: 0, wanted: 1, .. }), "{wrong}");
    let call = Call { kernel: 0, args: Box::new([buf.addr().0]) };
    let error = kernels.launch(&[call]).and_then(|()| queue.synchronize()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Fatal, "{error}");
    let later = queue.alloc(1).unwrap_err();
    assert!(matches!(later, QueueError::Poisoned { .. }), "{later}");
    assert!(later.to_string().contains(&error.to_string()), "{later}");
    error.to_string()
}

fn rejects_text_that_is_not_ptx(queue: &Arc<dyn Queue>) {
    let mut bad = table();
    bad.kernels.to_mut()[1].ptx = Cow::Borrowed(".version 8.1\n.target sm_90\nnonsense");
    let error = Model::load(queue, &bad, &SynthSource::new(1), &LoadOptions::default()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Request);
    let Error::Queue(QueueError::Rejected { kernel, reason, .. }) = error else { panic!("{error}") };
    assert_eq!(kernel, "embed");
    assert!(!reason.is_empty());
    println!("{reason}");
}

#[test]
fn on_the_emulator() {
    let queue = emulator();
    generates_what_the_reference_does(&queue);
    copies_come_back_as_they_went(&queue);
    large_shared_memory_is_there(&queue);
    rejects_text_that_is_not_ptx(&queue);
    let text = a_stray_access_loses_the_device(&queue);
    for part in ["stray", "ld.global.f32", "thread [0, 0, 0]", "no allocation"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn on_the_emulator_nothing_is_left_behind() {
    let machine = Arc::new(EmulatorQueue::new(EmulatorOptions::default()));
    let queue: Arc<dyn Queue> = machine.clone();
    let model = Model::load(&queue, &table(), &SynthSource::new(1), &LoadOptions::default()).unwrap();
    let session = model.session().unwrap();
    assert!(machine.allocated_bytes() > 0);
    drop(model);
    drop(session);
    assert_eq!(machine.allocated_bytes(), 0);
}

// One test for all of it: the last part loses the device for this process.
#[test]
fn on_cuda() {
    let Some(queue) = cuda() else { return };
    println!("{}, sm_{:?}, {:?}", queue.name(), queue.sm(), queue.memory().unwrap());
    generates_what_the_reference_does(&queue);
    copies_come_back_as_they_went(&queue);
    large_shared_memory_is_there(&queue);
    rejects_text_that_is_not_ptx(&queue);
    let before = queue.memory().unwrap().unwrap().free;
    let error = Buf::new(&queue, 1 << 50).unwrap_err();
    assert!(matches!(error, QueueError::OutOfMemory { wanted, .. } if wanted == 1 << 50), "{error}");
    assert_eq!(error.class(), ErrorClass::Resource);
    for _ in 0..3 {
        let options = LoadOptions::default();
        Model::load(&queue, &table(), &SynthSource::new(1), &options)
            .unwrap()
            .session()
            .unwrap()
            .step(1)
            .unwrap();
    }
    let after = queue.memory().unwrap().unwrap().free;
    assert!(before.abs_diff(after) < 64 << 20, "{before} bytes free before, {after} after");
    println!("{}", a_stray_access_loses_the_device(&queue));
}
