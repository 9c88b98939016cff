//! Kernels that are made ready one by one, each when it is first needed: a model has five times as many as a conversation uses.

use std::sync::{Mutex, OnceLock, PoisonError};

use plan::KernelDesc;

use super::{Call, QueueError, check_call};

/// Kernels and what a device made of those that were needed. Invariant: `ready` has one element for each kernel.
pub(crate) struct OnDemand<T> {
    kernels: Vec<KernelDesc>,
    ready: Vec<OnceLock<T>>,
    /// Held while one is made, so that none is made twice.
    making: Mutex<()>,
}

impl<T> OnDemand<T> {
    /// None of them ready.
    pub fn new(kernels: Vec<KernelDesc>) -> Self {
        let ready = kernels.iter().map(|_| OnceLock::new()).collect();
        Self { kernels, ready, making: Mutex::new(()) }
    }

    /// One that is ready.
    #[cfg(feature = "cuda")]
    pub fn of_one(kernel: KernelDesc, ready: T) -> Self {
        Self { kernels: vec![kernel], ready: vec![OnceLock::from(ready)], making: Mutex::new(()) }
    }

    /// A kernel that is ready.
    pub fn get(&self, idx: u32) -> Option<&T> {
        self.ready.get(idx as usize)?.get()
    }

    /// Makes a kernel ready by `make` unless it is. A number that no kernel has is passed over.
    pub fn make(
        &self,
        idx: u32,
        make: impl FnOnce(&KernelDesc) -> Result<T, QueueError>,
    ) -> Result<(), QueueError> {
        let idx = idx as usize;
        let (Some(kernel), Some(ready)) = (self.kernels.get(idx), self.ready.get(idx)) else { return Ok(()) };
        if ready.get().is_some() {
            return Ok(());
        }
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.get().is_none() {
            let made = make(kernel)?;
            ready.get_or_init(|| made);
        }
        Ok(())
    }

    /// Refuses calls that do not fit their kernels, and makes those kernels ready.
    pub fn make_for(
        &self,
        calls: &[Call],
        make: impl Fn(&KernelDesc) -> Result<T, QueueError>,
    ) -> Result<(), QueueError> {
        let n_params = |idx: usize| self.kernels.get(idx).map(|kernel| kernel.params.len());
        calls.iter().try_for_each(|call| check_call(call, n_params))?;
        calls.iter().try_for_each(|call| self.make(call.kernel, &make))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests may")]

    use std::borrow::Cow;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use plan::{Access, ParamDesc};

    use super::*;

    fn kernel(entry: &'static str) -> KernelDesc {
        let (name, elem) = (Cow::Borrowed("x"), Cow::Borrowed("f32"));
        KernelDesc {
            entry: Cow::Borrowed(entry),
            name: Cow::Borrowed(entry),
            constants: Cow::Borrowed(""),
            ptx: Cow::Borrowed(""),
            grid: [1; 3],
            block: [1; 3],
            shared_bytes: 0,
            cooperative: false,
            params: Cow::Owned(vec![ParamDesc { name, elem, access: Access::Read }]),
            bytes: 0,
            macs: 0,
        }
    }

    fn refused() -> QueueError {
        QueueError::Range { addr: 0, wanted: 0 }
    }

    #[test]
    fn a_kernel_is_made_once_however_many_ask() {
        let kernels = OnDemand::new(vec![kernel("a"), kernel("b")]);
        let made = AtomicUsize::new(0);
        let make = |kernel: &KernelDesc| {
            made.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            Ok(kernel.entry.to_string())
        };
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| kernels.make(1, make).unwrap());
            }
        });
        assert_eq!(made.into_inner(), 1);
        assert_eq!((kernels.get(0), kernels.get(1)), (None, Some(&"b".to_owned())));
    }

    #[test]
    fn a_kernel_that_was_refused_is_tried_again() {
        let kernels = OnDemand::new(vec![kernel("a")]);
        assert!(kernels.make(0, |_| Err(refused())).is_err());
        assert_eq!(kernels.get(0), None);
        kernels.make(0, |_| Ok(5)).unwrap();
        kernels.make(0, |_| Err(refused())).unwrap();
        assert_eq!(kernels.get(0), Some(&5));
    }

    #[test]
    fn calls_are_checked_before_anything_is_made() {
        let kernels = OnDemand::new(vec![kernel("a"), kernel("b")]);
        let call = |kernel, args: &[u64]| Call { kernel, args: args.into() };
        let make = |_: &KernelDesc| Ok(());
        for wrong in [call(1, &[]), call(1, &[1, 2]), call(2, &[1])] {
            let error = kernels.make_for(&[call(0, &[1]), wrong], make).unwrap_err();
            assert!(matches!(error, QueueError::Arguments { .. }), "{error}");
            assert_eq!(kernels.get(0), None);
        }
        kernels.make_for(&[call(1, &[1])], make).unwrap();
        assert_eq!((kernels.get(0), kernels.get(1)), (None, Some(&())));
    }
}
