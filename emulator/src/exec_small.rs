//! Slots that touch registers only but are no lane operation: comparisons, special registers, parameters.

use ptx::{Special, sem};

use crate::code::{Compare, Kind, Slot};
use crate::lanes::{LANES, float, map1, mask_of, write};
use crate::warp::{Context, Warp};

/// A comparison of integers on every lane.
#[inline(always)]
pub(crate) fn compare_int<T: Copy + Ord>(compare: u32, a: &[T; LANES], b: &[T; LANES]) -> u32 {
    const EQ: u32 = Compare::Eq as u32;
    const NE: u32 = Compare::Ne as u32;
    const LT: u32 = Compare::Lt as u32;
    const LE: u32 = Compare::Le as u32;
    const GT: u32 = Compare::Gt as u32;
    match compare {
        EQ => mask_of(|i| a[i] == b[i]),
        NE => mask_of(|i| a[i] != b[i]),
        LT => mask_of(|i| a[i] < b[i]),
        LE => mask_of(|i| a[i] <= b[i]),
        GT => mask_of(|i| a[i] > b[i]),
        _ => mask_of(|i| a[i] >= b[i]),
    }
}

/// A comparison of floats on every lane, from three masks.
#[inline(always)]
fn compare_float(compare: u32, a: &[u32; LANES], b: &[u32; LANES]) -> u32 {
    let less = mask_of(|i| float(a[i]) < float(b[i]));
    let equal = mask_of(|i| float(a[i]) == float(b[i]));
    let greater = mask_of(|i| float(a[i]) > float(b[i]));
    let number = less | equal | greater;
    let by = |want: Compare| want as u32 == compare;
    match () {
        () if by(Compare::Eq) => equal,
        () if by(Compare::Ne) => less | greater,
        () if by(Compare::Lt) => less,
        () if by(Compare::Le) => less | equal,
        () if by(Compare::Gt) => greater,
        () if by(Compare::Ge) => greater | equal,
        () if by(Compare::Equ) => !(less | greater),
        () if by(Compare::Neu) => !equal,
        () if by(Compare::Ltu) => !(equal | greater),
        () if by(Compare::Leu) => !greater,
        () if by(Compare::Gtu) => !(equal | less),
        () if by(Compare::Geu) => !less,
        () if by(Compare::Num) => number,
        () => !number,
    }
}

impl Warp {
    /// `setp`.
    pub fn setp(&mut self, slot: &Slot, mask: u32) {
        let (a, b) = (usize::from(slot.a), usize::from(slot.b));
        let truth = match slot.kind {
            Kind::SetpU => compare_int(slot.x, &self.w[a], &self.w[b]),
            Kind::SetpS => {
                compare_int(slot.x, &map1(&self.w[a], |v| v as i32), &map1(&self.w[b], |v| v as i32))
            }
            Kind::SetpUQ => compare_int(slot.x, &self.q[a], &self.q[b]),
            Kind::SetpSQ => {
                compare_int(slot.x, &map1(&self.q[a], |v| v as i64), &map1(&self.q[b], |v| v as i64))
            }
            _ => compare_float(slot.x, &self.w[a], &self.w[b]),
        };
        self.write_p(usize::from(slot.d), truth, mask);
    }

    /// `mov` from a special register.
    pub fn special(&mut self, slot: &Slot, mask: u32, cx: &Context<'_>) {
        let Some((special, _)) = Special::ALL.get(slot.x as usize) else { return };
        let out = match special {
            Special::TidX => self.tid[0],
            Special::TidY => self.tid[1],
            Special::TidZ => self.tid[2],
            Special::NtidX => [cx.block[0]; LANES],
            Special::NtidY => [cx.block[1]; LANES],
            Special::NtidZ => [cx.block[2]; LANES],
            Special::CtaidX => [cx.cta[0]; LANES],
            Special::CtaidY => [cx.cta[1]; LANES],
            Special::CtaidZ => [cx.cta[2]; LANES],
            Special::NctaidX => [cx.grid[0]; LANES],
            Special::NctaidY => [cx.grid[1]; LANES],
            Special::NctaidZ => [cx.grid[2]; LANES],
            Special::LaneId => std::array::from_fn(|lane| lane as u32),
            Special::LanemaskLt => std::array::from_fn(|lane| (1 << lane) - 1),
            Special::Clock => [self.steps as u32; LANES],
        };
        write(&mut self.w[usize::from(slot.d)], out, mask);
    }

    /// `ld.param`: every lane gets the same value.
    pub fn load_param(&mut self, slot: &Slot, mask: u32, cx: &Context<'_>) {
        let (offset, bytes, signed) = (slot.x & 0xff, slot.x >> 8 & 0xff, slot.x >> 16 & 1 == 1);
        let arg = cx.args.get(usize::from(slot.a)).copied().unwrap_or(0);
        let raw = (arg >> (8 * offset)) & sem::mask(8 * bytes);
        let unused = 64 - 8 * bytes;
        let value = if signed { ((raw << unused) as i64 >> unused) as u64 } else { raw };
        let value = value & sem::mask(u32::from(slot.b));
        let d = usize::from(slot.d);
        if slot.kind == Kind::LdParamQ {
            write(&mut self.q[d], [value; LANES], mask);
        } else {
            write(&mut self.w[d], [value as u32; LANES], mask);
        }
    }
}
