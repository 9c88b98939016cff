//! Models that are part of the program, so that it has something to say before any file is fetched.

/// A model file inside the program.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Its name, which is that of its spec.
    pub name: &'static str,
    /// The GGUF file, whole.
    pub gguf: &'static [u8],
}

/// Trained here on public-domain stories: `models/tiny.md`.
#[cfg(feature = "model-tiny")]
const BUILT_IN: &[BuiltIn] = &[BuiltIn { name: "tiny", gguf: include_bytes!("../models/tiny.gguf") }];
#[cfg(not(feature = "model-tiny"))]
const BUILT_IN: &[BuiltIn] = &[];

/// The built-in model of a name, where this build has it.
#[must_use]
pub fn built_in(name: &str) -> Option<BuiltIn> {
    BUILT_IN.iter().copied().find(|model| model.name == name)
}
