//! The weights of a layer by role, and finding one by its name in the file.

use plan::{Role, Table, WeightDesc};

use super::error::{ApiError, LayerField};
use crate::error::Error;
use crate::model::Model;
use crate::queue::DeviceAddr;

/// One value for each weight of a layer; `None` where a model may do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer<T> {
    /// Norm before attention, f32 `[dim]`.
    pub attn_norm: T,
    /// Q, `[q_dim][dim]`.
    pub q: T,
    /// K, `[kv_dim][dim]`.
    pub k: T,
    /// V, `[kv_dim][dim]`.
    pub v: T,
    /// Output matrix of attention, `[dim][q_dim]`.
    pub o: T,
    /// Norm before the feed-forward, f32 `[dim]`.
    pub ffn_norm: T,
    /// Gate, `[hidden_dim][dim]`; none in a plain feed-forward.
    pub gate: Option<T>,
    /// Up, `[hidden_dim][dim]`.
    pub up: T,
    /// Down, `[dim][hidden_dim]`.
    pub down: T,
    /// f32 `[q_dim]`.
    pub q_bias: Option<T>,
    /// f32 `[kv_dim]`.
    pub k_bias: Option<T>,
    /// f32 `[kv_dim]`.
    pub v_bias: Option<T>,
    /// f32 `[dim]`.
    pub o_bias: Option<T>,
    /// f32 `[hidden_dim]`.
    pub up_bias: Option<T>,
    /// f32 `[dim]`.
    pub down_bias: Option<T>,
    /// Norm of each head of Q, f32 `[head_dim]`.
    pub q_norm: Option<T>,
    /// Norm of each head of K, f32 `[head_dim]`.
    pub k_norm: Option<T>,
    /// Norm after attention, f32 `[dim]`.
    pub attn_post_norm: Option<T>,
    /// Norm after the feed-forward, f32 `[dim]`.
    pub ffn_post_norm: Option<T>,
}

/// The loaded weights of a layer.
pub type LayerWeights<'m> = Layer<WeightRef<'m>>;

/// A loaded weight. Its address stays valid for as long as the model is borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightRef<'m> {
    /// What it is: role, layer, type, shape.
    pub desc: &'m WeightDesc,
    /// Where its packed form begins on the device.
    pub addr: DeviceAddr,
    /// Length of its packed form.
    pub bytes: u64,
}

/// The field of a role, as it is called in [`Layer`].
pub(super) fn field_name(role: Role) -> &'static str {
    match role {
        Role::AttnNorm => "attn_norm",
        Role::AttnQ => "q",
        Role::AttnK => "k",
        Role::AttnV => "v",
        Role::AttnOutput => "o",
        Role::FfnNorm => "ffn_norm",
        Role::FfnGate => "gate",
        Role::FfnUp => "up",
        Role::FfnDown => "down",
        Role::AttnQBias => "q_bias",
        Role::AttnKBias => "k_bias",
        Role::AttnVBias => "v_bias",
        Role::AttnOutputBias => "o_bias",
        Role::FfnUpBias => "up_bias",
        Role::FfnDownBias => "down_bias",
        Role::AttnQNorm => "q_norm",
        Role::AttnKNorm => "k_norm",
        Role::AttnPostNorm => "attn_post_norm",
        Role::FfnPostNorm => "ffn_post_norm",
        Role::TokenEmbd | Role::OutputNorm | Role::Output | Role::OutputBias => role.gguf(),
    }
}

impl<T> Layer<T> {
    /// The roles of the fields, in order.
    pub const ROLES: [Role; 19] = [
        Role::AttnNorm,
        Role::AttnQ,
        Role::AttnK,
        Role::AttnV,
        Role::AttnOutput,
        Role::FfnNorm,
        Role::FfnGate,
        Role::FfnUp,
        Role::FfnDown,
        Role::AttnQBias,
        Role::AttnKBias,
        Role::AttnVBias,
        Role::AttnOutputBias,
        Role::FfnUpBias,
        Role::FfnDownBias,
        Role::AttnQNorm,
        Role::AttnKNorm,
        Role::AttnPostNorm,
        Role::FfnPostNorm,
    ];

    /// A layer of what `find` gives for each role.
    ///
    /// # Errors
    /// The role of the first field that no layer does without and for which `find` gives nothing.
    pub fn from_roles(mut find: impl FnMut(Role) -> Option<T>) -> Result<Self, Role> {
        let mut need = |role| find(role).ok_or(role);
        Ok(Self {
            attn_norm: need(Role::AttnNorm)?,
            q: need(Role::AttnQ)?,
            k: need(Role::AttnK)?,
            v: need(Role::AttnV)?,
            o: need(Role::AttnOutput)?,
            ffn_norm: need(Role::FfnNorm)?,
            up: need(Role::FfnUp)?,
            down: need(Role::FfnDown)?,
            gate: find(Role::FfnGate),
            q_bias: find(Role::AttnQBias),
            k_bias: find(Role::AttnKBias),
            v_bias: find(Role::AttnVBias),
            o_bias: find(Role::AttnOutputBias),
            up_bias: find(Role::FfnUpBias),
            down_bias: find(Role::FfnDownBias),
            q_norm: find(Role::AttnQNorm),
            k_norm: find(Role::AttnKNorm),
            attn_post_norm: find(Role::AttnPostNorm),
            ffn_post_norm: find(Role::FfnPostNorm),
        })
    }

    /// The field of a role; `None` where it is empty and for roles outside of layers.
    #[must_use]
    pub fn get(&self, role: Role) -> Option<&T> {
        match role {
            Role::AttnNorm => Some(&self.attn_norm),
            Role::AttnQ => Some(&self.q),
            Role::AttnK => Some(&self.k),
            Role::AttnV => Some(&self.v),
            Role::AttnOutput => Some(&self.o),
            Role::FfnNorm => Some(&self.ffn_norm),
            Role::FfnUp => Some(&self.up),
            Role::FfnDown => Some(&self.down),
            Role::FfnGate => self.gate.as_ref(),
            Role::AttnQBias => self.q_bias.as_ref(),
            Role::AttnKBias => self.k_bias.as_ref(),
            Role::AttnVBias => self.v_bias.as_ref(),
            Role::AttnOutputBias => self.o_bias.as_ref(),
            Role::FfnUpBias => self.up_bias.as_ref(),
            Role::FfnDownBias => self.down_bias.as_ref(),
            Role::AttnQNorm => self.q_norm.as_ref(),
            Role::AttnKNorm => self.k_norm.as_ref(),
            Role::AttnPostNorm => self.attn_post_norm.as_ref(),
            Role::FfnPostNorm => self.ffn_post_norm.as_ref(),
            Role::TokenEmbd | Role::OutputNorm | Role::Output | Role::OutputBias => None,
        }
    }
}

/// Where each weight of a table lies, made at load: a weight is found by layer and role, without text.
pub(crate) struct WeightIndex(Box<[(Option<u32>, Role, usize)]>);

impl WeightIndex {
    pub(crate) fn new(table: &Table) -> Self {
        let weights = table.weights.iter().enumerate();
        let mut places: Box<[_]> = weights.map(|(place, w)| (w.layer, w.role, place)).collect();
        places.sort_unstable();
        Self(places)
    }

    fn find(&self, layer: Option<u32>, role: Role) -> Option<usize> {
        let at = self.0.partition_point(|(l, r, _)| (*l, *r) < (layer, role));
        self.0.get(at).filter(|(l, r, _)| (*l, *r) == (layer, role)).map(|(_, _, place)| *place)
    }
}

/// Layer and role of a tensor's name: `blk.3.attn_q.weight`, `output.weight`.
fn parse_name(name: &str) -> Option<(Option<u32>, Role)> {
    let (layer, word) = match name.strip_prefix("blk.") {
        None => (None, name),
        Some(rest) => {
            let (digits, word) = rest.split_once('.')?;
            let layer: u32 = digits.parse().ok()?;
            // One name a weight: not `blk.+3`, not `blk.03`.
            (digits == layer.to_string()).then_some((Some(layer), word))?
        }
    };
    let role = Role::ALL.into_iter().find(|role| role.gguf() == word)?;
    (role.is_layered() == layer.is_some()).then_some((layer, role))
}

impl Model {
    pub(super) fn weight_of(&self, layer: Option<u32>, role: Role) -> Option<WeightRef<'_>> {
        let place = self.weight_index().find(layer, role)?;
        let (desc, buf) = self.table().weights.get(place).zip(self.weights().get(place))?;
        Some(WeightRef { desc, addr: buf.addr(), bytes: desc.packed_bytes })
    }

    /// The weights of layer `layer`, each with its address and length on the device.
    ///
    /// ```no_run
    /// # fn example(model: &monomorph_runtime::Model) -> Result<(), monomorph_runtime::Error> {
    /// let layer = model.layer(3)?;
    /// println!("{} lies at {:#x}: {} bytes", layer.q.desc.name(), layer.q.addr.0, layer.q.bytes);
    /// assert_eq!(model.weight("blk.3.attn_q.weight"), Some(layer.q));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ApiError::Layer`]; [`ApiError::Missing`] for tables whose layers are not those of a transformer.
    pub fn layer(&self, layer: u32) -> Result<LayerWeights<'_>, Error> {
        self.check_layer(layer)?;
        let found = Layer::from_roles(|role| self.weight_of(Some(layer), role));
        Ok(found.map_err(|role| self.missing(layer, role))?)
    }

    /// Which weight of the table has a name.
    pub(super) fn weight_place(&self, name: &str) -> Option<usize> {
        let (layer, role) = parse_name(name)?;
        self.weight_index().find(layer, role)
    }

    /// The weight of a name as GGUF files have it (`blk.3.attn_q.weight`, `output_norm.weight`), if the table has it.
    #[must_use]
    pub fn weight(&self, name: &str) -> Option<WeightRef<'_>> {
        let (layer, role) = parse_name(name)?;
        self.weight_of(layer, role)
    }

    pub(super) fn check_layer(&self, layer: u32) -> Result<(), ApiError> {
        let limit = self.table().dims.n_layers;
        if layer < limit {
            return Ok(());
        }
        Err(ApiError::Layer { layer, spec: self.table().spec.to_string(), limit })
    }

    pub(super) fn missing(&self, layer: u32, role: Role) -> ApiError {
        ApiError::Missing {
            layer,
            field: LayerField::Weight(role),
            architecture: self.table().dims.architecture.to_string(),
            spec: self.table().spec.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_layer_and_role_and_back() {
        for role in Role::ALL {
            let layer = role.is_layered().then_some(12);
            assert_eq!(parse_name(&role.tensor_name(layer)), Some((layer, role)));
        }
        for name in ["", "blk.", "blk.1", "blk.1.", "blk.+1.attn_q.weight", "blk.01.attn_q.weight"] {
            assert_eq!(parse_name(name), None, "{name}");
        }
        for name in
            ["blk.x.attn_q.weight", "attn_q.weight", "blk.0.output.weight", "blk.4294967296.attn_q.weight"]
        {
            assert_eq!(parse_name(name), None, "{name}");
        }
    }

    #[test]
    fn every_role_of_a_layer_is_a_field_of_its_own() {
        let layer = Layer::from_roles(Some).unwrap();
        for role in Role::ALL {
            assert_eq!(layer.get(role).copied(), role.is_layered().then_some(role));
            assert_eq!(Layer::<()>::ROLES.contains(&role), role.is_layered());
        }
        let mut names = Layer::<()>::ROLES.map(field_name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Layer::<()>::ROLES.len());
        assert_eq!(Layer::from_roles(|role| (role != Role::FfnDown).then_some(())), Err(Role::FfnDown));
    }
}
