//! How many rows the steps of a plan have. Each is a set of kernels of its own: more steps fit numbers of rows better and
//! take longer to make and to load.

use super::{ModelSpec, SpecError};

/// The most rows of a step to decode: kernels are held against their references up to here.
const MOST_DECODE: u32 = 64;
/// The most rows of a step of prefill.
const MOST_PREFILL: u32 = 1024;
/// The most steps of a kind.
const MOST_STEPS: usize = 16;

/// Rows of the steps of each kind, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRows {
    /// Of steps to decode; the first has one row. A batch may have as many rows as the last.
    pub decode: Vec<u32>,
    /// Of steps to prefill; none: prompts go token by token.
    pub prefill: Vec<u32>,
}

impl Default for StepRows {
    fn default() -> StepRows {
        StepRows { decode: vec![1, 2, 4, 8, 16, 32], prefill: vec![8, 32, 512] }
    }
}

impl ModelSpec {
    pub(super) fn check_steps(&self) -> Result<(), SpecError> {
        let StepRows { decode, prefill } = &self.steps;
        if decode.first() != Some(&1) {
            return Err(self.misfit(
                "steps.decode",
                list(decode),
                "the first step has 1 row, which sessions run by",
            ));
        }
        for (field, rows, range) in
            [("steps.decode", decode, 1..=MOST_DECODE), ("steps.prefill", prefill, 2..=MOST_PREFILL)]
        {
            let (least, most) = range.clone().into_inner();
            if let Some(outside) = rows.iter().find(|rows| !range.contains(rows)) {
                return Err(self.misfit(field, outside, format!("a step has {least} to {most} rows")));
            }
            if !rows.is_sorted_by(|a, b| a < b) {
                return Err(self.misfit(field, list(rows), "they must ascend"));
            }
            if rows.len() > MOST_STEPS {
                return Err(self.misfit(
                    field,
                    rows.len(),
                    format!("at most {MOST_STEPS} steps are laid out"),
                ));
            }
        }
        Ok(())
    }
}

fn list(rows: &[u32]) -> String {
    format!("{rows:?}")
}
