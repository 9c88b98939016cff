//! Parity: a loaded model held against the same weights on another device, bit for bit, before anybody relies on it.

use runtime::{Error, Model};

/// Why two models are not held to be the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParityError {
    /// One of them could not run.
    #[error(transparent)]
    Runtime(#[from] Error),
    /// The models are of different tables.
    #[error("the models are of different tables: {device}, the reference {reference}")]
    Table {
        /// Spec and hash of the device's.
        device: String,
        /// Spec and hash of the reference's.
        reference: String,
    },
    /// There is nothing to compare.
    #[error("no tokens to compare at")]
    NoTokens,
    /// Logits differ.
    #[error(
        "parity: token {index} ({token}): logit {logit} is {device:?} ({:#010x}), the reference has {reference:?} ({:#010x}); \
         {n_differing} of {n_logits} logits differ", device.to_bits(), reference.to_bits()
    )]
    Differs {
        /// Which of the tokens.
        index: usize,
        /// The token.
        token: u32,
        /// The first logit that differs.
        logit: usize,
        /// The device's.
        device: f32,
        /// The reference's.
        reference: f32,
        /// Logits that differ.
        n_differing: usize,
        /// Logits.
        n_logits: usize,
    },
}

/// Runs `tokens` one after the other through both models, in sessions of their own, and compares all logits after each,
/// bit for bit.
///
/// # Errors
/// [`ParityError::Differs`] at the first logit that differs; [`ParityError::Table`] and [`ParityError::NoTokens`] before
/// anything runs; or when a model cannot run.
pub fn check(device: &Model, reference: &Model, tokens: &[u32]) -> Result<(), ParityError> {
    let name = |model: &Model| format!("{} {}", model.table().spec, model.table().hash);
    if device.table().hash != reference.table().hash {
        return Err(ParityError::Table { device: name(device), reference: name(reference) });
    }
    if tokens.is_empty() {
        return Err(ParityError::NoTokens);
    }
    let (mut on_device, mut on_reference) = (device.session()?, reference.session()?);
    let n_logits = device.table().dims.vocab_size as usize;
    let (mut found, mut wanted) = (vec![0.0f32; n_logits], vec![0.0f32; n_logits]);
    for (index, token) in tokens.iter().enumerate() {
        on_device.step_with_head(*token)?;
        on_reference.step_with_head(*token)?;
        on_device.logits(&mut found)?;
        on_reference.logits(&mut wanted)?;
        compare((index, *token), &found, &wanted)?;
    }
    Ok(())
}

fn compare((index, token): (usize, u32), device: &[f32], reference: &[f32]) -> Result<(), ParityError> {
    let pairs = || device.iter().zip(reference).enumerate().filter(|(_, (a, b))| a.to_bits() != b.to_bits());
    match pairs().next() {
        None => Ok(()),
        Some((logit, (found, wanted))) => Err(ParityError::Differs {
            index,
            token,
            logit,
            device: *found,
            reference: *wanted,
            n_differing: pairs().count(),
            n_logits: device.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bit_that_differs_is_named_with_both_values() {
        let error = compare((2, 40), &[1.0, 0.0, 5.0], &[1.0, -0.0, 6.0]).unwrap_err();
        assert!(matches!(error, ParityError::Differs { index: 2, token: 40, logit: 1, n_differing: 2, .. }));
        let text = error.to_string();
        assert!(text.contains("logit 1 is 0.0 (0x00000000)") && text.contains("-0.0 (0x80000000)"), "{text}");
        assert!(compare((0, 1), &[f32::NAN], &[f32::NAN]).is_ok());
    }
}
