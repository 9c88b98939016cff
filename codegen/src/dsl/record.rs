//! The recorder: the kernel under construction on this thread, and how instructions get into it.
//!
//! Device values are handles into it. Recording outside a kernel (calling a `#[device]` function from ordinary code)
//! records nothing and gives zeros, which no kernel ever sees.

use super::kernel::{Access, BuildError, BuildFault, Kernel, ParamInfo};
use crate::ir::{self, Arg, Block, Function, Inst, Operand, Stmt, ValueId};
use ptx::{Form, Imm, Mod, Op, Special, Ty, Types};
use std::cell::RefCell;

/// Threads of a CTA that the hardware allows.
const MAX_THREADS: u32 = 1024;
/// Shared memory of a CTA at most, that of compute capability 9.0: 227 KiB. Other targets have less; lowering knows which.
const MAX_SHARED_BYTES: u64 = 227 * 1024;
/// Alignment of shared variables: the widest access and bulk copies.
const SHARED_ALIGN: u32 = 16;

/// The kernel under construction.
pub(crate) struct Recorder {
    pub(crate) name: String,
    doc: Vec<String>,
    grid: [u32; 3],
    block: [u32; 3],
    min_ctas: Option<u32>,
    pub(crate) cooperative: bool,
    params: Vec<ParamInfo>,
    pub(crate) function: Function,
    /// Blocks being recorded, innermost last.
    open: Vec<Vec<Stmt>>,
    fault: Option<BuildFault>,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// The outside of a kernel, as the macro knows it.
pub struct Head<'a> {
    /// The function's name.
    pub name: &'a str,
    /// Its documentation.
    pub doc: &'a [&'a str],
    /// CTAs.
    pub grid: [u32; 3],
    /// Threads of a CTA.
    pub block: [u32; 3],
    /// `.minnctapersm`.
    pub min_ctas: Option<u32>,
}

/// A kernel is being recorded as long as this lives.
pub struct Recording(());

/// Starts recording a kernel.
pub fn begin(head: Head<'_>) -> Result<Recording, BuildError> {
    let fault = |what| Err(BuildError { kernel: head.name.to_owned(), what });
    if let Some(other) = RECORDER.with_borrow(|r| r.as_ref().map(|r| r.name.clone())) {
        return fault(BuildFault::Nested { other });
    }
    let threads = head.block.iter().map(|n| u64::from(*n)).product::<u64>();
    if head.grid.contains(&0) {
        return fault(BuildFault::Launch { what: "grid", found: head.grid, limit: MAX_THREADS });
    }
    if threads == 0 || threads > u64::from(MAX_THREADS) {
        return fault(BuildFault::Launch { what: "block", found: head.block, limit: MAX_THREADS });
    }
    let recorder = Recorder {
        name: head.name.to_owned(),
        doc: head.doc.iter().map(|line| (*line).to_owned()).collect(),
        grid: head.grid,
        block: head.block,
        min_ctas: head.min_ctas,
        cooperative: false,
        params: Vec::new(),
        function: Function::default(),
        open: vec![Vec::new()],
        fault: None,
    };
    RECORDER.set(Some(recorder));
    Ok(Recording(()))
}

impl Recording {
    /// Ends recording and validates what was recorded.
    pub fn finish(self) -> Result<Kernel, BuildError> {
        let Some(mut recorder) = RECORDER.take() else {
            return Err(BuildError { kernel: String::new(), what: BuildFault::Left { construct: "kernel" } });
        };
        let kernel = recorder.name.clone();
        let fail = |what| Err(BuildError { kernel: kernel.clone(), what });
        if let Some(what) = recorder.fault.take() {
            return fail(what);
        }
        let mut blocks = std::mem::take(&mut recorder.open);
        match (blocks.pop(), blocks.is_empty()) {
            (Some(stmts), true) => recorder.function.body = Block { stmts },
            _ => return fail(BuildFault::Left { construct: "if" }),
        }
        let shared = recorder.function.shared_bytes();
        if shared > MAX_SHARED_BYTES {
            return fail(BuildFault::Shared { found: shared, limit: MAX_SHARED_BYTES });
        }
        if let Some(why) = ir::waits::fault(&recorder.function) {
            return fail(BuildFault::Refused(why.to_owned()));
        }
        if let Err(defect) = ir::check(&recorder.function) {
            return fail(BuildFault::Ir(defect));
        }
        Ok(Kernel {
            name: recorder.name,
            doc: recorder.doc,
            params: recorder.params,
            grid: recorder.grid,
            block: recorder.block,
            min_ctas: recorder.min_ctas,
            shared_bytes: shared as u32,
            cooperative: recorder.cooperative,
            ir: recorder.function,
        })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Reached with a recorder only when a build-time panic unwinds through the kernel.
        RECORDER.set(None);
    }
}

/// Runs `f` on the recorder, if a kernel is being recorded.
pub(crate) fn with<R>(f: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
    RECORDER.with_borrow_mut(|r| r.as_mut().map(f))
}

impl Recorder {
    /// Keeps the first fault.
    pub(crate) fn fail(&mut self, fault: BuildFault) {
        self.fault.get_or_insert(fault);
    }

    /// Appends a statement to the innermost open block.
    pub(crate) fn push(&mut self, stmt: Stmt) {
        if let Some(block) = self.open.last_mut() {
            block.push(stmt);
        }
    }

    /// Opens a block.
    pub(crate) fn open(&mut self) {
        self.open.push(Vec::new());
    }

    /// Closes the innermost block.
    pub(crate) fn close(&mut self) -> Block {
        Block { stmts: self.open.pop().unwrap_or_default() }
    }

    /// How many blocks are open.
    pub(crate) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Closes blocks down to a depth, when a construct was left by a Rust jump.
    pub(crate) fn unwind(&mut self, depth: usize, construct: &'static str) {
        self.open.truncate(depth.max(1));
        self.fail(BuildFault::Left { construct });
    }

    /// A constant as a value, for places that need a register.
    pub(crate) fn emit(&mut self, form: Form, types: &[Ty], args: Vec<Arg>) -> Vec<Operand> {
        let max = self.bound(form, &args);
        let results: Vec<ValueId> = types.iter().map(|ty| self.function.value(*ty, None, max)).collect();
        let operands = results.iter().map(|id| Operand::Value(*id)).collect();
        self.push(Stmt::Inst(Inst { form, results, args }));
        operands
    }

    /// Adds a pointer parameter and gives its address in the global space.
    pub(crate) fn param(&mut self, name: &str, elem: Ty, access: Access) -> Operand {
        let index = self.function.params.len() as u32;
        self.function.params.push(name.to_owned());
        self.params.push(ParamInfo { name: name.to_owned(), elem, access });
        let load = Form::new(Op::Ld, &[Mod::Param], Types::one(Ty::U64));
        let generic = self.emit(load, &[Ty::U64], vec![Arg::Mem(ir::MemBase::Param(index), 0)]);
        let cvta = Form::new(Op::Cvta, &[Mod::To, Mod::Global], Types::one(Ty::U64));
        let args = generic.into_iter().map(Arg::One).collect();
        let global = self.emit(cvta, &[Ty::U64], args).first().copied().unwrap_or(ZERO);
        if let Operand::Value(id) = global {
            self.name(id, name);
        }
        global
    }

    /// Adds a shared variable of `bytes` bytes, aligned for the widest access.
    pub(crate) fn shared(&mut self, bytes: u64) -> u32 {
        let index = self.function.shared.len() as u32;
        if bytes == 0 || bytes > MAX_SHARED_BYTES {
            self.fail(BuildFault::Shared { found: bytes, limit: MAX_SHARED_BYTES });
        }
        let bytes = bytes.clamp(1, MAX_SHARED_BYTES) as u32;
        let (name, align) = (format!("shared_{index}"), SHARED_ALIGN);
        self.function.shared.push(ptx::SharedDecl { name, align, bytes, storage: ptx::Storage::Static });
        index
    }

    /// Names a shared variable, once, unless another one has the name.
    pub(crate) fn name_shared(&mut self, index: u32, name: &str) {
        let name = name.trim_start_matches('_');
        let taken = self.function.shared.iter().any(|s| s.name == name)
            || self.function.params.iter().any(|p| p == name);
        if let Some(decl) = self.function.shared.get_mut(index as usize)
            && decl.name == format!("shared_{index}")
            && !name.is_empty()
            && !taken
        {
            name.clone_into(&mut decl.name);
        }
    }

    /// Names a value after a variable; the first name stays.
    pub(crate) fn name(&mut self, id: ValueId, name: &str) {
        let name = name.trim_start_matches('_');
        if let Some(info) = self.function.values.get_mut(id.0 as usize)
            && info.name.is_none()
            && !name.is_empty()
        {
            info.name = Some(name.to_owned());
        }
    }

    /// An upper bound of what an instruction gives, as an unsigned 32-bit integer.
    fn bound(&self, form: Form, args: &[Arg]) -> u64 {
        let of = |i: usize| match args.get(i) {
            Some(Arg::One(o)) => self.function.max_of(*o),
            _ => u64::MAX,
        };
        let fits = |v: Option<u64>| v.filter(|v| *v <= u64::from(u32::MAX)).unwrap_or(u64::MAX);
        let wide = form.ty().is_none_or(|ty| ty.bytes() != 4);
        match form.op {
            Op::Mov => match args.first() {
                Some(Arg::Special(special)) => self.special_bound(*special),
                _ => of(0),
            },
            Op::Ld => match form.ty() {
                Some(Ty::U8) => 0xff,
                Some(Ty::U16) => 0xffff,
                _ => u64::MAX,
            },
            _ if wide => u64::MAX,
            Op::AddInt => fits(of(0).checked_add(of(1))),
            Op::MulInt if form.mods.has(Mod::Lo) => fits(of(0).checked_mul(of(1))),
            Op::MadInt if form.mods.has(Mod::Lo) => {
                fits(of(0).checked_mul(of(1)).and_then(|p| p.checked_add(of(2))))
            }
            Op::And => of(0).min(of(1)),
            Op::Shr if form.ty() != Some(Ty::S32) => match args.get(1) {
                Some(Arg::One(Operand::Imm(Imm(n)))) if *n < 32 => of(0).min(u64::from(u32::MAX)) >> n,
                _ => of(0),
            },
            Op::Shl => match args.get(1) {
                Some(Arg::One(Operand::Imm(Imm(n)))) if *n < 32 => fits(of(0).checked_mul(1 << n)),
                _ => u64::MAX,
            },
            Op::DivInt if form.ty() == Some(Ty::U32) => match args.get(1) {
                Some(Arg::One(Operand::Imm(Imm(n)))) if *n > 0 => of(0).min(u64::from(u32::MAX)) / n,
                _ => of(0),
            },
            Op::RemInt if form.ty() == Some(Ty::U32) => match args.get(1) {
                Some(Arg::One(Operand::Imm(Imm(n)))) if *n > 0 => n - 1,
                _ => u64::MAX,
            },
            Op::MinInt if form.ty() == Some(Ty::U32) => of(0).min(of(1)),
            Op::MaxInt if form.ty() == Some(Ty::U32) => of(0).max(of(1)),
            Op::Selp => of(0).max(of(1)),
            _ => u64::MAX,
        }
    }

    fn special_bound(&self, special: Special) -> u64 {
        let last = |n: u32| u64::from(n.saturating_sub(1));
        match special {
            Special::TidX => last(self.block[0]),
            Special::TidY => last(self.block[1]),
            Special::TidZ => last(self.block[2]),
            Special::CtaidX => last(self.grid[0]),
            Special::CtaidY => last(self.grid[1]),
            Special::CtaidZ => last(self.grid[2]),
            Special::LaneId => 31,
            _ => u64::MAX,
        }
    }

    /// Threads of a CTA.
    pub(crate) fn block(&self) -> [u32; 3] {
        self.block
    }

    /// CTAs.
    pub(crate) fn grid(&self) -> [u32; 3] {
        self.grid
    }
}

/// What handles hold outside a kernel.
pub(crate) const ZERO: Operand = Operand::Imm(Imm(0));

/// Records an instruction with one result.
pub(crate) fn emit1(form: Form, ty: Ty, args: Vec<Arg>) -> Operand {
    with(|r| r.emit(form, &[ty], args).first().copied()).flatten().unwrap_or(ZERO)
}

/// Records an instruction with `n` results of a type.
pub(crate) fn emit_n<const N: usize>(form: Form, ty: Ty, args: Vec<Arg>) -> [Operand; N] {
    let results = with(|r| r.emit(form, &[ty; N], args)).unwrap_or_default();
    std::array::from_fn(|i| results.get(i).copied().unwrap_or(ZERO))
}

/// Records an instruction without results.
pub(crate) fn emit0(form: Form, args: Vec<Arg>) {
    with(|r| r.emit(form, &[], args));
}

/// Puts a comment into the PTX text.
pub fn note(text: &str) {
    with(|r| r.push(Stmt::Note(text.to_owned())));
}

/// Refuses to build the kernel: for parameters that it cannot serve.
pub fn refuse(why: impl Into<String>) {
    with(|r| r.fail(BuildFault::Refused(why.into())));
}
