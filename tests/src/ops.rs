//! Cases of single ops: a graph of one node, with sentinels around every tensor and weight.

use serde_json::Value;
use unfog_core::nn::graph::{
    EMPTY_NODE, EMPTY_TENSOR, EMPTY_WEIGHT, Graph, GraphBuilder, Input, TensorId, Weight, WeightUse,
};
use unfog_core::nn::op::{
    Act, Affine, Attention, AvgPool, Concat, Conv2d, Embedding, Gate, GroupNorm, Join, LayerNorm, MAX_INPUTS,
    MAX_WEIGHTS, Modulate, Op, Shape, Unpatchify, Upsample,
};
use unfog_core::nn::quant::{Q4, q4_lens, takes_q4};
use unfog_core::nn::weights::WeightData;
use unfog_core::pack::{quantise, quantise4};

use crate::backend::Backend;
use crate::golden::{Golden, Tensor};
use crate::{TestResult, said};

/// What fills sentinels: a NaN that no arithmetic makes, so that a write over it shows, and so does a read of it.
pub const SENTINEL: u32 = 0x7fc0_5eed;

/// One op with its operands and the result that torch has.
#[derive(Debug)]
pub struct OpCase {
    /// Its number and what it is, for messages.
    pub name: String,
    /// The op.
    pub op: Op,
    inputs: [Option<Tensor>; MAX_INPUTS],
    weights: [Option<Tensor>; MAX_WEIGHTS],
    /// The result.
    pub want: Vec<f32>,
}

/// How weights are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As f32.
    F32,
    /// As f16, which the goldens' weights are exactly.
    F16,
    /// As bf16, rounded.
    Bf16,
    /// Kernels as int8 with a scale for each row.
    Int8,
    /// Kernels in 4-bit blocks, or as int8 where `takes_q4` says so.
    Q4,
    /// Kernels in 4-bit blocks, whatever their shape.
    Blocks,
}

/// What a backend made of a case.
#[derive(Debug)]
pub struct OpRun {
    /// The result.
    pub out: Vec<f32>,
    /// The first sentinel or input that changed, in words.
    pub damage: Option<String>,
}

impl OpCase {
    /// All cases.
    ///
    /// # Errors
    /// A golden file that can't be read.
    pub fn all() -> TestResult<Vec<Self>> {
        let golden = Golden::read("ops")?;
        (0..golden.cases().len()).map(|i| Self::read(&golden, i)).collect()
    }

    fn read(golden: &Golden, number: usize) -> TestResult<Self> {
        let case = &golden.cases()[number];
        let op = op(case)?;
        let operand = |kind: &str, i: usize| -> TestResult<Option<Tensor>> {
            match &case[kind][i] {
                Value::Null => Ok(None),
                _ => golden.part(number, &format!("{kind}.{i}")).cloned().map(Some),
            }
        };
        Ok(Self {
            name: format!("case {number:02}, {op:?}"),
            op,
            inputs: [operand("inputs", 0)?, operand("inputs", 1)?, operand("inputs", 2)?],
            weights: [operand("weights", 0)?, operand("weights", 1)?],
            want: golden.part(number, "out")?.values.clone(),
        })
    }

    /// Runs the case on a backend. Sentinels lie between all tensors, and, where `stored` has room for them, all weights.
    ///
    /// # Errors
    /// Those of the graph's builder and the backend.
    pub fn run(&self, backend: &Backend, stored: Stored) -> TestResult<OpRun> {
        let (mut nodes, mut tensors, mut weights) = ([EMPTY_NODE; 1], [EMPTY_TENSOR; 16], [EMPTY_WEIGHT; 8]);
        let mut g = GraphBuilder::new(&mut nodes, &mut tensors, &mut weights);
        let largest = self.inputs.iter().flatten().map(|t| t.values.len()).max().unwrap_or(0).max(self.want.len());
        let mut filled: Vec<(TensorId, Vec<f32>)> = Vec::new();
        let sentinel = |g: &mut GraphBuilder<'_>, len: usize| -> TestResult<(TensorId, Vec<f32>)> {
            let id = g.input(Input::Embedding, Shape::vector(u32::try_from(len)?)).map_err(said)?;
            Ok((id, vec![f32::from_bits(SENTINEL); len]))
        };
        // The planner places large tensors first, equal ones in the order of their ids: so one sentinel lies before all, one
        // beside each tensor, and a small one behind.
        filled.push(sentinel(&mut g, largest + 64)?);
        let mut inputs = [None; MAX_INPUTS];
        for (id, tensor) in inputs.iter_mut().zip(&self.inputs) {
            let Some(tensor) = tensor else { continue };
            let input = g.input(Input::Embedding, shape(tensor)?).map_err(said)?;
            *id = Some(input);
            filled.push((input, tensor.values.clone()));
            filled.push(sentinel(&mut g, tensor.values.len())?);
        }
        filled.push(sentinel(&mut g, self.want.len())?);
        filled.push(sentinel(&mut g, 1)?);

        let mut data: Vec<Tensor> = Vec::new();
        let guard = |g: &mut GraphBuilder<'_>, data: &mut Vec<Tensor>| -> TestResult {
            if !matches!(stored, Stored::F16 | Stored::Bf16) {
                g.weight([5, 3, 1, 1], WeightUse::Kernel).map_err(said)?;
                data.push(Tensor { shape: vec![5, 3], values: vec![f32::from_bits(SENTINEL); 15] });
            }
            Ok(())
        };
        guard(&mut g, &mut data)?;
        let mut ids = [None; MAX_WEIGHTS];
        for (i, tensor) in self.weights.iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            ids[i] = Some(g.weight(padded(&tensor.shape)?, role(&self.op, i)).map_err(said)?);
            data.push(tensor.clone());
            guard(&mut g, &mut data)?;
        }
        let output = g.node(self.op, inputs, ids).map_err(said)?;
        let graph = g.finish(output);
        let stored = data.iter().zip(graph.weights).map(|(t, w)| Bits::new(t, w, stored));
        let stored = stored.collect::<TestResult<Vec<_>>>()?;
        let weights = stored.iter().map(Bits::data).collect::<TestResult<Vec<_>>>()?;
        run(backend, &graph, &weights, &filled)
    }
}

fn run(
    backend: &Backend,
    graph: &Graph<'_>,
    weights: &[WeightData<'_>],
    filled: &[(TensorId, Vec<f32>)],
) -> TestResult<OpRun> {
    let mut session = backend.session(graph, weights)?;
    for (id, values) in filled {
        session.set(*id, values)?;
    }
    let out = session.run()?;
    let mut damage = session.damage()?;
    for (id, values) in filled {
        let now = session.get(*id)?;
        if let Some(i) = now.iter().zip(values).position(|(a, b)| a.to_bits() != b.to_bits()) {
            let what = if values[i].to_bits() == SENTINEL { "sentinel" } else { "input" };
            damage.get_or_insert(format!("{what} {} changed at {i} of {}: {}", id.0, values.len(), now[i]));
        }
    }
    Ok(OpRun { out, damage })
}

/// The values of a weight in the type in which a file would hold them. Small vectors stay f32.
enum Bits {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
    Int8(Vec<i8>, Vec<f32>),
    Q4([u32; 4], Vec<u8>, Vec<u16>),
}

impl Bits {
    fn new(tensor: &Tensor, weight: &Weight, stored: Stored) -> TestResult<Self> {
        let values = tensor.values.iter();
        let rows = weight.shape[0] as usize;
        let data = WeightData::F32(&tensor.values);
        let mut row = vec![0.0; tensor.values.len() / rows.max(1)];
        let kernel = weight.role == WeightUse::Kernel;
        Ok(match stored {
            Stored::F16 if weight.role != WeightUse::Host => {
                Bits::F16(values.map(|&v| half::f16::from_f32(v).to_bits()).collect())
            }
            Stored::Bf16 if weight.role != WeightUse::Host => {
                Bits::Bf16(values.map(|&v| half::bf16::from_f32(v).to_bits()).collect())
            }
            // Sentinels are no numbers: their scales are.
            Stored::Int8 | Stored::Q4 | Stored::Blocks if kernel && tensor.values[0].to_bits() == SENTINEL => {
                Bits::Int8(vec![1; tensor.values.len()], vec![f32::from_bits(SENTINEL); rows])
            }
            Stored::Blocks | Stored::Q4 if kernel && (stored == Stored::Blocks || takes_q4(weight)) => {
                let [values, scales] = q4_lens(weight.shape).ok_or("too large")?;
                let (mut values, mut scales) = (vec![0; values], vec![0; scales]);
                quantise4(weight, data, &mut row, &mut values, &mut scales).ok_or("not quantised")?;
                Bits::Q4(weight.shape, values, scales)
            }
            Stored::Int8 | Stored::Q4 if kernel => {
                let (mut values, mut scales) = (vec![0; tensor.values.len()], vec![0.0; rows]);
                quantise(weight, data, &mut row, &mut values, &mut scales).ok_or("not quantised")?;
                Bits::Int8(values, scales)
            }
            _ => Bits::F32(tensor.values.clone()),
        })
    }

    fn data(&self) -> TestResult<WeightData<'_>> {
        Ok(match self {
            Bits::F32(w) => WeightData::F32(w),
            Bits::F16(w) => WeightData::F16(w),
            Bits::Bf16(w) => WeightData::Bf16(w),
            Bits::Int8(values, scales) => WeightData::I8 { values, scales },
            Bits::Q4(shape, values, scales) => WeightData::Q4(Q4::new(*shape, values, scales).ok_or("no blocks")?),
        })
    }
}

fn role(op: &Op, index: usize) -> WeightUse {
    match (op, index) {
        (Op::Conv2d(_), 0) => WeightUse::Kernel,
        (Op::Embedding(_), _) => WeightUse::Table,
        _ => WeightUse::Vector,
    }
}

fn shape(tensor: &Tensor) -> TestResult<Shape> {
    match tensor.shape[..] {
        [h, w, c] => Ok(Shape::new(u32::try_from(h)?, u32::try_from(w)?, u32::try_from(c)?)),
        _ => Err("a tensor that is not [h, w, c]".into()),
    }
}

fn padded(shape: &[usize]) -> TestResult<[u32; 4]> {
    let mut padded = [1; 4];
    for (space, &n) in padded.iter_mut().zip(shape) {
        *space = u32::try_from(n)?;
    }
    Ok(padded)
}

/// The op of a case, from its parameters as JSON.
fn op(case: &Value) -> TestResult<Op> {
    let p = &case["params"];
    let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| format!("{case}: no number"));
    let int = |key: &str| number(&p[key]);
    let real = |key: &str| p[key].as_f64().map(|v| v as f32).ok_or_else(|| format!("{case}: no {key}"));
    let act = || -> Result<Act, String> {
        let names = ["none", "silu", "mish", "gelu", "relu", "quick_gelu", "tanh", "gelu_tanh"];
        let found = names.into_iter().zip(Act::ALL).find(|(name, _)| p["act"] == *name);
        found.map(|(_, act)| act).ok_or_else(|| format!("{case}: unknown activation"))
    };
    Ok(match case["op"].as_str() {
        Some("conv2d") => Op::Conv2d(Conv2d {
            in_c: int("in_c")?,
            out_c: int("out_c")?,
            kernel: [number(&p["kernel"][0])?, number(&p["kernel"][1])?],
            stride: int("stride")?,
            pad: [number(&p["pad"][0])?, number(&p["pad"][1])?, number(&p["pad"][2])?, number(&p["pad"][3])?],
            upsample: int("upsample")?,
            scale: real("scale")?,
            act: act()?,
        }),
        Some("group_norm") => Op::GroupNorm(GroupNorm { groups: int("groups")?, eps: real("eps")?, act: act()? }),
        Some("attention") => {
            let (heads, head_dim, scale) = (int("heads")?, int("head_dim")?, real("scale")?);
            Op::Attention(Attention {
                heads,
                head_dim,
                scale,
                causal: p["causal"] == true,
                biased: p["biased"] == true,
            })
        }
        Some("upsample") => Op::Upsample(Upsample { factor: int("factor")? }),
        Some("avg_pool") => Op::AvgPool(AvgPool { size: int("size")? }),
        Some("concat") => Op::Concat(Concat),
        Some("embedding") => Op::Embedding(Embedding { count: int("count")?, dim: int("dim")? }),
        Some("affine") => {
            let (scale, shift) = (real("scale")?, real("shift")?);
            Op::Affine(Affine { scale, shift, act: if p["act"].is_null() { Act::None } else { act()? } })
        }
        Some("layer_norm") => {
            let heads = if p["heads"].is_null() { 1 } else { int("heads")? };
            Op::LayerNorm(LayerNorm { eps: real("eps")?, heads, rms: p["rms"] == true })
        }
        Some("gate") => Op::Gate(Gate { act: act()? }),
        Some("modulate") => {
            let start = |key: &str| if p[key].is_null() { Ok(None) } else { int(key).map(Some) };
            Op::Modulate(Modulate { factor: real("factor")?, scale: start("scale")?, shift: start("shift")? })
        }
        Some("join") => Op::Join(Join { first: int("first")?, h: int("h")?, w: int("w")? }),
        Some("unpatchify") => Op::Unpatchify(Unpatchify { size: int("size")? }),
        _ => return Err(format!("{case}: unknown op").into()),
    })
}
