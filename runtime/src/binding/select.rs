//! Choosing the table for a file among those that are compiled in.

use plan::Table;

use super::{BindError, Progress, bind};
use crate::gguf::Gguf;

/// How many names of specs an error lists.
const LISTED_SPECS: usize = 6;

/// The table whose spec is the file's model, for the newest target that a device of `sm` runs (`None`: any target).
///
/// # Errors
/// Says which specs are compiled in, which is nearest and where it first differs.
pub fn select_table<'t>(gguf: &Gguf, tables: &'t [Table], sm: Option<u32>) -> Result<&'t Table, BindError> {
    let mut fitting = Vec::new();
    let mut nearest: Option<(Progress, &Table, BindError)> = None;
    for table in tables {
        match bind(gguf, table) {
            Ok(_) => fitting.push(table),
            Err((progress, error)) => {
                if nearest.as_ref().is_none_or(|(best, _, _)| progress > *best) {
                    nearest = Some((progress, table, error));
                }
            }
        }
    }
    let runs = |table: &&&Table| sm.is_none_or(|sm| table.sm <= sm);
    if let Some(table) = fitting.iter().filter(runs).max_by_key(|table| table.sm) {
        return Ok(table);
    }
    if let (Some(table), Some(device_sm)) = (fitting.first(), sm) {
        let compiled = listed(fitting.iter().map(|t| format!("sm_{}", t.sm)));
        return Err(BindError::NoTarget { spec: table.spec.to_string(), compiled, device_sm });
    }
    let Some((_, table, difference)) = nearest else { return Err(BindError::NoSpecs) };
    let mut names: Vec<String> = tables.iter().map(|t| t.spec.to_string()).collect();
    names.dedup();
    Err(BindError::NoMatch {
        compiled: listed(names.into_iter()),
        nearest: table.spec.to_string(),
        difference: Box::new(difference),
    })
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let shown = names.iter().take(LISTED_SPECS).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED_SPECS) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
