//! Products for several rows: each active row has the bits of the one-row kernel, and nothing of the others is touched.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may")]

use emulator::{Checks, Config, LaunchShape, Machine, Outcome};
use monomorph_codegen::kernels::ffn::{Crew, GateUp};
use monomorph_codegen::kernels::gemm::{Fill, Gemm, GemmGateUp, GemmQkv, Tile};
use monomorph_codegen::kernels::gemv::{Epilogue, Gemv, GemvQkv, Split};
use monomorph_codegen::kernels::{Operation, judge};
use monomorph_codegen::layout::{ActBlocks, Matrix, quantize_row};
use monomorph_codegen::rng::Rng;
use plan::{Activation, QType};

/// Rows of batches: fewer than a block of 8, whole blocks, and one more.
const ROWS: [u32; 10] = [2, 3, 5, 8, 9, 16, 17, 32, 33, 64];

/// One argument: what is written before the launch, and how long it is. Bytes that are not written trap when read.
struct Arg {
    written: Vec<u8>,
    bytes: usize,
}

impl Arg {
    fn of(written: Vec<u8>) -> Arg {
        Arg { bytes: written.len(), written }
    }

    fn longer(written: Vec<u8>, bytes: usize) -> Arg {
        Arg { bytes: bytes.max(written.len()), written }
    }
}

/// An operation's kernel, from its text.
struct Ready<'a> {
    operation: &'a dyn Operation,
    machine: Machine,
    program: emulator::Program,
    shape: LaunchShape,
}

impl Ready<'_> {
    fn new(operation: &dyn Operation) -> Ready<'_> {
        let machine = Machine::new(Config { threads: 0, checks: Checks::Full });
        let kernel = operation.build().unwrap();
        let target = ptx::Target { sm: 90, arch_specific: false };
        let module = monomorph_codegen::lower::lower(&kernel, target, "k").unwrap();
        let text = ptx::print::print(&ptx::verify::verify(module).unwrap());
        let module = ptx::verify::verify(ptx::parse::parse(&text).unwrap()).unwrap();
        let program = machine.load(&module).unwrap();
        let (grid, block, dynamic_shared) = (kernel.grid, kernel.block, kernel.dynamic_shared_bytes());
        let shape = LaunchShape { grid, block, dynamic_shared, cooperative: kernel.cooperative };
        Ready { operation, machine, program, shape }
    }

    /// Launches it and gives what the last arguments hold in their first bytes, as many as `outputs` says of each.
    fn launch(&self, args: &[Arg], outputs: &[usize]) -> Vec<Vec<u8>> {
        let Ready { operation, machine, program, shape } = self;
        let mut addresses = Vec::new();
        for arg in args {
            let address = machine.alloc(arg.bytes as u64).unwrap();
            machine.write(address, &arg.written).unwrap();
            addresses.push(address);
        }
        if let Outcome::Trap(trap) = machine.launch_shaped(program, "k", *shape, &addresses).unwrap() {
            panic!("{} {}: {trap}", operation.name(), operation.constants());
        }
        let read = |(address, bytes): (&u64, &usize)| {
            let mut found = vec![0; *bytes];
            machine.read(*address, &mut found).unwrap();
            found
        };
        let found = addresses[addresses.len() - outputs.len()..].iter().zip(outputs).map(read).collect();
        for address in addresses {
            machine.free(address).unwrap();
        }
        found
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Random rows of activations, with a block of zeros and a scale that is not finite among them.
fn random_rows(rng: &mut Rng, cols: u32, rows: u32) -> Vec<ActBlocks> {
    let mut row = |i: u32| {
        let mut x: Vec<f32> =
            (0..cols).map(|c| rng.normal() * if c % 89 == 7 { 60.0 } else { 1.0 }).collect();
        match i {
            1 => x[..32].fill(0.0),
            2 => x[cols as usize - 1] = f32::INFINITY,
            _ => {}
        }
        quantize_row(&x)
    };
    (0..rows).map(&mut row).collect()
}

/// A batch: its active rows and the three arguments that hold them, the rest of which is never written.
struct Batch {
    active: Vec<ActBlocks>,
    rows: u32,
}

impl Batch {
    fn new(rng: &mut Rng, cols: u32, rows: u32) -> Batch {
        // Most often almost all rows, so that several blocks have some.
        let n_active = rows - rng.below(rows.min(9));
        Batch { active: random_rows(rng, cols, n_active), rows }
    }

    fn control(&self) -> Arg {
        let words = [self.active.len() as u32, 0, 0, 0];
        Arg::longer(words.iter().flat_map(|w| w.to_le_bytes()).collect(), 16 + 16 * self.rows as usize)
    }

    fn plane(&self, of: impl Fn(&ActBlocks) -> Vec<u8>) -> Arg {
        let written: Vec<u8> = self.active.iter().flat_map(&of).collect();
        let bytes = written.len() / self.active.len() * self.rows as usize;
        Arg::longer(written, bytes)
    }

    fn quants(&self) -> Arg {
        self.plane(ActBlocks::quant_bytes)
    }

    fn meta(&self) -> Arg {
        self.plane(ActBlocks::meta_bytes)
    }
}

#[track_caller]
fn assert_same(operation: &dyn Operation, row: usize, found: &[u8], expected: &[u8]) {
    let at = found.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(at, None, "{} {}: row {row}", operation.name(), operation.constants());
    assert_eq!(found.len(), expected.len());
}

/// Compares bits of a product for a batch with those of its rows computed alone.
fn compare(gemm: &Gemm, seed: u64) {
    let m = gemm.matrix;
    let mut rng = Rng::new(seed);
    let weights = m.pack(&m.random(&mut rng));
    let batch = Batch::new(&mut rng, m.cols, gemm.rows);
    let before: Vec<f32> = (0..m.rows * gemm.rows).map(|_| rng.normal()).collect();
    let args =
        [batch.control(), Arg::of(weights.clone()), batch.quants(), batch.meta(), Arg::of(floats(&before))];
    let bytes = 4 * m.rows as usize;
    let found = Ready::new(gemm).launch(&args, &[bytes * gemm.rows as usize]);
    let one = Gemv { matrix: m, epilogue: gemm.epilogue, split: gemm.split };
    let one = Ready::new(&one);
    for (row, old) in before.chunks_exact(m.rows as usize).enumerate() {
        let mine = &found[0][row * bytes..(row + 1) * bytes];
        let Some(x) = batch.active.get(row) else {
            assert_same(gemm, row, mine, &floats(old));
            continue;
        };
        let args = [
            Arg::of(weights.clone()),
            Arg::of(x.quant_bytes()),
            Arg::of(x.meta_bytes()),
            Arg::of(floats(old)),
        ];
        assert_same(gemm, row, mine, &one.launch(&args, &[bytes])[0]);
    }
}

#[test]
fn each_row_has_the_bits_of_the_row_alone() {
    // Outputs that fill no tile, one K split after the other, short chains and long ones.
    let shapes = [(20, 1280, 1), (37, 768, 2), (64, 2304, 4), (66, 512, 1), (33, 2560, 8)];
    for (t, qtype) in QType::ALL.into_iter().enumerate() {
        for (i, rows) in ROWS.into_iter().enumerate() {
            let (outputs, cols, k_split) = shapes[(i + t) % shapes.len()];
            let matrix = Matrix { qtype, rows: outputs, cols };
            let split = Split { k_split, tiles_per_cta: [1, 2][i % 2].min(8 / k_split), unroll: 2 };
            let epilogue = [Epilogue::Store, Epilogue::Add][(i + t) % 2];
            compare(&Gemm::new(matrix, epilogue, split, rows), (100 * t + i) as u64);
        }
    }
}

/// Teams and fragments of every kind, with `n` fragments of rows: `(m, across, parts, slots)`.
const TEAMS: [(u32, u32, u32, u32); 9] = [
    (1, 1, 1, 2),
    (1, 1, 2, 2),
    (1, 1, 4, 2),
    (1, 2, 1, 2),
    (2, 1, 1, 1),
    (2, 1, 2, 1),
    (2, 2, 1, 1),
    (2, 1, 1, 2),
    (4, 1, 1, 1),
];

fn tile((m, across, parts, slots): (u32, u32, u32, u32), n: u32, depth: u32) -> Tile {
    Tile { m, n, across, parts, slots, depth, buffers: 1, fill: Fill::Before, resident: 1 }
}

#[test]
fn every_tile_gives_the_bits_of_the_row_alone() {
    let types: Vec<QType> = QType::ALL.into_iter().filter(|t| !t.is_plain()).collect();
    let mut tried = 0;
    for (i, n) in [1, 2, 4, 8].into_iter().enumerate() {
        for (j, team) in TEAMS.into_iter().enumerate() {
            let (qtype, depth) = (types[(i + j) % types.len()], [1, 2, 4][(i + j) % 3]);
            // A part more than the tile has rows for, outputs that overlap, and parts of different lengths.
            let (k_split, cols) = [(4, 2304), (4, 2048), (8, 2560), (4, 3328)][(i + j) % 4];
            let matrix = Matrix { qtype, rows: 83, cols };
            let split = Split { k_split, tiles_per_cta: 1, unroll: 2 };
            let epilogue = [Epilogue::Store, Epilogue::Add][j % 2];
            let gemm = Gemm::new(matrix, epilogue, split, 8 * n + 3);
            let buffered = [(1, Fill::Before), (2, Fill::During), (2, Fill::Before)];
            for (buffers, fill) in buffered.into_iter().take(if n > 4 { 2 } else { 3 }) {
                let tile = Tile { buffers, fill, ..tile(team, n, depth) };
                if let Some(gemm) = gemm.clone().with_tile(tile) {
                    compare(&gemm, (10 * i + j) as u64);
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 60, "{tried}");
}

#[test]
fn a_tile_that_does_not_fit_is_refused() {
    let matrix = |qtype, rows| Matrix { qtype, rows, cols: 1024 };
    let gemm = |matrix, k_split| {
        let split = Split { k_split, tiles_per_cta: 1, unroll: 2 };
        Gemm::new(matrix, Epilogue::Store, split, 16)
    };
    let of = |m, parts| tile((m, 1, parts, 1), 2, 1);
    assert!(gemm(matrix(QType::Q4K, 32), 2).with_tile(of(2, 2)).is_some());
    assert!(gemm(matrix(QType::Q4K, 28), 2).with_tile(of(2, 2)).is_none(), "fewer outputs");
    assert!(gemm(matrix(QType::Q4K, 32), 1).with_tile(of(2, 2)).is_none(), "fewer parts");
    assert!(gemm(matrix(QType::F16, 32), 2).with_tile(of(2, 2)).is_none(), "a plain type");
    let wide = Tile { slots: 4, buffers: 2, ..tile((2, 2, 1, 1), 8, 1) };
    assert!(gemm(matrix(QType::Q6K, 64), 2).with_tile(wide).is_none(), "no room");
    let slow = Tile { slots: 1, ..of(1, 1) };
    assert!(gemm(matrix(QType::Q4K, 32), 2).with_tile(slow).is_none(), "threads without weights");
    let alone = Tile { fill: Fill::During, ..of(2, 1) };
    assert!(
        gemm(matrix(QType::Q4K, 32), 2).with_tile(alone).is_none(),
        "one stage cannot be filled while it is multiplied"
    );
    let odd = Tile { depth: 3, ..of(2, 1) };
    assert!(gemm(matrix(QType::Q4K, 32), 2).with_tile(odd).is_none(), "no power of two");
}

#[test]
fn a_last_super_block_cut_short_is_the_same_for_every_row() {
    for (t, qtype) in QType::ALL.into_iter().filter(|t| t.block_elems() <= 32).enumerate() {
        for (i, (rows, cols, k_split)) in
            [(2, 640, 1), (4, 96, 1), (9, 896, 2), (17, 480, 1), (8, 1184, 4)].into_iter().enumerate()
        {
            let matrix = Matrix { qtype, rows: 21, cols };
            let split = Split { k_split, tiles_per_cta: 1, unroll: 2 };
            compare(&Gemm::new(matrix, Epilogue::Store, split, rows), (t * 10 + i) as u64);
        }
    }
}

#[test]
fn queries_keys_and_values_have_the_bits_of_the_row_alone() {
    let m = |qtype, rows| Matrix { qtype, rows, cols: 768 };
    let mixed = [
        [m(QType::Q4K, 48), m(QType::Q4K, 20), m(QType::Q6K, 20)],
        [m(QType::Q8_0, 36), m(QType::F16, 13), m(QType::Q5_1, 24)],
        [m(QType::Q4K, 96), m(QType::Q4K, 64), m(QType::Q6K, 70)],
    ];
    for (i, rows) in ROWS.into_iter().enumerate() {
        let matrices = mixed[i % mixed.len()];
        let split = Split { k_split: [1, 2][i % 2], tiles_per_cta: 2, unroll: 2 };
        let gemm = GemmQkv::new(matrices, split, rows);
        let mut rng = Rng::new(i as u64);
        let weights: Vec<Vec<u8>> = matrices.iter().map(|m| m.pack(&m.random(&mut rng))).collect();
        let batch = Batch::new(&mut rng, 768, rows);
        let bytes = 4 * matrices.iter().map(|m| m.rows as usize).sum::<usize>();
        let mut args = vec![batch.control()];
        args.extend(weights.iter().cloned().map(Arg::of));
        args.extend([batch.quants(), batch.meta(), Arg::longer(vec![], bytes * rows as usize)]);
        let found = Ready::new(&gemm).launch(&args, &[bytes * batch.active.len()]);
        let one = GemvQkv { matrices, split, norm: None };
        let one = Ready::new(&one);
        for (row, x) in batch.active.iter().enumerate() {
            let mut args: Vec<Arg> = weights.iter().cloned().map(Arg::of).collect();
            args.extend([Arg::of(x.quant_bytes()), Arg::of(x.meta_bytes()), Arg::longer(vec![], bytes)]);
            let alone = one.launch(&args, &[bytes]);
            assert_same(&gemm, row, &found[0][row * bytes..(row + 1) * bytes], &alone[0]);
        }
    }
}

#[test]
fn gate_and_up_have_the_bits_of_the_row_alone() {
    let pairs = [
        (QType::Q4K, QType::Q4K),
        (QType::Q6K, QType::Q8_0),
        (QType::Q4_0, QType::Q5K),
        (QType::Bf16, QType::Q5_0),
    ];
    for (i, rows) in ROWS.into_iter().enumerate() {
        let (gate, up) = pairs[i % pairs.len()];
        let m = |qtype| Matrix { qtype, rows: 96, cols: 768 };
        let (gate, up, unroll) = (m(gate), m(up), 2);
        let activation = [Activation::Silu, Activation::GeluTanh][i % 2];
        let gemm = GemmGateUp::new(gate, up, activation, unroll, rows);
        let mut rng = Rng::new(i as u64);
        let weights = [gate.pack(&gate.random(&mut rng)), up.pack(&up.random(&mut rng))];
        let batch = Batch::new(&mut rng, 768, rows);
        let mut args = vec![batch.control()];
        args.extend(weights.iter().cloned().map(Arg::of));
        args.extend([batch.quants(), batch.meta()]);
        args.extend([Arg::longer(vec![], 96 * rows as usize), Arg::longer(vec![], 24 * rows as usize)]);
        let n = batch.active.len();
        let found = Ready::new(&gemm).launch(&args, &[96 * n, 24 * n]);
        let one = GateUp { gate, up, activation, unroll, norm: None, crew: Crew::BLOCK };
        let one = Ready::new(&one);
        for (row, x) in batch.active.iter().enumerate() {
            let mut args: Vec<Arg> = weights.iter().cloned().map(Arg::of).collect();
            args.extend([Arg::of(x.quant_bytes()), Arg::of(x.meta_bytes())]);
            args.extend([Arg::longer(vec![], 96), Arg::longer(vec![], 24)]);
            let alone = one.launch(&args, &[96, 24]);
            assert_same(&gemm, row, &found[0][96 * row..96 * (row + 1)], &alone[0]);
            assert_same(&gemm, row, &found[1][24 * row..24 * (row + 1)], &alone[1]);
        }
    }
}

/// Runs an operation's own trial.
fn check(operation: &dyn Operation, seed: u64) {
    let trial = operation.trial(seed);
    let kernel = operation.build().unwrap();
    let args: Vec<Arg> = trial.args.iter().map(|a| Arg::of(a.before.clone())).collect();
    let sizes: Vec<usize> = args.iter().map(|a| a.bytes).collect();
    let after = Ready::new(operation).launch(&args, &sizes);
    let names: Vec<String> = kernel.params.iter().map(|p| p.name.clone()).collect();
    if let Err(what) = judge(&trial, &names, &after) {
        panic!("{} {}: {what}", operation.name(), operation.constants());
    }
}

#[test]
fn trials_hold_for_any_number_of_active_rows() {
    for (i, qtype) in QType::ALL.into_iter().enumerate() {
        let m = |rows, cols| Matrix { qtype, rows, cols };
        let split = Split { k_split: 2, tiles_per_cta: 2, unroll: 2 };
        let rows = ROWS[i % 6];
        for seed in 0..3 {
            check(&Gemm::new(m(39, 768), Epilogue::Add, split, rows), seed);
            check(&Gemm::new(m(39, 512), Epilogue::Store, split, rows), seed);
            check(&GemmQkv::new([m(36, 512), m(9, 512), m(20, 512)], split, rows), seed);
            check(&GemmGateUp::new(m(64, 512), m(64, 512), Activation::GeluErf, 2, rows), seed);
        }
    }
}
