//! Ctrl-C: it ends a reply, not the program. With no reply under way the first one says how to leave, the second leaves.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use monomorph::runtime::CancelToken;

use super::super::output::note;

/// The status of a program that Ctrl-C ended: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

#[derive(Default)]
struct State {
    /// The turn that is under way.
    turn: Option<CancelToken>,
    /// Pressed with no turn under way since the last line.
    warned: bool,
}

/// Takes Ctrl-C for the rest of the program.
#[derive(Clone)]
pub struct Interrupts {
    state: Arc<Mutex<State>>,
}

impl Interrupts {
    /// Installs the handler.
    pub fn install() -> Result<Interrupts> {
        let interrupts = Interrupts { state: Arc::default() };
        let handled = interrupts.clone();
        ctrlc::set_handler(move || handled.pressed()).context("cannot take Ctrl-C")?;
        Ok(interrupts)
    }

    fn pressed(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.turn {
            Some(turn) => turn.cancel(),
            None if state.warned => std::process::exit(INTERRUPTED),
            None => {
                state.warned = true;
                note("\n(Ctrl-C again, Ctrl-D or /exit to leave)");
            }
        }
    }

    /// A line was read, and a turn begins that ends with the token's cancellation.
    pub fn begin(&self) -> CancelToken {
        let token = CancelToken::new();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { turn: Some(token.clone()), warned: false };
        token
    }

    /// The turn is over.
    pub fn end(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).turn = None;
    }
}
