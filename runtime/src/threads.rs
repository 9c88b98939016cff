//! Independent pieces of work on all cores: a device takes in a kernel on one thread, and a model has a hundred of them.

use std::cmp::Reverse;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A compiler takes some hundred megabytes while it runs.
const MAX_THREADS: usize = 16;

/// Makes one value for each of `efforts`, by its index; the greatest effort is begun first, so that what is begun last
/// ends soon. After an error nothing more is begun.
///
/// # Errors
/// Of those that were met, the one with the lowest index.
pub(crate) fn make_all<T: Send, E: Send>(
    efforts: &[usize],
    make: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let mut order: Vec<usize> = (0..efforts.len()).collect();
    order.sort_by_key(|idx| Reverse(efforts.get(*idx)));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        while let Some(idx) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = make(*idx);
            if result.is_err() {
                next.store(order.len(), Ordering::Relaxed);
            }
            made.push((*idx, result));
        }
        made
    };
    let n_cores = thread::available_parallelism().map_or(1, usize::from);
    let n_helpers = n_cores.min(MAX_THREADS).min(efforts.len()).saturating_sub(1);
    let mut made = thread::scope(|scope| {
        // A thread that is not given is done without.
        let helper = |_| thread::Builder::new().name("compiler".to_owned()).spawn_scoped(scope, work).ok();
        let helpers: Vec<_> = (0..n_helpers).filter_map(helper).collect();
        let mut made = work();
        for helper in helpers {
            made.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        made
    });
    made.sort_by_key(|(idx, _)| *idx);
    made.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may")]

    use std::sync::Mutex;

    use super::*;

    #[test]
    fn values_come_in_the_order_of_their_indices() {
        let efforts: Vec<usize> = (0..200).map(|idx| idx * 37 % 101).collect();
        let made: Result<Vec<usize>, ()> = make_all(&efforts, |idx| Ok(idx * 2));
        assert_eq!(made.unwrap(), (0..200).map(|idx| idx * 2).collect::<Vec<_>>());
        assert_eq!(make_all(&[], |_| Ok::<u8, ()>(0)), Ok(vec![]));
    }

    #[test]
    fn the_greatest_effort_is_begun_first() {
        let begun = Mutex::new(Vec::new());
        let one_by_one = |idx: usize| {
            let mut begun = begun.lock().unwrap();
            begun.push(idx);
            Ok::<_, ()>(())
        };
        make_all(&[3], one_by_one).unwrap();
        make_all(&[1, 9], one_by_one).unwrap();
        // Which of two threads notes its piece first is open where there are two; both begin before a third piece.
        assert_eq!(begun.lock().unwrap().len(), 3);
        begun.lock().unwrap().clear();
        let efforts: Vec<usize> = (0..64).collect();
        make_all(&efforts, one_by_one).unwrap();
        let begun = begun.into_inner().unwrap();
        let late = |at: usize| begun.iter().position(|idx| *idx == at).unwrap();
        assert!(late(63) < MAX_THREADS && late(0) >= 64 - MAX_THREADS, "{begun:?}");
    }

    #[test]
    fn after_an_error_nothing_more_is_begun() {
        let begun = AtomicUsize::new(0);
        let efforts = vec![1; 10_000];
        let made: Result<Vec<()>, usize> = make_all(&efforts, |idx| {
            begun.fetch_add(1, Ordering::Relaxed);
            if idx == 5 { Err(idx) } else { Ok(()) }
        });
        assert_eq!(made, Err(5));
        let all_errors: Result<Vec<()>, usize> = make_all(&efforts, Err);
        assert!(all_errors.unwrap_err() < MAX_THREADS);
        assert!(begun.into_inner() < 10_000);
    }
}
