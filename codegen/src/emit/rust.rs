//! The module table as Rust source: typed argument structs, one a kernel function, and the [`plan::Table`] constant.
//! The frame is a template; rows are expressions made here.

use super::Heading;
use crate::CodegenError;
use ::plan::{
    Access, Arg, BufferDesc, Dims, Ffn, KernelDesc, Launch, Place, Step, Table, Variant, WeightDesc,
};
use serde::Serialize;
use std::collections::BTreeMap;

const FRAME: &str = include_str!("../../templates/table.rs.tera");

#[derive(Serialize)]
struct ArgsStruct {
    name: String,
    kernel: String,
    fields: Vec<Field>,
}

/// A step with its rows as expressions.
#[derive(Serialize)]
struct StepRows {
    kind: String,
    rows: u32,
    arena_bytes: u64,
    buffers: Vec<String>,
    launches: Vec<String>,
}

#[derive(Serialize)]
struct Field {
    name: String,
    elem: String,
    access: &'static str,
}

pub(super) fn table(table: &Table, heading: &Heading) -> Result<String, CodegenError> {
    let mut context = tera::Context::new();
    context.insert("heading", &heading.lines());
    context.insert("structs", &structs(table));
    context.insert("spec", &*table.spec);
    context.insert("hash", &*table.hash);
    context.insert("sm", &table.sm);
    context.insert("dims", &dims(&table.dims));
    context.insert("kernels", &table.kernels.iter().map(kernel).collect::<Vec<_>>());
    context.insert("weights", &table.weights.iter().map(weight).collect::<Vec<_>>());
    context.insert("caches", &table.caches.iter().map(buffer).collect::<Vec<_>>());
    context.insert("steps", &table.steps.iter().map(step).collect::<Vec<_>>());
    let text = tera::Tera::one_off(FRAME, &context, false);
    text.map_err(|e| CodegenError::Template { template: "table.rs.tera".into(), reason: e.to_string() })
}

fn structs(table: &Table) -> Vec<ArgsStruct> {
    let mut by_name: BTreeMap<&str, &KernelDesc> = BTreeMap::new();
    for kernel in table.kernels.iter() {
        by_name.entry(&kernel.name).or_insert(kernel);
    }
    let of = |kernel: &KernelDesc| ArgsStruct {
        name: camel(&kernel.name),
        kernel: kernel.name.to_string(),
        fields: kernel.params.iter().map(field).collect(),
    };
    by_name.values().map(|k| of(k)).collect()
}

fn field(param: &plan::ParamDesc) -> Field {
    let elem = match &*param.elem {
        "u8" => "u8",
        "s8" => "i8",
        "u16" | "b16" => "u16",
        "f16" => "plan::F16",
        "bf16" => "plan::Bf16",
        "s32" => "i32",
        "f32" => "f32",
        "u64" | "b64" => "u64",
        _ => "u32",
    };
    let access = match param.access {
        Access::Read => "read",
        Access::Settled => "read, settled before the step",
        Access::Write => "written",
        Access::ReadWrite => "read and written",
    };
    Field { name: param.name.to_string(), elem: elem.into(), access }
}

fn camel(name: &str) -> String {
    let word = |w: &str| w[..1].to_uppercase() + &w[1..];
    name.split('_').filter(|w| !w.is_empty()).map(word).collect()
}

/// A float constant that reads back to the same bits.
fn float(v: f32) -> String {
    format!("{v:?}")
}

fn dims(d: &Dims) -> String {
    format!(
        "plan::Dims {{ architecture: Cow::Borrowed({:?}), vocab_size: {}, dim: {}, hidden_dim: {}, n_layers: {}, \
         n_heads: {}, n_kv_heads: {}, head_dim: {}, context: {}, norm_eps: {}, rope_kind: plan::RopeKind::{:?}, \
         rope_base: {}, qkv_bias: {}, tied_head: {}, kv_type: plan::KvType::{:?}, \
         activations: plan::ActType::{:?}, variant: {} }}",
        d.architecture,
        d.vocab_size,
        d.dim,
        d.hidden_dim,
        d.n_layers,
        d.n_heads,
        d.n_kv_heads,
        d.head_dim,
        d.context,
        float(d.norm_eps),
        d.rope_kind,
        float(d.rope_base),
        d.qkv_bias,
        d.tied_head,
        d.kv_type,
        d.activations,
        variant(&d.variant)
    )
}

/// An activation and a feed-forward as paths.
fn ffn(f: Ffn) -> String {
    let kind = if f.is_gated() { "Gated" } else { "Plain" };
    format!("plan::Ffn::{kind}(plan::Activation::{:?})", f.activation())
}

fn variant(v: &Variant) -> String {
    if *v == Variant::LLAMA {
        return "plan::Variant::LLAMA".to_owned();
    }
    let sliding = v.sliding.map(|s| {
        let (window, every, base) = (s.window, s.global_every, float(s.rope_base));
        format!("plan::Sliding {{ window: {window}, global_every: {every}, rope_base: {base} }}")
    });
    format!(
        "plan::Variant {{ ffn: {}, qk_norm: {}, post_norms: {}, attn_output_bias: {}, ffn_bias: {}, head_bias: {}, \
         embed_scale: {}, score_dim: {}, rope_scale: {}, sliding: {} }}",
        ffn(v.ffn),
        v.qk_norm,
        v.post_norms,
        v.attn_output_bias,
        v.ffn_bias,
        v.head_bias,
        float(v.embed_scale),
        v.score_dim,
        float(v.rope_scale),
        sliding.map_or_else(|| "None".to_owned(), |sliding| format!("Some({sliding})"))
    )
}

fn kernel(k: &KernelDesc) -> String {
    let param = |p: &plan::ParamDesc| {
        let (name, elem, access) = (&p.name, &p.elem, p.access);
        format!(
            "plan::ParamDesc {{ name: Cow::Borrowed({name:?}), elem: Cow::Borrowed({elem:?}), access: plan::Access::{access:?} }}"
        )
    };
    let params: Vec<String> = k.params.iter().map(param).collect();
    format!(
        "plan::KernelDesc {{ entry: Cow::Borrowed({:?}), name: Cow::Borrowed({:?}), constants: Cow::Borrowed({:?}), \
         ptx: Cow::Borrowed(include_str!(\"{}.ptx\")), grid: {:?}, block: {:?}, shared_bytes: {}, \
         cooperative: {}, params: Cow::Borrowed(&[{}]), bytes: {}, macs: {} }}",
        k.entry,
        k.name,
        k.constants,
        k.entry,
        k.grid,
        k.block,
        k.shared_bytes,
        k.cooperative,
        params.join(", "),
        k.bytes,
        k.macs
    )
}

fn weight(w: &WeightDesc) -> String {
    format!(
        "plan::WeightDesc {{ role: plan::Role::{:?}, layer: {:?}, qtype: plan::QType::{:?}, rows: {}, cols: {}, \
         packed_bytes: {}, repack: {:?} }}",
        w.role, w.layer, w.qtype, w.rows, w.cols, w.packed_bytes, w.repack
    )
}

fn buffer(b: &BufferDesc) -> String {
    let place = match b.place {
        Place::Own => "plan::Place::Own".to_owned(),
        Place::Arena { offset } => format!("plan::Place::Arena {{ offset: {offset} }}"),
    };
    format!(
        "plan::BufferDesc {{ slot: plan::Slot::{:?}, bytes: {}, bytes_per_pos: {}, place: {place} }}",
        b.slot, b.bytes, b.bytes_per_pos
    )
}

fn step(s: &Step) -> StepRows {
    StepRows {
        kind: format!("{:?}", s.kind),
        rows: s.rows,
        arena_bytes: s.arena_bytes,
        buffers: s.buffers.iter().map(buffer).collect(),
        launches: s.launches.iter().map(launch).collect(),
    }
}

fn launch(l: &Launch) -> String {
    let arg = |a: &Arg| match a {
        Arg::Weight(i) => format!("w({i})"),
        Arg::Buffer { index, offset: 0 } => format!("b({index})"),
        Arg::Buffer { index, offset } => format!("at({index}, {offset})"),
    };
    let args: Vec<String> = l.args.iter().map(arg).collect();
    format!(
        "plan::Launch {{ kernel: {}, layer: {:?}, phase: plan::Phase::{:?}, args: Cow::Borrowed(&[{}]) }}",
        l.kernel,
        l.layer,
        l.phase,
        args.join(", ")
    )
}
