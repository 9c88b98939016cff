//! Places for scratch buffers in one arena: buffers that are never alive at once may share bytes.

use ::plan::{Access, Arg, BufferDesc, KernelDesc, Launch, Place};

/// Alignment of every buffer: what allocators give, and enough for any vector load.
const ALIGN: u64 = 256;

/// For each launch, which buffers are alive during it: written before or by it and read by it or later.
fn live_sets(n_buffers: usize, launches: &[Launch], kernels: &[KernelDesc]) -> Vec<Vec<bool>> {
    let mut live = vec![false; n_buffers];
    let mut sets = vec![Vec::new(); launches.len()];
    for (set, launch) in sets.iter_mut().zip(launches).rev() {
        let params = kernels.get(launch.kernel as usize).map_or(&[][..], |k| &k.params[..]);
        let uses = launch.args.iter().zip(params).filter_map(|(arg, param)| match arg {
            Arg::Buffer { index, .. } => Some((*index as usize, param.access)),
            Arg::Weight(_) => None,
        });
        let uses: Vec<(usize, Access)> = uses.collect();
        let mut during = live.clone();
        for (buffer, access) in &uses {
            during[*buffer] = true;
            // Going backwards: a write starts a life, a read extends one to here.
            live[*buffer] = *access != Access::Write;
        }
        for (buffer, access) in &uses {
            // A buffer that is both written and read by one launch through two parameters stays alive.
            live[*buffer] |= *access != Access::Write;
        }
        *set = during;
    }
    sets
}

/// Gives every arena buffer an offset and returns the arena's size in bytes: largest first, each at the lowest offset
/// where it meets no buffer that is alive with it.
pub(super) fn place(buffers: &mut [BufferDesc], launches: &[Launch], kernels: &[KernelDesc]) -> u64 {
    let sets = live_sets(buffers.len(), launches, kernels);
    let meet = |a: usize, b: usize| sets.iter().any(|set| set[a] && set[b]);
    let mut order: Vec<usize> = (0..buffers.len()).filter(|i| buffers[*i].place != Place::Own).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(buffers[*i].bytes), *i));
    let mut placed: Vec<(usize, u64, u64)> = Vec::new();
    for i in order {
        let mut taken: Vec<(u64, u64)> = placed
            .iter()
            .filter(|(other, _, _)| meet(i, *other))
            .map(|(_, start, end)| (*start, *end))
            .collect();
        taken.sort_unstable();
        let bytes = buffers[i].bytes.next_multiple_of(ALIGN);
        let mut offset = 0;
        for (start, end) in taken {
            if offset + bytes <= start {
                break;
            }
            offset = offset.max(end);
        }
        buffers[i].place = Place::Arena { offset };
        placed.push((i, offset, offset + bytes));
    }
    placed.iter().map(|(_, _, end)| *end).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::plan::{ParamDesc, Phase, Slot};

    fn kernel(accesses: &[Access]) -> KernelDesc {
        let params = accesses.iter().map(|a| ParamDesc { name: "p".into(), elem: "f32".into(), access: *a });
        KernelDesc {
            entry: "k".into(),
            name: "k".into(),
            constants: "".into(),
            ptx: "".into(),
            grid: [1; 3],
            block: [32, 1, 1],
            shared_bytes: 0,
            cooperative: false,
            params: params.collect::<Vec<_>>().into(),
            bytes: 0,
            macs: 0,
        }
    }

    fn chain(n: u32) -> (Vec<BufferDesc>, Vec<Launch>) {
        let buffer = |i| BufferDesc {
            slot: Slot::KCache(i),
            bytes: 300,
            bytes_per_pos: 0,
            place: Place::Arena { offset: 0 },
        };
        let launch = |i| Launch {
            kernel: 0,
            layer: None,
            phase: Phase::Body,
            args: vec![Arg::Buffer { index: i, offset: 0 }, Arg::Buffer { index: i + 1, offset: 0 }].into(),
        };
        ((0..n).map(buffer).collect(), (0..n - 1).map(launch).collect())
    }

    #[test]
    fn a_chain_needs_two_places() {
        let (mut buffers, launches) = chain(5);
        let bytes = place(&mut buffers, &launches, &[kernel(&[Access::Read, Access::Write])]);
        assert_eq!(bytes, 2 * 512);
        for pair in buffers.windows(2) {
            assert_ne!(pair[0].place, pair[1].place);
        }
    }

    #[test]
    fn what_is_read_later_keeps_its_place() {
        let (mut buffers, mut launches) = chain(3);
        launches.push(Launch {
            args: vec![Arg::Buffer { index: 0, offset: 0 }, Arg::Buffer { index: 2, offset: 0 }].into(),
            ..launches[0].clone()
        });
        let bytes = place(&mut buffers, &launches, &[kernel(&[Access::Read, Access::ReadWrite])]);
        assert_eq!(bytes, 3 * 512);
    }
}
