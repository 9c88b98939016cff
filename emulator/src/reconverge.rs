//! Where the two sides of a branch meet again: immediate post-dominators of the basic blocks.

/// Successors of a block; the end of the thread is index `n`, one past the last block.
pub(crate) type Successors = Vec<Vec<usize>>;

/// The immediate post-dominator of each block, `n` for blocks whose paths meet only at the end (or never end).
///
/// Cooper, Harvey and Kennedy's iteration on the reversed graph.
pub(crate) fn post_dominators(successors: &Successors) -> Vec<usize> {
    let n = successors.len();
    let mut predecessors = vec![Vec::new(); n + 1];
    for (block, list) in successors.iter().enumerate() {
        for next in list {
            predecessors[*next].push(block);
        }
    }
    let order = reverse_post_order(&predecessors, n);
    let mut rank = vec![usize::MAX; n + 1];
    for (i, block) in order.iter().enumerate() {
        rank[*block] = i;
    }
    let mut idom: Vec<Option<usize>> = vec![None; n + 1];
    idom[n] = Some(n);
    let mut changed = true;
    while changed {
        changed = false;
        for block in order.iter().skip(1) {
            let mut known = successors[*block].iter().copied().filter(|s| idom[*s].is_some());
            let Some(first) = known.next() else { continue };
            let new = known.fold(first, |a, b| meet(&idom, &rank, a, b));
            if idom[*block] != Some(new) {
                idom[*block] = Some(new);
                changed = true;
            }
        }
    }
    idom.truncate(n);
    idom.into_iter().map(|d| d.unwrap_or(n)).collect()
}

fn meet(idom: &[Option<usize>], rank: &[usize], a: usize, b: usize) -> usize {
    let (mut a, mut b) = (a, b);
    while a != b {
        if rank[a] > rank[b] {
            a = idom[a].unwrap_or(idom.len() - 1);
        } else {
            b = idom[b].unwrap_or(idom.len() - 1);
        }
    }
    a
}

/// Blocks from which the end is reachable, the end first.
fn reverse_post_order(predecessors: &[Vec<usize>], end: usize) -> Vec<usize> {
    let mut seen = vec![false; predecessors.len()];
    let mut order = Vec::new();
    let mut stack = vec![(end, 0)];
    seen[end] = true;
    while let Some((block, next)) = stack.pop() {
        match predecessors[block].get(next) {
            Some(pred) => {
                stack.push((block, next + 1));
                if !seen[*pred] {
                    seen[*pred] = true;
                    stack.push((*pred, 0));
                }
            }
            None => order.push(block),
        }
    }
    order.reverse();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_if_else_meets_at_its_join() {
        // 0 -> 1, 2; 1 -> 3; 2 -> 3; 3 -> end (4)
        let d = post_dominators(&vec![vec![1, 2], vec![3], vec![3], vec![4]]);
        assert_eq!(d, [3, 3, 3, 4]);
    }

    #[test]
    fn a_loop_meets_at_its_exit_and_an_early_return_at_the_end() {
        // 0 -> 1; 1 -> 1, 2; 2 -> 3, end; 3 -> end (4)
        let d = post_dominators(&vec![vec![1], vec![1, 2], vec![3, 4], vec![4]]);
        assert_eq!(d, [1, 2, 4, 4]);
    }
}
