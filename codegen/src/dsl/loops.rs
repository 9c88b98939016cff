//! Loops as the macro records them.
//!
//! The body stays where it stands in the Rust function and runs once for each recorded copy; around it, blocks of
//! the IR are opened and closed and assigned variables are made to hold the loop's values.

use super::branch::Open;
use super::carry::{self, CarryList};
use super::record;
use super::value::{IntoV, Num, Scalar, V, dev};
use crate::ir::{Block, Carried, Entering, Loop, Operand, Stmt, ValueId};
use ptx::Ty;

/// A bound of a runtime loop, which gives the index its type.
#[diagnostic::on_unimplemented(
    message = "a runtime loop cannot run to a bound of type `{Self}`",
    note = "bounds are u32 or i32, at build time or on the device; for other build-time ranges use `unroll(…)`"
)]
pub trait Bound {
    /// The index's type.
    type Elem: Num + LoopIndex;
    /// The bound as a device value.
    fn bound(self) -> V<Self::Elem>;
}

/// Types of loop indices.
pub trait LoopIndex: Scalar + IntoV<Self> {
    /// From a number of build time.
    fn of(number: i64) -> Self;
    /// A constant as a number.
    fn number(bits: u64) -> i64;
    /// `a + b`.
    fn add(a: V<Self>, b: V<Self>) -> V<Self>;
    /// `a < b`.
    fn less(a: V<Self>, b: V<Self>) -> V<bool>;
    /// The largest `lo + m·k` not above `max(lo, hi)`.
    fn round(lo: V<Self>, hi: V<Self>, k: Self) -> V<Self>;
}

macro_rules! loop_index {
    ($($ty:ty),*) => {$(
        impl LoopIndex for $ty {
            fn of(number: i64) -> $ty { number as $ty }
            fn number(bits: u64) -> i64 { i64::from(bits as u32 as $ty) }
            fn add(a: V<$ty>, b: V<$ty>) -> V<$ty> { a + b }
            fn less(a: V<$ty>, b: V<$ty>) -> V<bool> { super::compare::lt(&a, &b) }
            fn round(lo: V<$ty>, hi: V<$ty>, k: $ty) -> V<$ty> {
                let count = super::intrinsics::max(lo, hi) - lo;
                lo + (count - count % k)
            }
        }
        impl Bound for $ty {
            type Elem = $ty;
            fn bound(self) -> V<$ty> { dev(self) }
        }
        impl Bound for V<$ty> {
            type Elem = $ty;
            fn bound(self) -> V<$ty> { self }
        }
    )*};
}
loop_index!(u32, i32);

impl Bound for usize {
    type Elem = u32;
    fn bound(self) -> V<u32> {
        match u32::try_from(self) {
            Ok(bound) => dev(bound),
            Err(_) => {
                record::refuse(format!("a loop bound is {self}, the limit is {}", u32::MAX));
                dev(0)
            }
        }
    }
}

/// The range of a runtime loop.
pub struct Over<T> {
    lo: V<T>,
    hi: V<T>,
    step: V<T>,
    copies: u32,
}

/// `lo..hi`, with the index of `hi`'s type.
pub fn over<L: IntoV<H::Elem>, H: Bound>(lo: L, hi: H) -> Over<H::Elem> {
    Over { lo: lo.into_v(), hi: hi.bound(), step: dev(H::Elem::of(1)), copies: 1 }
}

/// `lo..hi`, with the index of `lo`'s type.
pub fn over_from<L: Bound, H: IntoV<L::Elem>>(lo: L, hi: H) -> Over<L::Elem> {
    Over { lo: lo.bound(), hi: hi.into_v(), step: dev(L::Elem::of(1)), copies: 1 }
}

impl<T: LoopIndex> Over<T> {
    /// `.step_by(step)`.
    #[must_use]
    pub fn step(self, step: impl IntoV<T>) -> Over<T> {
        let step = step.into_v();
        if step.operand.imm() == Some(0) {
            record::refuse("a loop has step 0");
        }
        Over { step, ..self }
    }

    /// `unroll(range, copies)`.
    #[must_use]
    pub fn copies(self, copies: u32) -> Over<T> {
        Over { copies: copies.max(1), ..self }
    }

    /// Plans the loop.
    pub fn open(self, index: &str, names: &[&str]) -> Range<T> {
        let number = |v: V<T>| v.operand.imm().map(T::number);
        let mut parts = Vec::new();
        match (number(self.lo), number(self.hi), number(self.step)) {
            (Some(lo), Some(hi), Some(step)) if step > 0 => {
                let trips = if hi > lo { (hi - lo + step - 1) / step } else { 0 };
                let copies = i64::from(self.copies);
                let looped = if trips / copies >= 2 { trips / copies * copies } else { 0 };
                if looped > 0 {
                    let end = dev(T::of((lo + looped * step).min(hi)));
                    parts.push(Part::Loop {
                        lo: self.lo,
                        hi: end,
                        step: self.step,
                        copies: self.copies,
                        enters: Entering::Always,
                    });
                }
                parts.extend((looped..trips).map(|trip| Part::Once(dev(T::of(lo + trip * step)))));
            }
            (_, _, step) => {
                let part = |lo, hi, copies| Part::Loop {
                    lo,
                    hi,
                    step: self.step,
                    copies,
                    enters: Entering::Unknown,
                };
                match step {
                    Some(1) if self.copies > 1 => {
                        let middle = T::round(self.lo, self.hi, T::of(i64::from(self.copies)));
                        parts.push(part(self.lo, middle, self.copies));
                        parts.push(part(middle, self.hi, 1));
                    }
                    _ => parts.push(part(self.lo, self.hi, 1)),
                }
            }
        }
        parts.reverse();
        Range {
            parts,
            current: None,
            index: index.to_owned(),
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            guard: Open::idle("for"),
        }
    }
}

/// A stretch of a loop's iterations.
enum Part<T> {
    /// A recorded loop whose body stands `copies` times in it.
    Loop { lo: V<T>, hi: V<T>, step: V<T>, copies: u32, enters: Entering },
    /// One iteration with a constant index.
    Once(V<T>),
}

/// A `for` being recorded: gives the index of each copy of the body.
pub struct Range<T> {
    /// What is left, last first.
    parts: Vec<Part<T>>,
    current: Option<Current<T>>,
    index: String,
    names: Vec<String>,
    guard: Open,
}

/// A recorded loop whose body is being recorded.
struct Current<T> {
    shell: Shell,
    /// Index of the first copy.
    first: V<T>,
    /// Index of the copy under way.
    at: V<T>,
    step: V<T>,
    copies: u32,
    copy: u32,
}

impl<T: LoopIndex> Current<T> {
    /// The index after the copies so far: from the first, so that constant steps become address offsets.
    fn next_index(&self) -> V<T> {
        match self.step.operand.imm() {
            Some(step) => T::add(self.first, dev(T::of(T::number(step) * i64::from(self.copy)))),
            None => T::add(self.at, self.step),
        }
    }
}

impl<T: LoopIndex> Range<T> {
    /// Ends the copy of the body that has run, if any, and gives the index of the next.
    pub fn advance<L: CarryList>(&mut self, mut list: L) -> Option<V<T>> {
        if let Some(mut current) = self.current.take() {
            current.copy += 1;
            current.at = current.next_index();
            if current.copy < current.copies {
                let at = current.at;
                if let Operand::Value(id) = at.operand {
                    record::with(|r| r.name(id, &self.index));
                }
                self.current = Some(current);
                return Some(at);
            }
            current.shell.close(Some(current.at.operand), &mut list);
            self.guard.done();
        }
        match self.parts.pop()? {
            Part::Once(index) => Some(index),
            Part::Loop { lo, hi, step, copies, enters } => {
                self.guard.start();
                let index = self.index_value(lo, hi);
                let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
                let mut shell = Shell::open(Some((index, lo.operand)), &names, &mut list, enters);
                let at = V::new(Operand::Value(index));
                let cond = T::less(at, hi);
                shell.test(cond);
                self.current = Some(Current { shell, first: at, at, step, copies, copy: 0 });
                Some(at)
            }
        }
    }

    /// The index of a recorded loop. In the body it is below the end, by the test.
    fn index_value(&self, lo: V<T>, hi: V<T>) -> ValueId {
        let name = Some(self.index.trim_start_matches('_').to_owned()).filter(|n| !n.is_empty());
        let make = |r: &mut record::Recorder| {
            let unsigned = T::TY == Ty::U32 || lo.operand.imm().is_some_and(|bits| T::number(bits) >= 0);
            let end = r.function.max_of(hi.operand);
            let max = if unsigned && end < 1 << 31 { end.saturating_sub(1) } else { u64::MAX };
            r.function.value(T::TY, name, max)
        };
        record::with(make).unwrap_or(ValueId(0))
    }
}

/// The carried variables of a loop under construction, and its head.
struct Shell {
    carried: Vec<(ValueId, Operand)>,
    indexed: bool,
    enters: Entering,
    head: Block,
    cond: Operand,
}

impl Shell {
    /// Makes the variables hold the loop's values and opens the head.
    fn open(
        index: Option<(ValueId, Operand)>,
        names: &[&str],
        list: &mut impl CarryList,
        enters: Entering,
    ) -> Shell {
        let held = carry::read(list);
        let mut carried: Vec<(ValueId, Operand)> = index.into_iter().collect();
        let indexed = !carried.is_empty();
        let mut params = Vec::with_capacity(held.len());
        for (variable, ty, init) in held {
            let name =
                names.get(variable).map(|n| n.trim_start_matches('_').to_owned()).filter(|n| !n.is_empty());
            let id = record::with(|r| r.function.value(ty, name, u64::MAX)).unwrap_or(ValueId(0));
            carried.push((id, init));
            params.push(Operand::Value(id));
        }
        carry::write(list, &params);
        record::with(|r| r.open());
        Shell { carried, indexed, enters, head: Block::default(), cond: record::ZERO }
    }

    /// Ends the head and opens the body.
    fn test(&mut self, cond: V<bool>) {
        self.cond = cond.operand;
        self.head = record::with(|r| {
            let head = r.close();
            r.open();
            head
        })
        .unwrap_or_default();
    }

    /// Ends the body: what the variables hold goes around, and afterwards they hold the loop's values.
    fn close(self, index_next: Option<Operand>, list: &mut impl CarryList) {
        let nexts = carry::read(list).into_iter().map(|(_, _, operand)| operand);
        let nexts: Vec<Operand> = index_next.into_iter().chain(nexts).collect();
        if nexts.len() != self.carried.len() {
            record::refuse("a Vec changed its length in a runtime loop");
        }
        let params: Vec<Operand> =
            self.carried.iter().skip(usize::from(self.indexed)).map(|(id, _)| Operand::Value(*id)).collect();
        carry::write(list, &params);
        let Shell { head, cond, enters, .. } = self;
        let pairs = self.carried.into_iter().zip(nexts);
        let carried = pairs.map(|((param, init), next)| Carried { param, init, next }).collect();
        record::with(|r| {
            let body = r.close();
            r.push(Stmt::Loop(Loop { carried, head, cond, body, enters }));
        });
    }
}

/// A `while` being recorded.
pub struct While {
    shell: Option<Shell>,
    guard: Open,
}

impl While {
    /// Begins a `while`: what follows computes its condition.
    pub fn open<L: CarryList>(names: &[&str], mut list: L) -> While {
        let mut guard = Open::idle("while");
        guard.start();
        While { shell: Some(Shell::open(None, names, &mut list, Entering::Unknown)), guard }
    }

    /// The condition; the body follows.
    pub fn test(&mut self, cond: impl DeviceCondition) {
        if let Some(shell) = &mut self.shell {
            shell.test(cond.condition());
        }
    }

    /// Ends the loop.
    pub fn close<L: CarryList>(mut self, mut list: L) {
        if let Some(shell) = self.shell.take() {
            shell.close(None, &mut list);
        }
        self.guard.done();
    }
}

/// What a `while` may test.
#[diagnostic::on_unimplemented(
    message = "`while` in device code is a runtime loop and tests a `V<bool>`, not `{Self}`",
    note = "a loop of build time is written `for i in unroll(a..b)` or `for x in each(iterator)`"
)]
pub trait DeviceCondition {
    /// The predicate.
    fn condition(self) -> V<bool>;
}
impl DeviceCondition for V<bool> {
    fn condition(self) -> V<bool> {
        self
    }
}
