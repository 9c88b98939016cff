//! When a launch of a list may start. `Settled` parameters rest on what is said here: their loads go out before a kernel
//! waits for the launches before it, which is right because the first launch of a list starts when all work before it is
//! done.

use crate::queue::Call;

/// When a launch may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// When the work before it is done.
    InOrder,
    /// While the launch before it still runs: the kernel itself waits for that.
    Early,
}

/// A kernel as far as its launches' order goes.
pub(super) trait Waits {
    /// Whether it waits for the launches before it.
    fn waits(&self) -> bool;
}

/// The launches of a list, each with its kernel and when it may start. Calls of kernels that `find` does not know are left
/// out; they were refused before.
pub(super) fn in_sequence<'k, 'c, K: Waits + 'k>(
    calls: &'c [Call],
    find: impl Fn(u32) -> Option<&'k K>,
) -> impl Iterator<Item = (&'k K, &'c Call, Start)> {
    let calls = calls.iter().filter_map(move |call| Some((find(call.kernel)?, call)));
    calls.enumerate().map(|(place, (kernel, call))| {
        let start = if place > 0 && kernel.waits() { Start::Early } else { Start::InOrder };
        (kernel, call, start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Kernel {
        waits: bool,
    }

    impl Waits for Kernel {
        fn waits(&self) -> bool {
            self.waits
        }
    }

    static KERNELS: [Kernel; 2] = [Kernel { waits: true }, Kernel { waits: false }];

    fn find(idx: u32) -> Option<&'static Kernel> {
        KERNELS.get(idx as usize)
    }

    fn starts(kernels: &[u32]) -> Vec<Start> {
        let calls: Vec<Call> = kernels.iter().map(|&kernel| Call { kernel, args: Box::new([]) }).collect();
        in_sequence(&calls, find).map(|(_, _, start)| start).collect()
    }

    #[test]
    fn the_first_launch_of_a_list_never_starts_early() {
        use Start::{Early, InOrder};
        assert_eq!(starts(&[0]), [InOrder]);
        assert_eq!(starts(&[1]), [InOrder]);
        assert_eq!(starts(&[0, 0, 0]), [InOrder, Early, Early]);
        // Nor does a kernel that does not wait by itself, at any place; whoever follows it may.
        assert_eq!(starts(&[1, 1, 0, 1, 0]), [InOrder, InOrder, Early, InOrder, Early]);
        assert!(starts(&[]).is_empty());
        // A kernel that there is not has no launch, and does not make the next one a second.
        assert_eq!(starts(&[7, 0, 0]), [InOrder, Early]);
    }

    #[test]
    fn launches_keep_their_order_and_their_kernels() {
        let calls = [(1, 10), (0, 20), (1, 30)];
        let calls = calls.map(|(kernel, arg)| Call { kernel, args: Box::new([arg]) });
        let launched: Vec<_> =
            in_sequence(&calls, find).map(|(k, call, _)| (k.waits, call.args[0])).collect();
        assert_eq!(launched, [(false, 10), (true, 20), (false, 30)]);
    }
}
