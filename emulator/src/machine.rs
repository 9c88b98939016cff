//! The device as a host sees it: memory, programs, launches.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ptx::{Module, Verified};

use crate::code::Code;
use crate::decode::decode;
use crate::error::Error;
use crate::job::{Job, JobSpec};
use crate::memory::{Globals, Tracking};
use crate::pool::Pool;
use crate::trap::Trap;

/// What is checked at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checks {
    /// Bounds, alignment, barrier divergence, member masks; also reads of unwritten global and shared bytes, leaving
    /// one shared variable for another, and races in shared memory.
    #[default]
    Full,
    /// Bounds, alignment, barrier divergence and member masks only. Needs no memory beyond the allocations.
    Fast,
}

/// How a machine is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config {
    /// Host threads that run CTAs, the caller's included; 0 takes all cores.
    pub threads: usize,
    /// What is checked.
    pub checks: Checks,
}

/// Bounds that turn a hang into a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Warp-instructions that one CTA may execute.
    pub cta_steps: u64,
    /// CTAs that may have begun and not ended: those beyond start when others end, as on a device that is full.
    pub resident_ctas: u64,
}

impl Default for Limits {
    /// 2^32 steps; as many CTAs as an H200 holds at one a multiprocessor (132).
    fn default() -> Limits {
        Limits { cta_steps: 1 << 32, resident_ctas: 132 }
    }
}

/// Shared memory that a CTA may have at most on any device: 227 KiB, of compute capability 9.0.
const MAX_SHARED_BYTES: u64 = 227 * 1024;

/// How large a launch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads of a CTA.
    pub block: [u32; 3],
    /// Bytes of the dynamic shared variable, behind the static ones.
    pub dynamic_shared: u32,
    /// Whether the CTAs may wait for one another: all of them are then resident at once, or the launch is refused. Without
    /// it they begin in order as others end, at most [`Limits::resident_ctas`] at once, and a CTA that waits for one
    /// that has not begun may wait for ever, as on a device.
    pub cooperative: bool,
}

/// What a launch executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Micro-operations of warps: one an instruction, except that a `mov` of lists takes one an element and a point
    /// where paths meet takes one.
    pub warp_instructions: u64,
    /// CTAs run.
    pub ctas: u64,
}

/// How a launch ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every thread exited.
    Done(Stats),
    /// The kernel did something it must not.
    Trap(Trap),
}

/// An entry of a [`Program`], looked up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(u32);

/// A decoded module. Cheap to clone; independent of the machine that loaded it.
#[derive(Clone, Debug)]
pub struct Program {
    entries: Arc<[Arc<Code>]>,
    names: Arc<BTreeMap<String, EntryId>>,
}

impl Program {
    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<EntryId> {
        self.names.get(name).copied()
    }
}

/// What names an entry in a launch: its name, or the [`EntryId`] looked up before.
pub trait EntryRef {
    /// The entry in that program.
    ///
    /// # Errors
    /// [`Error::UnknownEntry`].
    fn find(&self, program: &Program) -> Result<EntryId, Error>;
}

impl EntryRef for EntryId {
    fn find(&self, program: &Program) -> Result<EntryId, Error> {
        let entries = program.entries.len();
        let known = (self.0 as usize) < entries;
        known.then_some(*self).ok_or_else(|| Error::UnknownEntry { entry: format!("#{}", self.0), entries })
    }
}

impl EntryRef for &str {
    fn find(&self, program: &Program) -> Result<EntryId, Error> {
        let unknown = || Error::UnknownEntry { entry: (*self).to_owned(), entries: program.entries.len() };
        program.entry(self).ok_or_else(unknown)
    }
}

impl EntryRef for &String {
    fn find(&self, program: &Program) -> Result<EntryId, Error> {
        EntryRef::find(&self.as_str(), program)
    }
}

/// A device: global memory and the threads that run kernels. Launches may overlap; memory they share behaves as on a
/// GPU, where nothing but atomics orders them.
pub struct Machine {
    config: Config,
    limits: Limits,
    globals: RwLock<Arc<Globals>>,
    pool: Pool,
}

impl Machine {
    /// A machine with default limits.
    pub fn new(config: Config) -> Machine {
        Machine::with_limits(config, Limits::default())
    }

    /// A machine.
    pub fn with_limits(config: Config, limits: Limits) -> Machine {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if config.threads == 0 { cores() } else { config.threads };
        Machine { config, limits, globals: RwLock::default(), pool: Pool::new(threads - 1) }
    }

    /// The bounds that it was made with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    fn globals(&self) -> RwLockReadGuard<'_, Arc<Globals>> {
        self.globals.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn globals_mut(&self) -> RwLockWriteGuard<'_, Arc<Globals>> {
        self.globals.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocates device memory: the device address of `bytes` bytes, a multiple of 256. Its contents are undefined;
    /// with [`Checks::Full`], reading them before writing traps.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        let tracking = if self.config.checks == Checks::Full { Tracking::Full } else { Tracking::None };
        Arc::make_mut(&mut self.globals_mut()).alloc(bytes, tracking)
    }

    /// Ends an allocation.
    ///
    /// # Errors
    /// [`Error::BadFree`].
    pub fn free(&self, addr: u64) -> Result<(), Error> {
        Arc::make_mut(&mut self.globals_mut()).free(addr)
    }

    /// Bytes of the live allocations.
    pub fn allocated_bytes(&self) -> u64 {
        self.globals().allocated()
    }

    /// Copies to the device.
    ///
    /// # Errors
    /// [`Error::BadRange`].
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), Error> {
        self.globals().write(addr, data)
    }

    /// Copies from the device. Bytes that nobody wrote are whatever they are.
    ///
    /// # Errors
    /// [`Error::BadRange`].
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Error> {
        self.globals().read(addr, out)
    }

    /// Sets `bytes` bytes to `value`.
    ///
    /// # Errors
    /// [`Error::BadRange`].
    pub fn fill(&self, addr: u64, bytes: u64, value: u8) -> Result<(), Error> {
        self.globals().fill(addr, bytes, value)
    }

    /// Decodes a module.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a statement that the emulator cannot represent.
    pub fn load(&self, module: &Verified<Module>) -> Result<Program, Error> {
        let decoded = module.entries.iter().map(|entry| decode(entry, module.target).map(Arc::new));
        let entries = decoded.collect::<Result<Vec<_>, _>>()?;
        let names = entries.iter().enumerate().map(|(i, code)| (code.name.clone(), EntryId(i as u32)));
        Ok(Program { names: Arc::new(names.collect()), entries: entries.into() })
    }

    /// Runs a kernel to its end. `args` are the parameters in order, narrow ones in the low bits.
    ///
    /// # Errors
    /// Launches that no device would accept: unknown entry, wrong number of arguments, a block other than
    /// `.reqntid`, an empty grid. A kernel that misbehaves is [`Outcome::Trap`].
    pub fn launch(
        &self,
        kernel: &Program,
        entry: impl EntryRef,
        grid: [u32; 3],
        block: [u32; 3],
        args: &[u64],
    ) -> Result<Outcome, Error> {
        self.launch_shaped(
            kernel,
            entry,
            LaunchShape { grid, block, dynamic_shared: 0, cooperative: false },
            args,
        )
    }

    /// [`Machine::launch`] with dynamic shared memory, and of grids whose CTAs wait for one another.
    ///
    /// CTAs that wait meet in global memory: one thread adds to a counter (`red.release.gpu`, or `red.relaxed` behind a
    /// fence) and reads it with a strong load (`ld.acquire.gpu`, `ld.relaxed`, `ld.volatile`) until it has the value that all
    /// CTAs bring it to. A warp that reads an unchanged value again gives way at once. If every CTA waits so and nothing
    /// changes any more, the outcome is [`crate::TrapKind::GridDeadlock`], which names where each waits.
    ///
    /// # Errors
    /// As there, [`Error::SharedSize`], and [`Error::CooperativeGrid`] for more CTAs than [`Limits::resident_ctas`].
    pub fn launch_shaped(
        &self,
        kernel: &Program,
        entry: impl EntryRef,
        shape: LaunchShape,
        args: &[u64],
    ) -> Result<Outcome, Error> {
        let code = &kernel.entries[entry.find(kernel)?.0 as usize];
        let LaunchShape { grid, block, dynamic_shared, cooperative } = shape;
        check_launch(code, grid, block, args)?;
        let shared = u64::from(code.dynamic_start.unwrap_or(code.shared_bytes)) + u64::from(dynamic_shared);
        if shared > MAX_SHARED_BYTES {
            let (entry, limit) = (code.name.clone(), MAX_SHARED_BYTES);
            return Err(Error::SharedSize { entry, bytes: shared, limit });
        }
        let (ctas, limit) = (grid.iter().map(|n| u64::from(*n)).product(), self.limits.resident_ctas.max(1));
        if cooperative && ctas > limit {
            return Err(Error::CooperativeGrid { entry: code.name.clone(), ctas, limit });
        }
        let job = Arc::new(Job::new(JobSpec {
            code: Arc::clone(code),
            globals: Arc::clone(&self.globals()),
            args: args.to_vec(),
            grid,
            block,
            dynamic_shared,
            step_limit: self.limits.cta_steps,
            checked: self.config.checks == Checks::Full,
            resident: limit,
        }));
        self.pool.run(&job);
        if job.lost() > 0 {
            return Err(Error::WorkerLost { entry: code.name.clone(), lost: job.lost(), total: job.total });
        }
        Ok(match job.take_trap() {
            Some(trap) => Outcome::Trap(*trap),
            None => Outcome::Done(Stats { warp_instructions: job.steps(), ctas: job.total }),
        })
    }
}

fn check_launch(code: &Code, grid: [u32; 3], block: [u32; 3], args: &[u64]) -> Result<(), Error> {
    let entry = || code.name.clone();
    if args.len() != code.params {
        return Err(Error::ArgumentCount { entry: entry(), expected: code.params, got: args.len() });
    }
    if block != code.reqntid {
        return Err(Error::BlockShape { entry: entry(), expected: code.reqntid, got: block });
    }
    // Compute capabilities 5.0 and later: 1024 threads a block; 2^31 - 1 by 65535 by 65535 blocks.
    let threads: u64 = block.iter().map(|n| u64::from(*n)).product();
    let most = [0x7fff_ffff, 65535, 65535];
    let grid_fits = grid.iter().zip(most).all(|(n, most)| (1..=most).contains(n));
    if !grid_fits || !(1..=1024).contains(&threads) {
        return Err(Error::LaunchShape { entry: entry(), grid, block });
    }
    Ok(())
}
