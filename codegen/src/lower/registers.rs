//! Which values share a register.
//!
//! A phi and its operands get one register when none of them is live where another is defined; then `acc = fma(…, acc)`
//! in a loop is one `fma` with no `mov`. Only values that take part in phis are tracked: every other value has a
//! register of its own (`ptxas` allocates physical registers, names are for readers).

use crate::ir::{Block, Function, Inst, Operand, Stmt, ValueId};

/// The classes of values that share a register.
pub struct Webs {
    /// Dense number of each value that takes part in a phi.
    number: Vec<Option<usize>>,
    values: Vec<ValueId>,
    parent: Vec<usize>,
}

impl Webs {
    /// The value that stands for all that share `id`'s register.
    pub fn root(&self, id: ValueId) -> ValueId {
        match self.number[id.0 as usize] {
            Some(n) => self.values[self.find(n)],
            None => id,
        }
    }

    fn find(&self, mut n: usize) -> usize {
        while self.parent[n] != n {
            n = self.parent[n];
        }
        n
    }
}

/// A set of dense numbers.
#[derive(Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn new(n: usize) -> Set {
        Set(vec![0; n.div_ceil(64)])
    }
    fn add(&mut self, n: usize) {
        self.0[n / 64] |= 1 << (n % 64);
    }
    fn remove(&mut self, n: usize) {
        self.0[n / 64] &= !(1 << (n % 64));
    }
    fn union(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }
    fn meets(&self, other: &Set) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| a & b != 0)
    }
    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        })
    }
}

struct Builder {
    number: Vec<Option<usize>>,
    values: Vec<ValueId>,
    interferes: Vec<Set>,
    /// Pairs that a shared register would save a move for, in order of preference.
    wishes: Vec<(usize, usize)>,
}

/// Finds the webs of a function.
pub fn webs(function: &Function) -> Webs {
    let mut builder = Builder {
        number: vec![None; function.values.len()],
        values: Vec::new(),
        interferes: Vec::new(),
        wishes: Vec::new(),
    };
    builder.collect(&function.body);
    let n = builder.values.len();
    builder.interferes = vec![Set::new(n); n];
    let mut live = Set::new(n);
    builder.block(&function.body, &mut live);

    // Rows hold what a number interferes with; the relation is symmetric.
    for a in 0..n {
        for b in builder.interferes[a].clone().iter() {
            builder.interferes[b].add(a);
        }
    }
    let mut webs = Webs { number: builder.number, values: builder.values, parent: (0..n).collect() };
    let mut members: Vec<Set> = (0..n)
        .map(|i| {
            let mut set = Set::new(n);
            set.add(i);
            set
        })
        .collect();
    for (a, b) in builder.wishes {
        let (a, b) = (webs.find(a), webs.find(b));
        let same_kind = function.info(webs.values[a]).ty == function.info(webs.values[b]).ty;
        if a == b || !same_kind || builder.interferes[a].meets(&members[b]) {
            continue;
        }
        let (moved, clash) = (members[b].clone(), builder.interferes[b].clone());
        members[a].union(&moved);
        builder.interferes[a].union(&clash);
        // Whoever interferes with a member of b interferes with the web.
        for other in clash.iter() {
            builder.interferes[other].add(a);
        }
        webs.parent[b] = a;
    }
    webs
}

impl Builder {
    fn track(&mut self, id: ValueId) -> usize {
        match self.number[id.0 as usize] {
            Some(n) => n,
            None => {
                let n = self.values.len();
                self.number[id.0 as usize] = Some(n);
                self.values.push(id);
                n
            }
        }
    }

    fn wish(&mut self, result: ValueId, operand: Operand) {
        let result = self.track(result);
        if let Operand::Value(id) = operand {
            let operand = self.track(id);
            self.wishes.push((result, operand));
        }
    }

    fn collect(&mut self, block: &Block) {
        for stmt in &block.stmts {
            match stmt {
                Stmt::Inst(_) | Stmt::Note(_) => {}
                Stmt::If(branch) => {
                    self.collect(&branch.then);
                    self.collect(&branch.otherwise);
                    for m in &branch.merges {
                        self.wish(m.result, m.then);
                        self.wish(m.result, m.otherwise);
                    }
                }
                Stmt::Loop(l) => {
                    self.collect(&l.head);
                    self.collect(&l.body);
                    l.carried.iter().for_each(|c| self.wish(c.param, c.next));
                    l.carried.iter().for_each(|c| self.wish(c.param, c.init));
                }
            }
        }
    }

    fn of(&self, operand: Operand) -> Option<usize> {
        operand.value().and_then(|id| self.number[id.0 as usize])
    }

    fn add(&self, operand: Operand, live: &mut Set) {
        if let Some(n) = self.of(operand) {
            live.add(n);
        }
    }

    /// Values defined together: each interferes with what is live after, and with the others.
    fn define(&mut self, ids: impl Iterator<Item = ValueId>, live: &mut Set) {
        let numbers: Vec<usize> = ids.filter_map(|id| self.number[id.0 as usize]).collect();
        numbers.iter().for_each(|n| live.remove(*n));
        for n in &numbers {
            self.interferes[*n].union(live);
            for other in numbers.iter().filter(|other| *other != n) {
                self.interferes[*n].add(*other);
            }
        }
    }

    fn inst(&mut self, inst: &Inst, live: &mut Set) {
        self.define(inst.results.iter().copied(), live);
        inst.each_use(&mut |id| self.add(Operand::Value(id), live));
    }

    /// Walks a block backwards: `live` is what is live after it, then what is live before it.
    fn block(&mut self, block: &Block, live: &mut Set) {
        for stmt in block.stmts.iter().rev() {
            match stmt {
                Stmt::Note(_) => {}
                Stmt::Inst(inst) => self.inst(inst, live),
                Stmt::If(branch) => {
                    self.define(branch.merges.iter().map(|m| m.result), live);
                    let mut then = live.clone();
                    branch.merges.iter().for_each(|m| self.add(m.then, &mut then));
                    self.block(&branch.then, &mut then);
                    branch.merges.iter().for_each(|m| self.add(m.otherwise, live));
                    self.block(&branch.otherwise, live);
                    live.union(&then);
                    self.add(branch.cond, live);
                }
                Stmt::Loop(l) => {
                    let after = live.clone();
                    let mut entry = Set::new(self.values.len());
                    loop {
                        let mut around = entry.clone();
                        l.carried.iter().for_each(|c| self.add(c.next, &mut around));
                        self.block(&l.body, &mut around);
                        around.union(&after);
                        self.add(l.cond, &mut around);
                        self.block(&l.head, &mut around);
                        self.define(l.carried.iter().map(|c| c.param), &mut around);
                        if around == entry {
                            break;
                        }
                        entry = around;
                    }
                    l.carried.iter().for_each(|c| self.add(c.init, &mut entry));
                    *live = entry;
                }
            }
        }
    }
}
