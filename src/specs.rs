//! The model specs that ship with the program, and finding one by name or by file.

use std::fs;
use std::path::{Path, PathBuf};

use codegen::{ModelSpec, SpecError};

/// A spec of `models/` as it is embedded.
#[derive(Clone, Copy, Debug)]
pub struct ShippedSpec {
    /// File name without `.toml`.
    pub name: &'static str,
    /// The file.
    pub toml: &'static str,
    /// The cargo feature that compiles it in, for those that have one.
    pub feature: Option<&'static str>,
}

include!(concat!(env!("OUT_DIR"), "/shipped.rs"));

/// Why there is no such spec.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindSpecError {
    /// Neither shipped nor a file.
    #[error("no spec {found:?}; shipped: {shipped}; or name a .toml file")]
    Unknown {
        /// The text that was to name a spec.
        found: String,
        /// The names that would do.
        shipped: String,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The spec is refused.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// The shipped spec of that name, or the one in the file of that path when it ends in `.toml`.
///
/// # Errors
/// When there is none, or it is not one that kernels can be made for.
pub fn find(name: &str) -> Result<ModelSpec, FindSpecError> {
    if let Some(shipped) = SHIPPED.iter().find(|shipped| shipped.name == name) {
        return Ok(ModelSpec::from_toml(shipped.toml)?);
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|ext| ext != "toml") {
        return Err(FindSpecError::Unknown { found: name.to_owned(), shipped: names().join(", ") });
    }
    let text =
        fs::read_to_string(path).map_err(|source| FindSpecError::Read { path: path.to_owned(), source })?;
    Ok(ModelSpec::from_toml(&text)?)
}

/// The shipped spec of the same dimensions and tensor types, whatever its name.
#[must_use]
pub fn fitting(spec: &ModelSpec) -> Option<&'static ShippedSpec> {
    let same = |s: &ModelSpec| s.dims == spec.dims && s.types == spec.types;
    SHIPPED.iter().find(|shipped| ModelSpec::from_toml(shipped.toml).is_ok_and(|s| same(&s)))
}

/// Names of the shipped specs.
#[must_use]
pub fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|shipped| shipped.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_spec_is_named_as_its_file() {
        assert!(names().contains(&"tiny"), "{:?}", names());
        for name in names() {
            assert_eq!(find(name).unwrap().name, name);
        }
    }

    #[test]
    fn a_spec_under_another_name_is_recognised() {
        let mut spec = find("qwen2.5-1.5b").unwrap();
        spec.name = "some-file".into();
        assert_eq!(fitting(&spec).unwrap().feature, Some("model-1.5b"));
        spec.dims.n_layers = 27;
        assert!(fitting(&spec).is_none());
    }

    #[test]
    fn an_unknown_name_lists_those_that_would_do() {
        let text = find("gpt-5").unwrap_err().to_string();
        assert!(text.contains("\"gpt-5\"") && text.contains("tiny"), "{text}");
        assert!(matches!(find("/nowhere/x.toml"), Err(FindSpecError::Read { .. })));
    }
}
