//! Where weights come from: a model file, or a seeded generator of the same shapes.

use plan::Table;

use crate::binding::BindError;
use crate::gguf::GgufError;

/// Something that can stand for the weights of a model.
pub trait WeightSource: Sync {
    /// Checks that this is the model of `table` and finds its tensors.
    ///
    /// # Errors
    /// The first difference.
    fn bind<'a>(&'a self, table: &'a Table) -> Result<Box<dyn BoundWeights + 'a>, BindError>;
}

/// A source whose tensors are those of one table.
pub trait BoundWeights: Sync {
    /// Fills `out` with the bytes of weight number `weight` of the table, as a GGUF file has them, from byte
    /// `offset` on, and checks that their scales are finite. `offset` and length are multiples of the block.
    ///
    /// # Errors
    /// When they cannot be read, or names the block that is not finite.
    fn read(&self, weight: usize, offset: u64, out: &mut [u8]) -> Result<(), GgufError>;

    /// Divisors of the RoPE frequencies, one for each pair of a head, all positive; none for most models.
    ///
    /// # Errors
    /// When they cannot be read or are not positive and finite.
    fn rope_factors(&self) -> Result<Option<Vec<f32>>, BindError> {
        Ok(None)
    }
}
