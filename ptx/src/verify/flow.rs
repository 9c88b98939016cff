//! Control flow: branch targets, ends of paths, and definite assignment.

use std::collections::VecDeque;

use super::at_statement;
use super::fault::{Fault, VerifyError};
use crate::cfg::Cfg;
use crate::inst::{Inst, Operand};
use crate::module::{Entry, Reg, Stmt};
use crate::print::print_reg;

pub(super) fn check(entry: &Entry) -> Result<(), VerifyError> {
    check_labels(entry)?;
    check_ends(entry)?;
    Assignment::new(entry).check()
}

/// A label is defined at most once, and exactly once if an instruction goes there.
fn check_labels(entry: &Entry) -> Result<(), VerifyError> {
    let mut definitions = vec![0usize; entry.labels.len()];
    for stmt in &entry.body {
        if let Stmt::Label(label) = stmt {
            let count = &mut definitions[label.0 as usize];
            *count += 1;
            if *count > 1 {
                let name = entry.labels[label.0 as usize].clone();
                let fault = Fault::LabelDefinitions { name, found: *count };
                return Err(at_statement(entry, stmt, fault));
            }
        }
    }
    for stmt in &entry.body {
        let Stmt::Inst(inst) = stmt else { continue };
        for operand in &inst.operands {
            if let Operand::Label(label) = operand
                && definitions[label.0 as usize] == 0
            {
                let name = entry.labels[label.0 as usize].clone();
                return Err(at_statement(entry, stmt, Fault::LabelDefinitions { name, found: 0 }));
            }
        }
    }
    Ok(())
}

/// The last statement (comments aside) ends its path, so control cannot run off the body.
fn check_ends(entry: &Entry) -> Result<(), VerifyError> {
    let last = entry.body.iter().rev().find(|stmt| !matches!(stmt, Stmt::Comment(_)));
    match last {
        None => Err(VerifyError::Entry { entry: entry.name.clone(), fault: Box::new(Fault::EmptyBody) }),
        Some(Stmt::Inst(inst)) if inst.ends_block() => Ok(()),
        Some(stmt) => Err(at_statement(entry, stmt, Fault::OpenEnd)),
    }
}

/// A set of the entry's registers.
#[derive(Clone, PartialEq, Eq)]
struct RegSet(Vec<u64>);

impl RegSet {
    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }

    fn add(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }

    /// Keeps what is in both; whether anything went.
    fn keep(&mut self, other: &RegSet) -> bool {
        let mut changed = false;
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            changed |= *mine & !theirs != 0;
            *mine &= theirs;
        }
        changed
    }
}

/// Definite assignment: forward over the graph, what is written on every path to a block's start. A write under a
/// guard does not count, because some thread may skip it.
struct Assignment<'a> {
    entry: &'a Entry,
    cfg: Cfg,
    /// First register number of each bank.
    offsets: Vec<usize>,
    total: usize,
}

impl<'a> Assignment<'a> {
    fn new(entry: &'a Entry) -> Assignment<'a> {
        let mut total = 0;
        let mut offsets = Vec::with_capacity(entry.banks.len());
        for bank in &entry.banks {
            offsets.push(total);
            total += bank.count as usize;
        }
        Assignment { entry, cfg: Cfg::new(entry), offsets, total }
    }

    fn number(&self, reg: Reg) -> usize {
        self.offsets[reg.bank as usize] + reg.index as usize
    }

    fn insts(&self, block: usize) -> impl Iterator<Item = (&'a Stmt, &'a Inst)> {
        let block = &self.cfg.blocks()[block];
        self.entry.body[block.start..block.end]
            .iter()
            .filter_map(|stmt| if let Stmt::Inst(inst) = stmt { Some((stmt, inst)) } else { None })
    }

    fn write(&self, inst: &Inst, set: &mut RegSet) {
        if inst.guard.is_none() {
            inst.written().into_iter().for_each(|reg| set.add(self.number(reg)));
        }
    }

    /// The registers written on every path to each block; all of them for a block that no path reaches.
    fn solve(&self) -> Vec<RegSet> {
        let words = self.total.div_ceil(64);
        let mut starts = vec![RegSet(vec![u64::MAX; words]); self.cfg.blocks().len()];
        starts[0] = RegSet(vec![0; words]);
        let mut work = VecDeque::from([0]);
        let mut visited = vec![false; starts.len()];
        while let Some(block) = work.pop_front() {
            visited[block] = true;
            let mut set = starts[block].clone();
            self.insts(block).for_each(|(_, inst)| self.write(inst, &mut set));
            for &next in &self.cfg.blocks()[block].successors {
                let changed = starts[next].keep(&set);
                if (changed || !visited[next]) && !work.contains(&next) {
                    work.push_back(next);
                }
            }
        }
        starts
    }

    fn check(&self) -> Result<(), VerifyError> {
        for (block, mut set) in self.solve().into_iter().enumerate() {
            for (stmt, inst) in self.insts(block) {
                if let Some(reg) = inst.read().into_iter().find(|reg| !set.has(self.number(*reg))) {
                    let path = self.path_without(reg, block);
                    let fault = Fault::Unassigned { reg: print_reg(self.entry, reg), path };
                    return Err(at_statement(self.entry, stmt, fault));
                }
                self.write(inst, &mut set);
            }
        }
        Ok(())
    }

    /// The shortest path to `block` on which nothing surely writes `reg`, as the labels it passes.
    fn path_without(&self, reg: Reg, block: usize) -> String {
        let writes =
            |b: usize| self.insts(b).any(|(_, inst)| inst.guard.is_none() && inst.written().contains(&reg));
        let mut from = vec![None; self.cfg.blocks().len()];
        let mut work = VecDeque::from([0]);
        while let Some(b) = work.pop_front() {
            if b == block {
                break;
            }
            if writes(b) {
                continue;
            }
            for &next in &self.cfg.blocks()[b].successors {
                if next != 0 && from[next].is_none() {
                    from[next] = Some(b);
                    work.push_back(next);
                }
            }
        }
        let mut names = vec![self.block_name(block)];
        let mut at = block;
        while let Some(before) = from[at] {
            names.push(self.block_name(before));
            at = before;
        }
        names.reverse();
        names.dedup();
        names.join(" → ")
    }

    /// The label a block starts with, or that of the nearest block before it.
    fn block_name(&self, block: usize) -> String {
        let before = &self.entry.body[..=self.cfg.blocks()[block].start];
        let label = before.iter().rev().find_map(|stmt| match stmt {
            Stmt::Label(label) => self.entry.labels.get(label.0 as usize),
            _ => None,
        });
        label.map_or_else(|| "the start".to_owned(), |name| format!("${name}"))
    }
}
