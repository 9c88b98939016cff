//! Parallel moves as a sequence: phis of a loop or branch change at the same moment, registers one by one.

use std::collections::BTreeMap;

/// A source: a place that holds a value, or a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<P, C> {
    /// A place.
    Place(P),
    /// A constant.
    Const(C),
}

/// Orders `(destination, source)` pairs, which mean "all at once", into moves one after the other. `temporary` makes
/// a place of the same kind as the one given; it is asked for once for each cycle. Destinations are distinct.
pub fn sequence<P: Copy + Ord, C: Copy>(
    parallel: &[(P, Source<P, C>)],
    mut temporary: impl FnMut(P) -> P,
) -> Vec<(P, Source<P, C>)> {
    let is_noop = |(dst, src): &(P, Source<P, C>)| matches!(src, Source::Place(p) if p == dst);
    let mut pending: Vec<(P, Source<P, C>)> = parallel.iter().filter(|m| !is_noop(m)).copied().collect();
    let mut moves = Vec::new();
    while !pending.is_empty() {
        let mut readers: BTreeMap<P, usize> = BTreeMap::new();
        for (_, src) in &pending {
            if let Source::Place(p) = src {
                *readers.entry(*p).or_default() += 1;
            }
        }
        match pending.iter().position(|(dst, _)| !readers.contains_key(dst)) {
            Some(free) => moves.push(pending.remove(free)),
            None => {
                // Every destination is still read: a cycle. Save the first one and let its readers use the copy.
                let (dst, _) = pending[0];
                let saved = temporary(dst);
                moves.push((saved, Source::Place(dst)));
                for (_, src) in &mut pending {
                    if matches!(src, Source::Place(p) if *p == dst) {
                        *src = Source::Place(saved);
                    }
                }
            }
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use Source::{Const, Place};

    /// Runs moves on numbered cells that hold their own number at first.
    fn run(parallel: &[(usize, Source<usize, usize>)]) -> Vec<usize> {
        let mut cells: Vec<usize> = (0..8).collect();
        let mut next = 4;
        let moves = sequence(parallel, |_| {
            next += 1;
            next
        });
        for (dst, src) in moves {
            cells[dst] = match src {
                Place(p) => cells[p],
                Const(c) => c,
            };
        }
        cells[..4].to_vec()
    }

    #[test]
    fn a_chain_is_ordered_from_its_end() {
        assert_eq!(run(&[(0, Place(1)), (1, Place(2)), (2, Const(9))]), [1, 2, 9, 3]);
        assert_eq!(run(&[(2, Place(1)), (1, Place(0))]), [0, 0, 1, 3]);
    }

    #[test]
    fn swaps_and_rotations_go_through_a_temporary() {
        assert_eq!(run(&[(0, Place(1)), (1, Place(0))]), [1, 0, 2, 3]);
        assert_eq!(run(&[(0, Place(1)), (1, Place(2)), (2, Place(0)), (3, Place(0))]), [1, 2, 0, 0]);
        assert_eq!(run(&[(0, Place(1)), (1, Place(0)), (2, Place(3)), (3, Place(2))]), [1, 0, 3, 2]);
    }

    #[test]
    fn a_move_to_itself_is_none() {
        assert!(sequence::<usize, usize>(&[(1, Place(1))], |p| p).is_empty());
    }
}
