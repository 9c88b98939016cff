//! Fewer rows for registers: those that are never alive together share one.
//!
//! Kernels name every value once, so that a warp of a few hundred instructions has more registers than the first cache of the
//! host holds, and every write is a miss. Few values are alive at a time.
//!
//! What one thread may read later decides, branches and loops included. It decides for a warp too: a lane that waits on another
//! path keeps what it has, because nobody writes lanes that do not execute.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::code::{Code, File, Kind};
use crate::full;
use crate::operands::{Use, visit};

/// A register read or written by a slot; `W` first, then `Q`.
#[derive(Clone, Copy)]
struct Touch {
    slot: usize,
    register: usize,
    how: Use,
}

/// The slots between which a register is alive, doubled: a slot reads at its even place and writes at the odd one.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    last: usize,
}

/// Slots without a branch in between, and what is alive before and after.
struct Block {
    start: usize,
    end: usize,
    successors: Vec<usize>,
    before: Vec<u64>,
    after: Vec<u64>,
}

/// Gives registers of `code` new indices. Those of constants start at `w_regs` and `q_regs`, and are moved along.
pub(crate) fn compact(code: &mut Code) {
    let (w_regs, q_regs) = (code.w_regs, code.q_regs);
    let touches = touches(code);
    let spans = spans(code, &touches, w_regs + q_regs);
    let (w_new, w_count) = rows(&spans[..w_regs]);
    let (q_new, q_count) = rows(&spans[w_regs..]);
    for at in 0..code.slots.len() {
        visit(code, at, &mut |file: File, index: &mut u16, _: Use| {
            let (new, count) = match file {
                File::W => (&w_new, w_count),
                File::Q => (&q_new, q_count),
                File::P => return,
            };
            let old = usize::from(*index);
            *index = new.get(old).copied().unwrap_or_else(|| old - new.len() + count) as u16;
        });
    }
    for (reg, _) in &mut code.w_consts {
        *reg = (usize::from(*reg) - w_regs + w_count) as u16;
    }
    for (reg, _) in &mut code.q_consts {
        *reg = (usize::from(*reg) - q_regs + q_count) as u16;
    }
    (code.w_regs, code.q_regs) = (w_count, q_count);
}

/// Every use of a register that is no constant, in order of slots.
fn touches(code: &mut Code) -> Vec<Touch> {
    let (w_regs, q_regs) = (code.w_regs, code.q_regs);
    let mut touches = Vec::new();
    for slot in 0..code.slots.len() {
        visit(code, slot, &mut |file: File, index: &mut u16, how: Use| {
            let index = usize::from(*index);
            match file {
                File::W if index < w_regs => touches.push(Touch { slot, register: index, how }),
                File::Q if index < q_regs => touches.push(Touch { slot, register: w_regs + index, how }),
                _ => {}
            }
        });
    }
    touches
}

/// When each register is alive.
fn spans(code: &Code, touches: &[Touch], registers: usize) -> Vec<Option<Span>> {
    let mut blocks = blocks(code, registers);
    let of = |block: &Block| {
        let range = |slot: usize| touches.partition_point(|touch| touch.slot < slot);
        &touches[range(block.start)..range(block.end)]
    };
    while flow(code, &mut blocks, &of) {}
    let mut spans = vec![None; registers];
    let mut cover = |register: usize, at: usize| {
        let span: &mut Option<Span> = &mut spans[register];
        let old = span.unwrap_or(Span { first: at, last: at });
        *span = Some(Span { first: old.first.min(at), last: old.last.max(at) });
    };
    for block in &blocks {
        for register in 0..registers {
            if has(&block.before, register) {
                cover(register, 2 * block.start);
            }
            if has(&block.after, register) {
                cover(register, 2 * block.end);
            }
        }
        for touch in of(block) {
            // A lane operation reads all before it writes. Of others that is not asked: their results share no row with
            // what they read.
            let kind = code.slots[touch.slot].kind;
            let reads_first = matches!(kind, Kind::Fused | Kind::DotChain) || full::lane_op(kind).is_some();
            let late = touch.how == Use::Write && reads_first;
            cover(touch.register, 2 * touch.slot + usize::from(late));
        }
    }
    spans
}

fn has(set: &[u64], register: usize) -> bool {
    set[register / 64] >> (register % 64) & 1 == 1
}

/// The basic blocks of decoded slots, nothing alive yet.
fn blocks(code: &Code, registers: usize) -> Vec<Block> {
    let slots = &code.slots;
    let ends = |kind| matches!(kind, Kind::Bra | Kind::BraIf | Kind::BraIfUni | Kind::Ret | Kind::Trap);
    let branches = |kind| matches!(kind, Kind::Bra | Kind::BraIf | Kind::BraIfUni);
    let mut starts = vec![0];
    for (i, slot) in slots.iter().enumerate() {
        if ends(slot.kind) {
            starts.push(i + 1);
        }
        if branches(slot.kind) {
            starts.push(slot.x as usize);
        }
    }
    starts.retain(|start| *start < slots.len());
    starts.sort_unstable();
    starts.dedup();
    let none = vec![0; registers.div_ceil(64)];
    let block = |(i, start): (usize, &usize)| {
        let end = starts.get(i + 1).copied().unwrap_or(slots.len());
        let last = &slots[end - 1];
        let mut successors = Vec::new();
        if branches(last.kind)
            && let Ok(target) = starts.binary_search(&(last.x as usize))
        {
            successors.push(target);
        }
        let stops = matches!(last.kind, Kind::Bra | Kind::Ret | Kind::Trap) && last.guard == 0;
        if !stops && i + 1 < starts.len() {
            successors.push(i + 1);
        }
        Block { start: *start, end, successors, before: none.clone(), after: none.clone() }
    };
    starts.iter().enumerate().map(block).collect()
}

/// One pass of liveness, backwards; whether anything changed.
fn flow<'t>(code: &Code, blocks: &mut [Block], of: &impl Fn(&Block) -> &'t [Touch]) -> bool {
    let mut changed = false;
    for i in (0..blocks.len()).rev() {
        let mut alive = blocks[i].after.clone();
        for successor in blocks[i].successors.clone() {
            for (alive, before) in alive.iter_mut().zip(&blocks[successor].before) {
                *alive |= before;
            }
        }
        let after = alive.clone();
        // Backwards, a slot's writes come before its reads.
        for touch in of(&blocks[i]).iter().rev() {
            let (word, bit) = (touch.register / 64, 1 << (touch.register % 64));
            match touch.how {
                // Under a guard the old value may stay.
                Use::Write if code.slots[touch.slot].guard == 0 => alive[word] &= !bit,
                _ => alive[word] |= bit,
            }
        }
        changed |= alive != blocks[i].before;
        (blocks[i].before, blocks[i].after) = (alive, after);
    }
    changed
}

/// A row for each register, and how many rows that takes: the row freed last is taken first, since it is still near.
fn rows(spans: &[Option<Span>]) -> (Vec<usize>, usize) {
    let mut order: Vec<(usize, usize, usize)> = spans
        .iter()
        .enumerate()
        .filter_map(|(register, span)| span.map(|span| (span.first, span.last, register)))
        .collect();
    order.sort_unstable();
    let mut new = vec![0; spans.len()];
    let (mut free, mut count) = (Vec::new(), 0);
    let mut busy: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
    for (first, last, register) in order {
        while let Some(Reverse((end, row))) = busy.peek().copied() {
            if end >= first {
                break;
            }
            busy.pop();
            free.push(row);
        }
        let row = free.pop().unwrap_or_else(|| {
            count += 1;
            count - 1
        });
        new[register] = row;
        busy.push(Reverse((last, row)));
    }
    (new, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Slot;

    fn add(d: u16, a: u16, b: u16) -> Slot {
        Slot { d, a, b, ..Slot::new(Kind::AddW) }
    }

    fn compacted(slots: Vec<Slot>, w_regs: usize) -> Code {
        let mut code = Code { slots, w_regs, ..Code::default() };
        compact(&mut code);
        code
    }

    #[test]
    fn a_chain_takes_one_row_and_constants_come_behind() {
        // Register 100 is the first constant.
        let mut slots = vec![add(0, 100, 101)];
        slots.extend((1..100).map(|d| add(d, d - 1, 101)));
        let code = compacted(slots, 100);
        assert_eq!(code.w_regs, 1);
        assert_eq!((code.slots[0].a, code.slots[0].b), (1, 2));
        assert!(code.slots[1..].iter().all(|slot| (slot.d, slot.a, slot.b) == (0, 0, 2)));
    }

    #[test]
    fn what_a_loop_reads_again_keeps_its_row() {
        // 0 is read in the loop of slots 2 to 4; 1 and 2 only live from one slot to the next.
        let back = Slot { x: 2, guard: 1, ..Slot::new(Kind::BraIf) };
        let slots = vec![add(0, 3, 3), add(1, 3, 3), add(1, 0, 1), add(2, 1, 1), back, add(2, 3, 3)];
        let code = compacted(slots, 3);
        let kept = code.slots[0].d;
        assert!(code.slots[1..].iter().all(|slot| slot.kind == Kind::BraIf || slot.d != kept));
        assert_eq!(code.slots[2].a, kept);
    }

    #[test]
    fn a_write_under_a_guard_leaves_the_old_value_alive() {
        // 1 is made while 0 may still be what slot 3 reads.
        let guarded = Slot { guard: 1, ..add(0, 1, 1) };
        let slots = vec![add(0, 2, 2), add(1, 2, 2), guarded, add(1, 0, 0)];
        let code = compacted(slots, 2);
        assert_ne!(code.slots[0].d, code.slots[1].d);
        assert_eq!(code.slots[0].d, code.slots[2].d);
        assert_eq!(code.slots[3].a, code.slots[2].d);
    }

    #[test]
    fn results_of_loads_share_no_row_with_the_address() {
        let access = crate::code::Access {
            base: 0,
            offset: 0,
            vector: 2,
            size: 4,
            signed: false,
            strong: false,
            regs: [1, 2, 0, 0],
            file: File::W,
            reg_bits: 32,
        };
        let slots = vec![add(0, 3, 3), Slot::new(Kind::LdShared), add(0, 1, 2)];
        let mut code = Code { slots, w_regs: 3, accesses: vec![access], ..Code::default() };
        compact(&mut code);
        let op = &code.accesses[0];
        assert!(op.base != op.regs[0] && op.base != op.regs[1] && op.regs[0] != op.regs[1]);
    }
}
