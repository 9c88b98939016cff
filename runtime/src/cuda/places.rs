//! Who may have CTAs that wait for later ones: of the queues on a device one at a time, so that the places of all that wait
//! are never taken by others that wait too.
//!
//! Other work on the device ends whether or not these wait, and so gives its places back.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ordinals of the devices whose places are taken.
static TAKEN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn taken() -> MutexGuard<'static, BTreeSet<u32>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A queue's right to the places of a device, given back with it.
pub(super) struct Places {
    ordinal: u32,
    n: u32,
}

impl Places {
    /// All `n` places of device `ordinal`, or none when another queue of this process has them.
    pub fn of(ordinal: u32, n: u32) -> Places {
        let free = taken().insert(ordinal);
        Places { ordinal, n: if free { n } else { 0 } }
    }

    pub fn count(&self) -> u32 {
        self.n
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if self.n > 0 {
            taken().remove(&self.ordinal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_queue_of_a_device_has_its_places_at_a_time() {
        // Ordinals that no device of a test has.
        let first = Places::of(1000, 132);
        let (second, other) = (Places::of(1000, 132), Places::of(1001, 84));
        assert_eq!((first.count(), second.count(), other.count()), (132, 0, 84));
        drop(second);
        assert_eq!(Places::of(1000, 132).count(), 0, "the one without places gave none back");
        drop(first);
        assert_eq!(Places::of(1000, 132).count(), 132);
        assert_eq!(Places::of(1000, 132).count(), 132, "given back at the end of the line before");
    }
}
