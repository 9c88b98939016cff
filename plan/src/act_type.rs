//! What the vectors that go into matrices are made of.

use std::fmt;

/// The element type of activations: of every vector that a matrix is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ActType {
    /// Blocks of 32 int8 with an f32 scale, multiplied by integer dot products.
    #[default]
    Int8,
    /// As computed: weights are widened to f32 and multiplied in f32, which is exact but for the rounding of sums, and
    /// several times the arithmetic.
    F32,
}

impl ActType {
    /// Every type.
    pub const ALL: [ActType; 2] = [ActType::Int8, ActType::F32];

    /// The name in specs.
    pub const fn name(self) -> &'static str {
        match self {
            ActType::Int8 => "int8",
            ActType::F32 => "f32",
        }
    }

    /// The type of a name.
    pub fn from_name(name: &str) -> Option<ActType> {
        ActType::ALL.into_iter().find(|t| t.name() == name)
    }
}

impl fmt::Display for ActType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for t in ActType::ALL {
            assert_eq!(ActType::from_name(t.name()), Some(t));
        }
        assert_eq!(ActType::from_name("f16"), None);
    }
}
