//! The control-flow graph of an entry: basic blocks, successors, and immediate post-dominators, which are the points
//! where diverged lanes meet again.

use crate::inst::{Inst, Operand};
use crate::module::{Entry, Stmt};
use crate::table::Op;

/// Statements `start..end` of a body: entered only at the start, left only at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Index of the first statement.
    pub start: usize,
    /// Index past the last.
    pub end: usize,
    /// Blocks that control may pass to, the branch target first, then the next block.
    pub successors: Vec<usize>,
    /// Whether the thread may end here: by `ret` or `trap`, guarded or not, or by running off the body.
    pub exits: bool,
}

/// The graph. Block 0 is the entry; blocks stand in the order of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cfg {
    blocks: Vec<Block>,
    post_dominators: Vec<Option<usize>>,
    label_blocks: Vec<Option<usize>>,
}

impl Cfg {
    /// The graph of a body. A branch to a label that is not defined has no successor there; the verifier rejects it.
    pub fn new(entry: &Entry) -> Cfg {
        let mut blocks = split(&entry.body);
        let mut label_blocks = vec![None; entry.labels.len()];
        for (b, block) in blocks.iter().enumerate() {
            for stmt in &entry.body[block.start..block.end] {
                if let Stmt::Label(label) = stmt
                    && let Some(slot) = label_blocks.get_mut(label.0 as usize)
                {
                    *slot = Some(b);
                }
            }
        }
        let n = blocks.len();
        for (b, block) in blocks.iter_mut().enumerate() {
            let last = entry.body[block.start..block.end].iter().rev().find_map(instruction);
            link(block, last, (b + 1 < n).then_some(b + 1), &label_blocks);
        }
        let post_dominators = post_dominators(&blocks);
        Cfg { blocks, post_dominators, label_blocks }
    }

    /// The blocks, in the order of the body.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The block that a label stands in, by the label's index; `None` when it is not defined.
    pub fn block_of_label(&self, label: u32) -> Option<usize> {
        self.label_blocks.get(label as usize).copied().flatten()
    }

    /// The nearest block that every path from `block` to the end passes. `None` when paths meet only at the end, or
    /// none reaches it.
    pub fn immediate_post_dominator(&self, block: usize) -> Option<usize> {
        self.post_dominators.get(block).copied().flatten()
    }
}

fn instruction(stmt: &Stmt) -> Option<&Inst> {
    if let Stmt::Inst(inst) = stmt { Some(inst) } else { None }
}

fn is_control(stmt: &Stmt) -> bool {
    instruction(stmt).is_some_and(|inst| matches!(inst.form.op, Op::Bra | Op::Ret | Op::Trap))
}

/// Cuts a body before labels and after control instructions.
fn split(body: &[Stmt]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut start = 0;
    for (i, stmt) in body.iter().enumerate() {
        let starts_here = matches!(stmt, Stmt::Label(_)) || i > 0 && is_control(&body[i - 1]);
        if starts_here && i > start {
            blocks.push(Block { start, end: i, successors: Vec::new(), exits: false });
            start = i;
        }
    }
    if start < body.len() {
        blocks.push(Block { start, end: body.len(), successors: Vec::new(), exits: false });
    }
    blocks
}

fn link(block: &mut Block, last: Option<&Inst>, next: Option<usize>, label_blocks: &[Option<usize>]) {
    let mut falls_through = true;
    if let Some(inst) = last {
        match inst.form.op {
            Op::Bra => {
                if let Some(Operand::Label(label)) = inst.operands.first() {
                    block.successors.extend(label_blocks.get(label.0 as usize).copied().flatten());
                }
                falls_through = inst.guard.is_some();
            }
            Op::Ret | Op::Trap => {
                block.exits = true;
                falls_through = inst.guard.is_some();
            }
            _ => {}
        }
    }
    if falls_through {
        match next {
            Some(next) if !block.successors.contains(&next) => block.successors.push(next),
            Some(_) => {}
            None => block.exits = true,
        }
    }
}

/// Immediate post-dominators by the iteration of Cooper, Harvey and Kennedy ("A Simple, Fast Dominance Algorithm")
/// on the reversed graph, whose root is a virtual exit after the last block.
fn post_dominators(blocks: &[Block]) -> Vec<Option<usize>> {
    let exit = blocks.len();
    let successors = |b: usize| {
        let end = blocks[b].exits.then_some(exit);
        blocks[b].successors.iter().copied().chain(end)
    };
    let mut predecessors = vec![Vec::new(); exit + 1];
    for b in 0..exit {
        for s in successors(b) {
            predecessors[s].push(b);
        }
    }
    let order = postorder(&predecessors, exit);
    let mut rank = vec![0; exit + 1];
    for (i, b) in order.iter().enumerate() {
        rank[*b] = i;
    }
    let mut idom: Vec<Option<usize>> = vec![None; exit + 1];
    idom[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().filter(|b| **b != exit) {
            let mut meet: Option<usize> = None;
            for s in successors(b).filter(|s| idom[*s].is_some()) {
                meet = Some(meet.map_or(s, |m| intersect(&idom, &rank, m, s)));
            }
            if idom[b] != meet {
                idom[b] = meet;
                changed = true;
            }
        }
    }
    idom.truncate(exit);
    idom.into_iter().map(|d| d.filter(|d| *d != exit)).collect()
}

fn intersect(idom: &[Option<usize>], rank: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        // The chain of a ranked node ends in the root, which has the highest rank, so both walks meet.
        if rank[a] < rank[b] {
            a = idom[a].unwrap_or(b);
        } else {
            b = idom[b].unwrap_or(a);
        }
    }
    a
}

fn postorder(edges: &[Vec<usize>], root: usize) -> Vec<usize> {
    let mut order = Vec::new();
    let mut seen = vec![false; edges.len()];
    seen[root] = true;
    let mut stack = vec![(root, 0)];
    while let Some((node, next)) = stack.pop() {
        match edges[node].get(next) {
            Some(&child) => {
                stack.push((node, next + 1));
                if !seen[child] {
                    seen[child] = true;
                    stack.push((child, 0));
                }
            }
            None => order.push(node),
        }
    }
    order
}
