//! The memory of a fatal error. Drivers report an error once and then forget it, so that we keep our own flag.

use std::sync::OnceLock;

use super::{ErrorClass, QueueError};

/// Set once, by the first fatal error, for ever.
#[derive(Debug, Default)]
pub struct Poison(OnceLock<String>);

impl Poison {
    /// Fails with the first cause when there was one.
    ///
    /// # Errors
    /// [`QueueError::Poisoned`].
    pub fn check(&self) -> Result<(), QueueError> {
        match self.0.get() {
            None => Ok(()),
            Some(first) => Err(QueueError::Poisoned { first: first.clone() }),
        }
    }

    /// Whether a fatal error happened.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// Passes `result` on and remembers it when it is fatal.
    ///
    /// # Errors
    /// That of `result`.
    pub fn watch<T>(&self, result: Result<T, QueueError>) -> Result<T, QueueError> {
        if let Err(error) = &result
            && error.class() == ErrorClass::Fatal
        {
            self.0.get_or_init(|| error.to_string());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fatal_error_stays() {
        let poison = Poison::default();
        let small = QueueError::Arguments { kernel: 0, found: 1, wanted: 2 };
        assert!(poison.watch::<()>(Err(small)).is_err());
        assert!(poison.check().is_ok());
        for trap in ["first", "second"] {
            let error = QueueError::Trap { kernel: "k".into(), trap: trap.into() };
            assert!(poison.watch::<()>(Err(error)).is_err());
        }
        let text = poison.check().unwrap_err().to_string();
        assert!(text.contains("first") && !text.contains("second"), "{text}");
    }
}
