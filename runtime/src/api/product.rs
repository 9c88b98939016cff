//! Where a step multiplies by a matrix: which launch, where its vector goes in and where the product comes out.

use plan::{Arg, Launch, Slot, Step, StepKind, Table};

use super::error::ApiError;

/// A launch that multiplies by a matrix and stores the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Product<'t> {
    pub launch: &'t Launch,
    /// The arguments for the vector's quants and for its scales and sums.
    pub quants: Arg,
    pub meta: Arg,
    /// The argument for the product.
    pub out: Arg,
    /// Bytes of other matrices' products before this one's.
    pub before: u64,
    /// Bytes of this one's.
    pub bytes: u64,
}

/// What a launch does with a matrix.
enum Found<'t> {
    Product(Product<'t>),
    /// Multiplies and stores something else.
    Fused(&'t str),
}

/// The step whose launches multiply by single matrices: the smallest that decodes several rows. Those of the one-row step do
/// more than that; the bits are the same.
pub(super) fn step(table: &Table) -> Option<&Step> {
    let several = |step: &&Step| step.kind == StepKind::Decode && step.rows > 1;
    table.steps.iter().filter(several).min_by_key(|step| step.rows).or_else(|| table.single())
}

/// The launch that multiplies by weight `place` of `table`.
pub(super) fn find<'t>(table: &'t Table, step: &'t Step, place: usize) -> Result<Product<'t>, ApiError> {
    let mut fused = None;
    for launch in step.launches.iter() {
        match look(table, step, launch, place) {
            Some(Found::Product(product)) => return Ok(product),
            Some(Found::Fused(kernel)) => fused = fused.or(Some(kernel)),
            None => {}
        }
    }
    let (name, rows, cols) =
        table.weights.get(place).map_or_else(Default::default, |w| (w.name(), w.rows, w.cols));
    Err(match fused {
        Some(kernel) => ApiError::OnlyFused { name, kernel: kernel.to_owned() },
        None => ApiError::NotMatrix { name, rows, cols },
    })
}

fn look<'t>(table: &'t Table, step: &'t Step, launch: &'t Launch, place: usize) -> Option<Found<'t>> {
    let kernel = table.kernels.get(launch.kernel as usize)?;
    let wanted = table.weights.get(place).filter(|weight| weight.role.is_matrix())?;
    launch.args.contains(&Arg::Weight(place as u32)).then_some(())?;
    let slot = |arg: Arg| match arg {
        Arg::Buffer { index, .. } => step.buffers.get(index as usize).map(|desc| desc.slot),
        Arg::Weight(_) => None,
    };
    let find = |fits: &dyn Fn(Option<Slot>, &plan::ParamDesc) -> bool| {
        let mut pairs = launch.args.iter().zip(kernel.params.iter());
        pairs.find(|(arg, param)| fits(slot(**arg), param)).map(|(arg, _)| *arg)
    };
    let read = |param: &plan::ParamDesc| !param.access.writes();
    // The embedding takes rows of the same matrix without a vector: no product.
    let quants = find(&|slot, p| read(p) && matches!(slot, Some(Slot::ActQuants | Slot::FfnQuants)))?;
    let meta = find(&|slot, p| read(p) && matches!(slot, Some(Slot::ActMeta | Slot::FfnMeta)))?;
    let Some(out) = find(&|slot, p| !read(p) && slot.is_some() && p.elem == "f32") else {
        return Some(Found::Fused(&kernel.name));
    };
    let weights = launch.args.iter().filter_map(|arg| match arg {
        Arg::Weight(idx) => Some(*idx as usize),
        Arg::Buffer { .. } => None,
    });
    let earlier = weights.take_while(|idx| *idx != place).filter_map(|idx| table.weights.get(idx));
    let before = earlier.map(|weight| u64::from(weight.rows) * 4).sum();
    Some(Found::Product(Product { launch, quants, meta, out, before, bytes: u64::from(wanted.rows) * 4 }))
}
