//! Weights that are used in place of those of the files.

use unfog_core::nn::weights::{WeightData, f32_to_f16};

use super::network::Network;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::memory;

/// The values of a weight.
#[derive(Debug)]
pub(super) enum Changed {
    F32(Vec<f32>),
    F16(Vec<u16>),
}

impl Changed {
    pub(super) fn view(&self) -> WeightData<'_> {
        match self {
            Self::F32(values) => WeightData::F32(values),
            Self::F16(values) => WeightData::F16(values),
        }
    }
}

impl Weights {
    /// The values of weight number `i` in f32.
    ///
    /// # Errors
    /// Too little memory, no such weight.
    pub(super) fn widened(&self, i: usize) -> Result<Vec<f32>> {
        let data = self.data();
        let data = data.get(i).ok_or_else(|| Error::failure(format!("there is no weight number {i}")))?;
        memory::collect((0..data.len()).map(|i| data.at(i)))
    }

    /// Uses `values` for weight number `i`, which is called `name`: as they are, or as half floats where these can hold them.
    ///
    /// # Errors
    /// Values that are not finite, too little memory.
    pub(super) fn change(&mut self, i: usize, name: &str, values: Vec<f32>, halves: bool) -> Result<()> {
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::failure(format!("weight {name} becomes {} at index {at}", values[at]))
                .hint("a file that changes it is damaged, or its weight is too large"));
        }
        let mut narrow = memory::room(if halves { values.len() } else { 0 })?;
        if halves {
            narrow.extend(values.iter().copied().map_while(f32_to_f16));
        }
        let fits = halves && narrow.len() == values.len();
        self.changed.insert(i, if fits { Changed::F16(narrow) } else { Changed::F32(values) });
        Ok(())
    }
}

impl Weights {
    /// Puts rows of `dim` values into the table that is the weight called `name` of `network`, which grows as far as their numbers lead.
    ///
    /// # Errors
    /// No such weight, too little memory.
    pub(crate) fn set_rows<'r>(
        &mut self,
        network: &Network,
        name: &str,
        dim: usize,
        rows: impl Iterator<Item = (u32, &'r [f32])>,
        halves: bool,
    ) -> Result<()> {
        let missing = || Error::failure(format!("the network has no weight {name}"));
        let i = network.names().iter().position(|own| own == name).ok_or_else(missing)?;
        let mut values = self.widened(i)?;
        for (row, vector) in rows {
            let start = row as usize * dim;
            if values.len() < start + dim {
                memory::resize(&mut values, start + dim, 0.0)?;
            }
            values[start..start + dim].copy_from_slice(vector);
        }
        self.change(i, name, values, halves)
    }
}
