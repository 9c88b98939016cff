//! Element types by role and layer.

use ::plan::{QType, Role};
use std::collections::BTreeMap;

/// The type of one role over the layers: a default and the layers that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTypes {
    /// The type of layers not listed.
    pub default: QType,
    /// Layers of another type, ascending.
    pub others: BTreeMap<QType, Vec<u32>>,
}

impl LayerTypes {
    /// One type in every layer.
    pub fn uniform(default: QType) -> LayerTypes {
        LayerTypes { default, others: BTreeMap::new() }
    }

    /// From one type a layer; the most frequent becomes the default (the first of equals).
    pub fn from_layers(layers: &[QType]) -> Option<LayerTypes> {
        let mut by_type: BTreeMap<QType, Vec<u32>> = BTreeMap::new();
        for (layer, qtype) in (0u32..).zip(layers) {
            by_type.entry(*qtype).or_default().push(layer);
        }
        let most = by_type.values().map(Vec::len).max()?;
        let default = *by_type.iter().find(|(_, list)| list.len() == most)?.0;
        by_type.remove(&default);
        Some(LayerTypes { default, others: by_type })
    }

    /// The type in a layer.
    pub fn get(&self, layer: u32) -> QType {
        self.others
            .iter()
            .find(|(_, layers)| layers.contains(&layer))
            .map_or(self.default, |(qtype, _)| *qtype)
    }
}

/// Types of every matrix role; vectors are F32.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TensorTypes(pub BTreeMap<Role, LayerTypes>);

impl TensorTypes {
    /// The type of a role in a layer; F32 for roles without an entry.
    pub fn get(&self, role: Role, layer: u32) -> QType {
        self.0.get(&role).map_or(QType::F32, |types| types.get(layer))
    }
}
