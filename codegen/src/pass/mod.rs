//! The passes, in the order in which they run. Each is a function of the IR alone: equal input gives equal output.

pub mod drop_dead;
pub mod fold_constants;
mod rewrite;
pub mod share_common;

use crate::ir::Function;

/// A pass with its name.
pub type Pass = (&'static str, fn(&mut Function));

/// All passes in order.
pub const ORDER: &[Pass] = &[
    ("fold_constants", fold_constants::run),
    ("share_common", share_common::run),
    ("drop_dead", drop_dead::run),
];

/// Runs all passes.
pub fn run_all(function: &mut Function) {
    for (_, pass) in ORDER {
        pass(function);
    }
}
