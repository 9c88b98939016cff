//! The passes, in the order in which they run. Each is a function of the IR alone: equal input gives equal output.

pub mod drop_dead;
pub mod fold_addresses;
pub mod fold_constants;
pub mod fuse_logic;
pub mod hoist_invariants;
pub mod launch_order;
mod rewrite;
pub mod select_small_ifs;
pub mod share_common;

use crate::ir::Function;

/// A pass with its name.
pub type Pass = (&'static str, fn(&mut Function));

/// All passes in order.
pub const ORDER: &[Pass] = &[
    ("fold_constants", fold_constants::run),
    ("share_common", share_common::run),
    ("drop_dead", drop_dead::run),
    ("fold_addresses", fold_addresses::run),
    // Addresses that differed by a constant are now equal.
    ("share_common", share_common::run),
    ("drop_dead", drop_dead::run),
    ("hoist_invariants", hoist_invariants::run),
    ("select_small_ifs", select_small_ifs::run),
    // Values that met in one block by moving out of loops and branches.
    ("share_common", share_common::run),
    ("fuse_logic", fuse_logic::run),
    ("drop_dead", drop_dead::run),
];

#[cfg(test)]
mod tests;
