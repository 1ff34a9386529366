//! Weights in fewer bits than their file has, held in memory: for the processor's backends, and to be packed.

use unfog_core::nn::graph::{Graph, Weight, WeightUse};
use unfog_core::nn::quant::{Q4, q4_lens, takes_q4};
use unfog_core::nn::weights::{WeightData, f32_to_f16};
use unfog_core::pack::{quantise, quantise4};

use super::{Kind, Precision, Request};
use crate::error::{Error, Result};
use crate::memory;
use crate::model::Network;

/// A weight's values in memory of their own.
#[derive(Debug)]
enum Held {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Int8(Vec<i8>, Vec<f32>),
    Q4([u32; 4], Vec<u8>, Vec<u16>),
}

impl Held {
    /// The values of the weight `name` in `precision` (kernels) or f32 (everything else); `None` where they lie so already.
    ///
    /// # Errors
    /// Values that it can't hold; too little memory.
    fn new(name: &str, weight: &Weight, data: WeightData<'_>, precision: Precision) -> Result<Option<Self>> {
        let wanted = match (weight.role, precision) {
            (WeightUse::Kernel, Precision::Q4) if !takes_q4(weight) => Precision::Int8,
            (WeightUse::Kernel, precision) => precision,
            _ => Precision::F32,
        };
        let row = || memory::vec(data.len() / (weight.shape[0] as usize).max(1), 0.0);
        let held = match (wanted, data) {
            (Precision::F32, WeightData::F32(_))
            | (Precision::F16, WeightData::F16(_))
            | (Precision::Int8, WeightData::I8 { .. })
            | (Precision::Q4, WeightData::Q4(_)) => return Ok(None),
            (Precision::F32, _) => Some(Self::F32(memory::collect((0..data.len()).map(|i| data.at(i)))?)),
            (Precision::F16, _) => {
                let mut halves = memory::room(data.len())?;
                halves.extend((0..data.len()).map(|i| data.at(i)).map_while(f32_to_f16));
                (halves.len() == data.len()).then_some(Self::F16(halves))
            }
            (Precision::Int8, _) => {
                let mut integers = memory::vec(data.len(), 0)?;
                let mut scales = memory::vec(weight.shape[0] as usize, 0.0)?;
                let fits = quantise(weight, data, &mut row()?, &mut integers, &mut scales).is_some();
                fits.then_some(Self::Int8(integers, scales))
            }
            (Precision::Q4, _) => {
                let [integers, scales] = q4_lens(weight.shape).unwrap_or_default();
                let (mut integers, mut scales) = (memory::vec(integers, 0)?, memory::vec(scales, 0)?);
                let fits = quantise4(weight, data, &mut row()?, &mut integers, &mut scales).is_some();
                fits.then_some(Self::Q4(weight.shape, integers, scales))
            }
        };
        let refuse = || Error::failure(format!("weight {name} has values that {} can't hold", wanted.name()));
        held.map(Some).ok_or_else(|| refuse().hint("try --precision f32"))
    }

    /// The values.
    fn view(&self) -> WeightData<'_> {
        match self {
            Self::F32(values) => WeightData::F32(values),
            Self::F16(values) => WeightData::F16(values),
            Self::Int8(values, scales) => WeightData::I8 { values, scales },
            // Their lengths are those of the shape, by which they were made.
            Self::Q4(shape, values, scales) => {
                Q4::new(*shape, values, scales).map_or(WeightData::F32(&[]), WeightData::Q4)
            }
        }
    }
}

/// What the processor's backends hold of a network's weights: those that lie otherwise than `--precision` says. A GPU holds its own.
#[derive(Debug, Default)]
pub struct Narrowed(Vec<Option<Held>>);

impl Narrowed {
    /// Narrows the kernels of `network` as `request` says.
    ///
    /// # Errors
    /// Values that the precision can't hold; too little memory.
    pub fn new(request: &Request, network: &Network, data: &[WeightData<'_>]) -> Result<Self> {
        if request.kind == Kind::Vulkan || request.precision == Precision::F32 {
            return Ok(Self::default());
        }
        memory::check(bytes(request.precision, &network.graph()), "the weights in memory")?;
        Self::each(network, data, request.precision, |weight| weight.role == WeightUse::Kernel)
    }

    /// All weights of `network` as a pack holds them: kernels in `precision`, everything else in f32.
    ///
    /// # Errors
    /// Values that the precision can't hold; too little memory.
    pub(crate) fn packed(network: &Network, data: &[WeightData<'_>], precision: Precision) -> Result<Self> {
        Self::each(network, data, precision, |_| true)
    }

    fn each(
        network: &Network,
        data: &[WeightData<'_>],
        precision: Precision,
        which: impl Fn(&Weight) -> bool,
    ) -> Result<Self> {
        let name = |i: usize| network.names().get(i).map_or("", String::as_str);
        let weights = network.graph().weights.iter().zip(data).enumerate();
        let held = weights.map(|(i, (weight, &data))| match which(weight) {
            true => Held::new(name(i), weight, data, precision),
            false => Ok(None),
        });
        Ok(Self(held.collect::<Result<_>>()?))
    }

    /// The weights to be used where their model has `data`.
    pub fn data<'a>(&'a self, data: &[WeightData<'a>]) -> Vec<WeightData<'a>> {
        let held = self.0.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        data.iter().zip(held).map(|(data, held)| held.map_or(*data, Held::view)).collect()
    }
}

/// The most bytes that [`Narrowed`] holds of a network's kernels in `precision`.
pub(super) fn bytes(precision: Precision, graph: &Graph<'_>) -> u64 {
    let kernel = |weight: &Weight| match precision {
        Precision::F32 => 0,
        Precision::F16 => 2 * weight.len(),
        Precision::Q4 if takes_q4(weight) => {
            q4_lens(weight.shape).map_or(u64::MAX, |[integers, scales]| integers as u64 + 2 * scales as u64)
        }
        Precision::Int8 | Precision::Q4 => weight.len() + 4 * u64::from(weight.shape[0]),
    };
    graph.weights.iter().filter(|w| w.role == WeightUse::Kernel).map(kernel).fold(0, u64::saturating_add)
}
