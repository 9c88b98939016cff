//! The validator of the IR: what every pass may assume and must leave behind.

use super::dump::form;
use super::{Arg, Block, Function, Inst, MemBase, Operand, Stmt, ValueId};
use ptx::Ty;
use ptx::table::{Sig, T};
use thiserror::Error;

/// A way in which a function breaks the rules of the IR.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Defect {
    /// A value is used where its definition has not run.
    #[error(
        "value v{value} ({name}) is used where it is not defined: it was made in a branch or loop that is over"
    )]
    NotVisible {
        /// The value's number.
        value: u32,
        /// Its variable, or `unnamed`.
        name: String,
    },
    /// A value is defined twice.
    #[error("value v{value} is defined twice")]
    DefinedTwice {
        /// The value's number.
        value: u32,
    },
    /// The operands do not fit the row.
    #[error("{form}: {found} results and operands, the table has {wanted}")]
    Arity {
        /// The instruction.
        form: String,
        /// How many it has.
        found: usize,
        /// How many the row has.
        wanted: usize,
    },
    /// An operand's register is of another size or kind.
    #[error("{form}: operand {position} is a .{found} register, .{wanted} is needed")]
    Type {
        /// The instruction.
        form: String,
        /// Position in the text.
        position: usize,
        /// The register's type.
        found: Ty,
        /// The type needed.
        wanted: Ty,
    },
}

/// Checks dominance, single definition, arity and types.
pub fn check(function: &Function) -> Result<(), Defect> {
    let mut checker = Checker {
        function,
        visible: vec![false; function.values.len()],
        defined: vec![false; function.values.len()],
    };
    checker.block(&function.body).map(|_scope| ())
}

struct Checker<'f> {
    function: &'f Function,
    visible: Vec<bool>,
    defined: Vec<bool>,
}

impl Checker<'_> {
    fn define(&mut self, id: ValueId, scope: &mut Vec<ValueId>) -> Result<(), Defect> {
        if std::mem::replace(&mut self.defined[id.0 as usize], true) {
            return Err(Defect::DefinedTwice { value: id.0 });
        }
        self.visible[id.0 as usize] = true;
        scope.push(id);
        Ok(())
    }

    fn used(&self, id: ValueId) -> Result<(), Defect> {
        if self.visible[id.0 as usize] {
            return Ok(());
        }
        let name = self.function.info(id).name.clone().unwrap_or_else(|| "unnamed".to_owned());
        Err(Defect::NotVisible { value: id.0, name })
    }

    fn operand(&self, operand: Operand) -> Result<(), Defect> {
        operand.value().map_or(Ok(()), |id| self.used(id))
    }

    fn hide(&mut self, scope: Vec<ValueId>) {
        for id in scope {
            self.visible[id.0 as usize] = false;
        }
    }

    /// Checks a block and returns what it defined, still visible.
    fn block(&mut self, block: &Block) -> Result<Vec<ValueId>, Defect> {
        let mut scope = Vec::new();
        for stmt in &block.stmts {
            match stmt {
                Stmt::Note(_) => {}
                Stmt::Inst(inst) => {
                    let mut outcome = Ok(());
                    inst.each_use(&mut |id| outcome = outcome.clone().and_then(|()| self.used(id)));
                    outcome?;
                    self.signature(inst)?;
                    for id in &inst.results {
                        self.define(*id, &mut scope)?;
                    }
                }
                Stmt::If(branch) => {
                    self.operand(branch.cond)?;
                    let then = self.block(&branch.then)?;
                    branch.merges.iter().try_for_each(|m| self.operand(m.then))?;
                    self.hide(then);
                    let otherwise = self.block(&branch.otherwise)?;
                    branch.merges.iter().try_for_each(|m| self.operand(m.otherwise))?;
                    self.hide(otherwise);
                    for m in &branch.merges {
                        self.define(m.result, &mut scope)?;
                    }
                }
                Stmt::Loop(l) => {
                    l.carried.iter().try_for_each(|c| self.operand(c.init))?;
                    for c in &l.carried {
                        self.define(c.param, &mut scope)?;
                    }
                    let head = self.block(&l.head)?;
                    self.operand(l.cond)?;
                    let body = self.block(&l.body)?;
                    l.carried.iter().try_for_each(|c| self.operand(c.next))?;
                    self.hide(body);
                    self.hide(head);
                }
            }
        }
        Ok(scope)
    }

    fn signature(&self, inst: &Inst) -> Result<(), Defect> {
        let row = inst.form.row();
        let lists = inst.form.vector() as usize;
        let mut results = inst.results.iter();
        let mut args = inst.args.iter();
        for (position, sig) in row.operands.iter().enumerate() {
            match sig {
                Sig::Dst(t) => self.one(inst, position, results.next().map(|r| Operand::Value(*r)), *t)?,
                Sig::DstVec(t) | Sig::DstList(_, t) => {
                    let n = if let Sig::DstList(n, _) = sig { usize::from(*n) } else { lists };
                    for _ in 0..n {
                        self.one(inst, position, results.next().map(|r| Operand::Value(*r)), *t)?;
                    }
                }
                // How many registers `mov` and `shfl` write is their own choice: at least one.
                Sig::DstMov | Sig::DstShfl => {
                    if results.next().is_none() {
                        return Err(self.arity(inst));
                    }
                    results = [].iter();
                }
                Sig::Src(t) | Sig::SrcReg(t) | Sig::Lit(t) => {
                    self.one(inst, position, args.next().and_then(Arg::one), *t)?;
                }
                Sig::SrcVec(t) | Sig::SrcList(_, t) => {
                    let n = if let Sig::SrcList(n, _) = sig { usize::from(*n) } else { lists };
                    match args.next() {
                        Some(Arg::List(list)) if list.len() == n => {
                            list.iter().try_for_each(|o| self.one(inst, position, Some(*o), *t))?;
                        }
                        Some(Arg::One(one)) if n == 1 => self.one(inst, position, Some(*one), *t)?,
                        _ => return Err(self.arity(inst)),
                    }
                }
                Sig::Mem | Sig::MemIn(_) => match args.next() {
                    Some(Arg::Mem(MemBase::Value(_) | MemBase::Param(_) | MemBase::Shared(_), _)) => {}
                    _ => return Err(self.arity(inst)),
                },
                Sig::SrcMov | Sig::Target => {
                    if args.next().is_none() {
                        return Err(self.arity(inst));
                    }
                }
            }
        }
        match args.next().is_none() && results.next().is_none() {
            true => Ok(()),
            false => Err(self.arity(inst)),
        }
    }

    fn arity(&self, inst: &Inst) -> Defect {
        Defect::Arity {
            form: form(inst.form),
            found: inst.results.len() + inst.args.len(),
            wanted: inst.form.row().operands.len(),
        }
    }

    fn one(&self, inst: &Inst, position: usize, operand: Option<Operand>, t: T) -> Result<(), Defect> {
        let Some(operand) = operand else { return Err(self.arity(inst)) };
        let Some(id) = operand.value() else { return Ok(()) };
        let wanted = match t {
            T::Nth(i) | T::AtLeast(i) => inst.form.types.get(i),
            T::Wide(i) => inst.form.types.get(i).and_then(Ty::widened),
            T::Fixed(ty) => Some(ty),
        };
        let Some(wanted) = wanted else { return Err(self.arity(inst)) };
        let found = self.function.info(id).ty;
        // Bits go into float registers and back; integers and floats do not mix.
        let same_size =
            found.bytes() == wanted.register().bytes() && (found == Ty::Pred) == (wanted == Ty::Pred);
        let fits = match t {
            T::AtLeast(_) => {
                found.bytes() >= wanted.bytes()
                    && found != Ty::Pred
                    && (found.is_float() == (wanted == Ty::F32) || wanted.is_bits())
            }
            _ => found == wanted.register() || (same_size && wanted.is_bits()),
        };
        if fits { Ok(()) } else { Err(Defect::Type { form: form(inst.form), position, found, wanted }) }
    }
}
