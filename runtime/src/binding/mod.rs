//! Whether a model file is the model that a table's kernels were made for.
//!
//! Every hyperparameter is baked into the kernels, so that a file which differs in one would give wrong numbers
//! without a sound. The comparison is therefore complete: architecture, each hyperparameter, the exact set of
//! tensors, each one's shape and type. What the file says is never used as a size.

mod error;
mod select;

use plan::{Dims, QType, Slot, Table, WeightDesc};

use crate::gguf::{GgmlType, Gguf, GgufError, Name, Tensor, optional};
use crate::source::{BoundWeights, WeightSource};

pub use error::BindError;
pub use select::select_table;

/// Base of the RoPE frequencies where the file does not say.
const DEFAULT_ROPE_BASE: f32 = 10_000.0;

/// Divisors of the RoPE frequencies, which some models carry beside their weights; they go into the RoPE table.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// How far a file got through the checks before the first difference; orders specs by nearness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Progress(usize);

/// The tensors of a file in the order of a table's weights.
struct BoundGguf<'a> {
    gguf: &'a Gguf,
    /// Tensor number, type and name.
    tensors: Vec<(usize, GgmlType, String)>,
    /// Tensor number of [`ROPE_FACTORS`] and how many there are.
    rope_factors: Option<(usize, usize)>,
}

impl WeightSource for Gguf {
    fn bind<'a>(&'a self, table: &'a Table) -> Result<Box<dyn BoundWeights + 'a>, BindError> {
        match bind(self, table) {
            Ok(bound) => Ok(Box::new(bound)),
            Err((_, error)) => Err(error),
        }
    }
}

impl BoundWeights for BoundGguf<'_> {
    fn read(&self, weight: usize, offset: u64, out: &mut [u8]) -> Result<(), GgufError> {
        let Some((idx, ty, name)) = self.tensors.get(weight) else {
            return Err(GgufError::TensorIndex { found: weight, limit: self.tensors.len() });
        };
        self.gguf.read_tensor(*idx, offset, out)?;
        crate::gguf::check_block_scales(*ty, name, offset / ty.block_bytes(), out)
    }

    fn rope_factors(&self) -> Result<Option<Vec<f32>>, BindError> {
        let Some((idx, n)) = self.rope_factors else { return Ok(None) };
        let mut factors = vec![0.0f32; n];
        self.gguf.read_tensor(idx, 0, bytemuck::cast_slice_mut(&mut factors))?;
        match factors.iter().position(|factor| !(*factor > 0.0 && factor.is_finite())) {
            None => Ok(Some(factors)),
            Some(index) => Err(BindError::RopeFactor { name: ROPE_FACTORS, index, found: factors[index] }),
        }
    }
}

/// The factors, where the file has them and the table rotates by a RoPE table that they can go into.
fn find_rope_factors(gguf: &Gguf, table: &Table) -> Result<Option<(usize, usize)>, BindError> {
    if table.find_buffer(Slot::RopeTable).is_none() || gguf.find_tensor(ROPE_FACTORS).is_none() {
        return Ok(None);
    }
    let n = table.dims.head_dim / 2;
    let tensor = gguf.expect_tensor(ROPE_FACTORS, &[u64::from(n)], &[GgmlType::F32])?;
    Ok(Some((tensor.idx(), n as usize)))
}

fn bind<'a>(gguf: &'a Gguf, table: &'a Table) -> Result<BoundGguf<'a>, (Progress, BindError)> {
    let mut passed = 0;
    check_dims(gguf, table, &mut passed).map_err(|error| (Progress(passed), error))?;
    let mut tensors = Vec::with_capacity(table.weights.len());
    for weight in table.weights.iter() {
        let tensor = find_weight(gguf, table, weight).map_err(|error| (Progress(passed), error))?;
        tensors.push((tensor.idx(), tensor.ggml_type(), weight.name()));
        passed += 1;
    }
    let rope_factors = find_rope_factors(gguf, table).map_err(|error| (Progress(passed), error))?;
    let used = tensors.iter().map(|(idx, _, _)| *idx).chain(rope_factors.map(|(idx, _)| idx));
    check_no_extra(gguf, table, used).map_err(|error| (Progress(passed), error))?;
    Ok(BoundGguf { gguf, tensors, rope_factors })
}

/// Compares hyperparameters one at a time; `passed` counts those that agree.
fn check_dims(gguf: &Gguf, table: &Table, passed: &mut usize) -> Result<(), BindError> {
    let dims = &table.dims;
    let reader = DimReader { gguf, table };
    let found = gguf.get_str("general.architecture")?;
    reader.same("general.architecture", found, &*dims.architecture)?;
    *passed += 1;
    for (key, wanted, default) in integers(dims) {
        let key = format!("{}.{key}", dims.architecture);
        reader.same(&key, reader.integer(&key, default)?, wanted)?;
        *passed += 1;
    }
    for (key, wanted, default) in [
        ("attention.layer_norm_rms_epsilon", dims.norm_eps, None),
        ("rope.freq_base", dims.rope_base, Some(DEFAULT_ROPE_BASE)),
    ] {
        let key = format!("{}.{key}", dims.architecture);
        reader.same(&key, reader.number(&key, default)?, wanted)?;
        *passed += 1;
    }
    reader.windows()?;
    reader.rope_scaling()
}

/// Key without the architecture, what the table has, and what a file without the key means.
fn integers(d: &Dims) -> [(&'static str, u32, Option<u32>); 8] {
    // The file's own values were compared before they are used as a default: `dim` and `n_heads` are the table's.
    let default_head_dim = d.dim.checked_div(d.n_heads);
    [
        ("embedding_length", d.dim, None),
        ("block_count", d.n_layers, None),
        ("feed_forward_length", d.hidden_dim, None),
        ("attention.head_count", d.n_heads, None),
        ("attention.head_count_kv", d.n_kv_heads, Some(d.n_heads)),
        ("attention.key_length", d.head_dim, default_head_dim),
        ("attention.value_length", d.head_dim, default_head_dim),
        ("rope.dimension_count", d.head_dim, Some(d.head_dim)),
    ]
}

/// Reads hyperparameters of one file for one table.
struct DimReader<'a> {
    gguf: &'a Gguf,
    table: &'a Table,
}

impl DimReader<'_> {
    fn same<T: PartialEq + ToString>(&self, key: &str, found: T, wanted: T) -> Result<(), BindError> {
        if found == wanted {
            return Ok(());
        }
        Err(BindError::Hyperparameter {
            key: key.into(),
            found: Name::from(found.to_string().as_str()).as_str().to_owned(),
            wanted: wanted.to_string(),
            spec: self.table.spec.to_string(),
        })
    }

    fn integer(&self, key: &str, default: Option<u32>) -> Result<u32, GgufError> {
        or_default(self.gguf.get_u32(key), default)
    }

    fn number(&self, key: &str, default: Option<f32>) -> Result<f32, GgufError> {
        or_default(self.gguf.get_f32(key), default)
    }

    /// Layers with a window: its length, and what the file may say instead of what the architecture implies.
    fn windows(&self) -> Result<(), BindError> {
        let dims = &self.table.dims;
        let key = |word: &str| format!("{}.{word}", dims.architecture);
        let window = key("attention.sliding_window");
        let Some(sliding) = dims.variant.sliding else {
            return self.same(&window, self.integer(&window, Some(0))?, 0);
        };
        self.same(&window, self.integer(&window, None)?, sliding.window)?;
        let every = key("attention.sliding_window_pattern");
        // An array says it layer by layer; only files of other architectures do.
        self.same(&every, self.integer(&every, Some(sliding.global_every))?, sliding.global_every)?;
        let base = key("rope.freq_base_swa");
        self.same(&base, self.number(&base, Some(sliding.rope_base))?, sliding.rope_base)
    }

    /// Frequencies are scaled linearly or not at all, so that a file which asks for more would run with wrong positions.
    fn rope_scaling(&self) -> Result<(), BindError> {
        let (arch, wanted) = (&self.table.dims.architecture, self.table.dims.variant.rope_scale);
        let key = format!("{arch}.rope.scaling.type");
        let scaled = match optional(self.gguf.get_str(&key))? {
            None | Some("none") => wanted != 1.0,
            Some("linear") => true,
            Some(found) => return self.same(&key, found, "none or linear"),
        };
        let key = format!("{arch}.rope.scaling.factor");
        self.same(&key, self.number(&key, if scaled { None } else { Some(1.0) })?, wanted)
    }
}

fn or_default<T>(found: Result<T, GgufError>, default: Option<T>) -> Result<T, GgufError> {
    match default {
        None => found,
        Some(default) => Ok(optional(found)?.unwrap_or(default)),
    }
}

fn ggml_type(qtype: QType) -> Option<GgmlType> {
    GgmlType::from_id(qtype.ggml_id())
}

/// `cols`, then `rows` unless it is a vector.
fn shape(weight: &WeightDesc) -> Vec<u64> {
    match weight.rows {
        1 => vec![u64::from(weight.cols)],
        rows => vec![u64::from(weight.cols), u64::from(rows)],
    }
}

fn find_weight<'a>(gguf: &'a Gguf, table: &Table, weight: &WeightDesc) -> Result<Tensor<'a>, BindError> {
    let name = weight.name();
    let wanted_shape = shape(weight);
    let Some(tensor) = gguf.find_tensor(&name) else {
        return Err(BindError::Missing {
            role: weight.role,
            layer: weight.layer,
            name,
            wanted: format!("{:?} {}", wanted_shape, weight.qtype),
            spec: table.spec.to_string(),
            architecture: table.dims.architecture.to_string(),
        });
    };
    if tensor.dims() != wanted_shape || ggml_type(weight.qtype) != Some(tensor.ggml_type()) {
        return Err(BindError::Tensor {
            role: weight.role,
            layer: weight.layer,
            name,
            offset: tensor.file_offset(),
            found: format!("{:?} {}", tensor.dims(), tensor.ggml_type().name().to_lowercase()).into(),
            wanted: format!("{:?} {}", wanted_shape, weight.qtype).into(),
            spec: (*table.spec).into(),
        });
    }
    Ok(tensor)
}

/// A tensor that nothing uses means that the model computes something that the kernels do not.
fn check_no_extra(gguf: &Gguf, table: &Table, needed: impl Iterator<Item = usize>) -> Result<(), BindError> {
    let mut used = vec![false; gguf.n_tensors()];
    for idx in needed {
        if let Some(slot) = used.get_mut(idx) {
            *slot = true;
        }
    }
    let Some(extra) = used.iter().position(|used| !used).and_then(|idx| gguf.tensor(idx)) else {
        return Ok(());
    };
    Err(BindError::Extra {
        name: extra.name().into(),
        offset: extra.file_offset(),
        spec: table.spec.to_string(),
        found: gguf.n_tensors(),
        wanted: table.weights.len(),
    })
}
