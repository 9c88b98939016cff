//! One warp: registers, the stack of paths waiting to meet again, and the loop that executes slots.
//!
//! Lanes that take different sides of a branch run one side after the other and meet at the branch's immediate
//! post-dominator. A lane that exits leaves every mask; nobody waits for it.

use ptx::sem;

use crate::code::{Code, File, Kind, NOWHERE, Place, Slot};
use crate::full::{self, Full};
use crate::lanes::{self, ALL, LANES, each, map3, restore, restore_wide, write};
use crate::memory::Globals;
use crate::poll::Polls;
use crate::race::When;
use crate::repeat::Grids;
use crate::rows::Rows;
use crate::shared::Shared;
use crate::trap::{Fault, TrapKind};

/// What the warps of a CTA share while they run.
pub(crate) struct Context<'a> {
    pub code: &'a Code,
    pub globals: &'a Globals,
    pub shared: &'a Shared,
    pub args: &'a [u64],
    pub cta: [u32; 3],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// `bar.sync`s that the CTA completed.
    pub epoch: u32,
    /// What a warp does that polls memory in vain.
    pub patience: Patience,
}

/// What a warp does that reads an unchanged value again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It gives way at once.
    Yield,
    /// It uses up its slice: it may count its tries.
    Insist,
}

/// Why a warp stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// All of its lanes exited.
    Exit,
    /// It waits at a barrier.
    Barrier(u32),
    /// It used up its steps.
    Slice,
    /// It tried a phase of the mbarrier at that address which is not over, and will likely try again.
    Retry(u32),
    /// It polls global memory, and nothing that it reads has changed since it read it last.
    Spin,
}

impl Pause {
    /// Whether the warp has something to do in its next turn.
    pub fn may_go_on(self) -> bool {
        matches!(self, Pause::Slice | Pause::Retry(_) | Pause::Spin)
    }
}

/// A path that waits: lanes, where they continue, and where they meet others.
#[derive(Clone, Copy, Debug)]
struct Frame {
    pc: u32,
    mask: u32,
    meet: u32,
}

/// State of a warp.
pub(crate) struct Warp {
    pub w: Rows<u32>,
    pub q: Rows<u64>,
    pub p: Vec<u32>,
    /// What loads found out about the addresses in `q` and `w`.
    pub grids: Grids,
    /// Index in the CTA.
    pub index: u32,
    /// Thread index of each lane: x, y, z.
    pub tid: [[u32; LANES]; 3],
    /// Lanes that exist.
    lanes: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// Lanes on the current path.
    pub mask: u32,
    /// Where the current path meets the ones that wait.
    meet: u32,
    stack: Vec<Frame>,
    /// Next slot.
    pc: usize,
    /// Slots executed.
    pub steps: u64,
    /// Barriers of either kind passed.
    pub epoch: u32,
    /// Strong accesses and atomics since the last pause: a warp that spins shows them.
    pub polls: u32,
    /// What its strong loads of global memory found last.
    pub seen: Polls,
    /// Stores to global memory and atomics that changed it.
    pub writes: u64,
    /// Arrivals at mbarriers.
    pub arrivals: u32,
}

impl Warp {
    /// The warp `index` of a block, with constants in place.
    pub fn new(code: &Code, index: u32, block: [u32; 3]) -> Warp {
        let mut w = Rows::new(code.w_regs);
        let mut q = Rows::new(code.q_regs);
        let mut p = vec![0; code.p_regs];
        for (reg, value) in &code.w_consts {
            w[usize::from(*reg)] = [*value; LANES];
        }
        for (reg, value) in &code.q_consts {
            q[usize::from(*reg)] = [*value; LANES];
        }
        for (reg, value) in &code.p_consts {
            p[usize::from(*reg)] = *value;
        }
        let threads = block[0] * block[1] * block[2];
        let mut tid = [[0; LANES]; 3];
        let mut lanes = 0;
        for lane in 0..LANES as u32 {
            let t = index * LANES as u32 + lane;
            if t < threads {
                lanes |= 1 << lane;
                tid[0][lane as usize] = t % block[0];
                tid[1][lane as usize] = t / block[0] % block[1];
                tid[2][lane as usize] = t / block[0] / block[1];
            }
        }
        let mut warp = Warp {
            w,
            q,
            p,
            grids: Grids::new(code.q_regs, code.w_regs),
            index,
            tid,
            lanes,
            live: 0,
            mask: 0,
            meet: NOWHERE,
            stack: Vec::new(),
            pc: 0,
            steps: 0,
            epoch: 0,
            polls: 0,
            seen: Polls::default(),
            writes: 0,
            arrivals: 0,
        };
        warp.reset();
        warp
    }

    /// Ready for the next CTA. Registers keep their values; the verifier proved that none is read before written.
    pub fn reset(&mut self) {
        self.live = self.lanes;
        self.mask = self.lanes;
        self.meet = NOWHERE;
        self.stack.clear();
        self.pc = 0;
        self.steps = 0;
        self.epoch = 0;
        self.polls = 0;
        self.seen.clear();
        self.writes = 0;
        self.arrivals = 0;
    }

    /// The slot that was executed last.
    pub fn last_slot(&self) -> usize {
        self.pc.saturating_sub(1)
    }

    /// The stamp of a lane for the race check.
    pub fn when(&self, lane: usize, cx: &Context<'_>) -> When {
        let thread = self.index * LANES as u32 + lane as u32;
        When { thread, cta_epoch: cx.epoch, warp_epoch: self.epoch, arrivals: self.arrivals }
    }

    /// Lanes of the current path on which the guard of a slot holds.
    #[inline(always)]
    fn guarded(&self, guard: u16) -> u32 {
        if guard == 0 {
            return self.mask;
        }
        let code = guard - 1;
        let held = self.p[usize::from(code >> 1)];
        self.mask & if code & 1 == 1 { !held } else { held }
    }

    /// Continues with the path that waits on top of the stack; false if there is none.
    fn resume(&mut self) -> bool {
        while let Some(frame) = self.stack.pop() {
            let mask = frame.mask & self.live;
            if mask != 0 {
                (self.pc, self.mask, self.meet) = (frame.pc as usize, mask, frame.meet);
                return true;
            }
        }
        false
    }

    /// Ends lanes; false if none is left in the warp.
    fn exit(&mut self, lanes: u32) -> bool {
        self.live &= !lanes;
        self.mask &= !lanes;
        self.mask != 0 || self.resume()
    }

    /// A branch that only the lanes of `taken` take, some of the current path but not all.
    fn diverge(&mut self, slot: &Slot, taken: u32) {
        let next = self.pc as u32;
        let stay = self.mask & !taken;
        let meet = match u32::from(slot.a) | u32::from(slot.b) << 16 {
            // Paths that never meet inside the region of an outer branch end there: they keep its meeting point.
            NOWHERE => self.meet,
            meet => meet,
        };
        if meet != self.meet {
            self.stack.push(Frame { pc: meet, mask: self.mask, meet: self.meet });
        }
        self.meet = meet;
        if slot.x == meet {
            self.mask = stay;
        } else {
            if next != meet {
                self.stack.push(Frame { pc: next, mask: stay, meet });
            }
            (self.pc, self.mask) = (slot.x as usize, taken);
        }
    }

    /// Runs until the warp exits, waits, or has executed about `budget` slots.
    ///
    /// # Errors
    /// The fault, whose slot is [`Warp::last_slot`].
    pub fn run(&mut self, cx: &Context<'_>, budget: u64) -> Result<Pause, Box<Fault>> {
        let slots = cx.code.slots.as_slice();
        let end = self.steps + budget;
        // In registers of the host; the fields have them whenever anything else looks.
        let (mut pc, mut steps) = (self.pc, self.steps);
        macro_rules! settle {
            () => {
                (self.pc, self.steps) = (pc, steps)
            };
        }
        loop {
            // A straight line. Only what the general way does changes who executes.
            if self.mask == ALL {
                let first = pc;
                while let Some(slot) = slots.get(pc) {
                    if !(slot.full)(self, slot, cx) {
                        break;
                    }
                    pc += 1;
                }
                steps += (pc - first) as u64;
            } else {
                while let Some(slot) = slots.get(pc)
                    && let Some(file) = slot.writes
                {
                    self.some_lanes(slot, self.mask, cx, (slot.full, file));
                    pc += 1;
                    steps += 1;
                }
            }
            let Some(slot) = slots.get(pc) else {
                settle!();
                return Ok(Pause::Exit);
            };
            pc += 1;
            steps += 1;
            let mask = self.guarded(slot.guard);
            if mask == 0 {
                continue;
            }
            match slot.kind {
                Kind::Bra => pc = slot.x as usize,
                Kind::BraIf if mask == self.mask => pc = slot.x as usize,
                Kind::BraIf => {
                    settle!();
                    self.diverge(slot, mask);
                    pc = self.pc;
                }
                Kind::Join => {
                    if pc as u32 == self.meet.wrapping_add(1) {
                        settle!();
                        self.resume();
                        pc = self.pc;
                    }
                    continue;
                }
                kind => {
                    settle!();
                    let several = matches!(kind, Kind::Fused | Kind::DotChain);
                    let fused = several.then_some((slot.full, File::W));
                    if let Some((op, to)) = fused.or_else(|| full::lane_op(kind)) {
                        self.some_lanes(slot, mask, cx, (op, to));
                        continue;
                    }
                    if let Some(pause) = self.execute(slot, mask, cx)? {
                        return Ok(pause);
                    }
                    pc = self.pc;
                }
            }
            if steps >= end {
                settle!();
                return Ok(Pause::Slice);
            }
        }
    }

    /// A slot that writes one register, for the lanes of `mask`: for all, and then the others get back what they had.
    #[inline(never)]
    fn some_lanes(&mut self, slot: &Slot, mask: u32, cx: &Context<'_>, (op, to): (Full, File)) {
        let d = usize::from(slot.d);
        match to {
            File::W => {
                let old = self.w[d];
                op(self, slot, cx);
                restore(&mut self.w[d], &old, mask);
            }
            File::Q => {
                let old = self.q[d];
                op(self, slot, cx);
                restore_wide(&mut self.q[d], &old, mask);
            }
            File::P => {
                let old = self.p[d];
                op(self, slot, cx);
                self.p[d] = self.p[d] & mask | old & !mask;
            }
        }
    }

    /// Everything but the hottest slots.
    #[inline(never)]
    fn execute(&mut self, slot: &Slot, mask: u32, cx: &Context<'_>) -> Result<Option<Pause>, Box<Fault>> {
        let (d, a, b, x) = (usize::from(slot.d), usize::from(slot.a), usize::from(slot.b), slot.x as usize);
        let code = cx.code;
        match slot.kind {
            Kind::Lop3 => self.lop3(slot, mask),
            Kind::SelW | Kind::SelQ => self.select(slot, mask),
            Kind::SetpU | Kind::SetpS | Kind::SetpF | Kind::SetpUQ | Kind::SetpSQ => self.setp(slot, mask),
            Kind::MovP => self.write_p(d, self.p[a], mask),
            Kind::AndP => self.write_p(d, self.p[a] & self.p[b], mask),
            Kind::OrP => self.write_p(d, self.p[a] | self.p[b], mask),
            Kind::XorP => self.write_p(d, self.p[a] ^ self.p[b], mask),
            Kind::NotP => self.write_p(d, !self.p[a], mask),
            Kind::Special => self.special(slot, mask, cx),
            Kind::LdParamW | Kind::LdParamQ => self.load_param(slot, mask, cx),
            Kind::Eval => self.eval(&code.evals[x], mask),
            Kind::LdGlobal => {
                let op = &code.accesses[x];
                self.load_global(op, mask, cx)?;
                if op.strong && self.spins(&op.into(), mask) && cx.patience == Patience::Yield {
                    return Ok(Some(Pause::Spin));
                }
            }
            Kind::LdShared => self.load_shared(&code.accesses[x], mask, cx)?,
            Kind::StGlobal => self.store_global(&code.accesses[x], mask, cx)?,
            Kind::StShared => self.store_shared(&code.accesses[x], mask, cx)?,
            Kind::AtomGlobal => {
                let op = &code.atoms[x];
                self.atom_global(op, mask, cx)?;
                if op.to.is_some() && self.spins(&op.into(), mask) && cx.patience == Patience::Yield {
                    return Ok(Some(Pause::Spin));
                }
            }
            Kind::AtomShared => self.atom_shared(&code.atoms[x], mask, cx)?,
            Kind::Shfl => self.shuffle(&code.shuffles[x], mask)?,
            Kind::VoteAny | Kind::VoteAll | Kind::VoteUni | Kind::Ballot => self.vote(slot, mask)?,
            Kind::Redux => self.redux(slot, mask)?,
            Kind::MmaInt8 => self.mma_int8(&code.mmas[x], mask)?,
            Kind::MmaHalf => self.mma_half(&code.mmas[x], mask)?,
            Kind::BarSync => {
                if mask != self.live {
                    let kind =
                        TrapKind::BarrierDivergence { barrier: slot.x, arrived: mask, live: self.live };
                    return Err(Fault::new(mask.trailing_zeros(), kind));
                }
                self.epoch += 1;
                return Ok(Some(Pause::Barrier(slot.x)));
            }
            Kind::BarWarp => {
                self.check_members(a, mask)?;
                self.epoch += 1;
            }
            Kind::MbarrierInit => self.mbarrier_init(slot, mask, cx)?,
            Kind::MbarrierArrive | Kind::MbarrierExpect => self.mbarrier_arrive(slot, mask, cx)?,
            Kind::MbarrierWait => return self.mbarrier_wait(slot, mask, cx),
            Kind::CopyBulk => self.copy_bulk(&code.copies[x], mask, cx)?,
            Kind::FenceAsync => self.fence_async(mask, cx),
            Kind::Fence => {
                std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
                self.polls += 1;
            }
            Kind::BraIfUni => {
                if mask != self.mask {
                    let kind = TrapKind::NotUniform { expected: self.mask, found: mask };
                    return Err(Fault::new(mask.trailing_zeros(), kind));
                }
                self.pc = x;
            }
            Kind::Ret => {
                let some_left = self.exit(mask);
                return Ok((!some_left).then_some(Pause::Exit));
            }
            Kind::Trap => return Err(Fault::new(mask.trailing_zeros(), TrapKind::Explicit)),
            // Lane operations and other branches are handled by `run`.
            _ => {}
        }
        Ok(None)
    }

    /// Writes the lanes of `mask` of a predicate.
    pub fn write_p(&mut self, d: usize, value: u32, mask: u32) {
        self.p[d] = self.p[d] & !mask | value & mask;
    }

    pub fn lop3(&mut self, slot: &Slot, mask: u32) {
        let [a, b, c] = [slot.a, slot.b, slot.c].map(|reg| &self.w[usize::from(reg)]);
        let out = map3(a, b, c, |a, b, c| lanes::lop3(slot.x, a, b, c));
        write(&mut self.w[usize::from(slot.d)], out, mask);
    }

    pub fn select(&mut self, slot: &Slot, mask: u32) {
        let (a, b, p) = (usize::from(slot.a), usize::from(slot.b), self.p[usize::from(slot.c)]);
        if slot.kind == Kind::SelQ {
            let mut out = self.q[b];
            write(&mut out, self.q[a], p);
            write(&mut self.q[usize::from(slot.d)], out, mask);
        } else {
            let mut out = self.w[b];
            write(&mut out, self.w[a], p);
            write(&mut self.w[usize::from(slot.d)], out, mask);
        }
    }

    fn read(&self, place: Place, lane: usize) -> u64 {
        let index = usize::from(place.index);
        let bits = match place.file {
            File::W => u64::from(self.w[index][lane]),
            File::Q => self.q[index][lane],
            File::P => u64::from(self.p[index] >> lane & 1),
        };
        bits & sem::mask(place.bits.max(1))
    }

    fn eval(&mut self, op: &crate::code::EvalOp, mask: u32) {
        let to = usize::from(op.to.index);
        let narrow = op.form.ty();
        for lane in each(mask) {
            let mut args = [0; 4];
            for (arg, place) in args.iter_mut().zip(&op.sources) {
                *arg = self.read(*place, lane);
            }
            // The decoder only makes slots of forms that `eval` defines; `tests/forms.rs` runs every one.
            let Some(value) = sem::eval(op.form, &args[..op.sources.len().min(4)]) else { continue };
            match op.to.file {
                File::P => self.write_p(to, (value as u32 & 1) << lane, 1 << lane),
                file => {
                    // A result narrower than its register is extended by its type; widening forms have none.
                    let widens = matches!(op.form.op, ptx::Op::MulWide | ptx::Op::MadWide);
                    let extended = match narrow.filter(|ty| !widens && ty.bits() < op.to.bits) {
                        Some(ty) => sem::extend(ty, value),
                        None => value,
                    } & sem::mask(op.to.bits);
                    match file {
                        File::Q => self.q[to][lane] = extended,
                        _ => self.w[to][lane] = extended as u32,
                    }
                }
            }
        }
    }

    /// Whether all 32 lanes execute a slot.
    pub fn require_all(&self, mask: u32) -> Result<(), Box<Fault>> {
        if mask == ALL {
            return Ok(());
        }
        let lane = mask.trailing_zeros();
        Err(Fault::new(lane, TrapKind::NotUniform { expected: ALL, found: mask }))
    }
}
