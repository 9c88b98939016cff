//! Malformed model files made here, one case a rule of the format: each must be refused with the error of that rule.
//! Beside the single defects: truncation at every byte, twenty thousand random mutations, files that change while
//! they are read, and files built to cost time.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a failed case ends the test")]

mod bytes;
mod changes;
mod costs;
mod header_and_entries;
mod tensors;

use monomorph_runtime::gguf::{Gguf, GgufError};

/// The error of a file that must be refused, whose line must be fit to print.
fn refuse(id: &str, file: Vec<u8>) -> GgufError {
    match Gguf::from_bytes(file) {
        Ok(g) => panic!("{id}: accepted: {g:?}"),
        Err(error) => {
            let line = error.to_string();
            assert!(line.chars().count() <= 300, "{id}: {} characters: {line}", line.chars().count());
            assert!(!line.chars().any(char::is_control), "{id}: control character in {line:?}");
            error
        }
    }
}

/// `cases! { id: file => pattern, … }` checks that each file is refused with an error that matches.
macro_rules! cases {
    ($($id:literal: $file:expr => $pattern:pat $(if $guard:expr)?,)*) => {
        $(
            let error = crate::refuse($id, $file);
            assert!(matches!(&error, $pattern $(if $guard)?), "{}: {error:?}: {error}", $id);
        )*
    };
}
pub(crate) use cases;
