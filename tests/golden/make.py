#!/usr/bin/env python3
"""Writes the golden numbers that unfog's tests compare with: torch and diffusers, on the CPU.

The goldens are committed, so neither the build nor the tests need this script. It installs nothing. To run it again:

    python3 -m venv /tmp/golden
    /tmp/golden/bin/pip install diffusers==0.42.1 torch numpy safetensors
    /tmp/golden/bin/python tests/golden/make.py                      # every golden, about three minutes on two cores
    /tmp/golden/bin/python tests/golden/make.py --long --to DIR      # the long runs, which are not committed

What it writes (safetensors; the metadata key `cases` holds the parameters as JSON):

    ops.safetensors        every op: inputs and weights (f16 values, so exact everywhere), outputs computed in f64, stored f32
    nets/NAME/             small random UNet2DModels and UNet2DConditionModels, as diffusers saves them
    nets.safetensors       one evaluation of each of them, and of the models in models/, in f32
    schedules.safetensors  tables, timesteps and variances, bit by bit as diffusers has them
    noise-*.safetensors    the noise of the chains, in the order in which diffusers draws it
    chains.safetensors     the final sample of whole runs in f32

Nets and chains are evaluated in f64 as well; `floor` in their case is the relative L2 distance between diffusers in f32 and
in f64: what a correct f32 implementation may differ by, too.
"""

import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

HERE = pathlib.Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "models"


def rand(gen, *shape, std=1.0, mean=0.0):
    """Normal values that f16 holds exactly."""
    return (torch.randn(shape, generator=gen) * std + mean).half()


def rel(a, b):
    """Relative L2 distance of `a` from the truth `b`."""
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm())


def nhwc(x):
    """[1, c, h, w] to [h, w, c]."""
    return x[0].permute(1, 2, 0).contiguous()


# --------------------------------------------------------------------------------------------------------------- ops

ACTS = {
    "none": lambda x: x,
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh": torch.tanh,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class Ops:
    """Collects the cases of the ops."""

    def __init__(self):
        self.gen = torch.Generator().manual_seed(1)
        self.tensors, self.cases = {}, []

    def add(self, op, params, inputs, weights, out, shape):
        name = f"{len(self.cases):02}"
        case = {"op": op, "params": params, "inputs": [], "weights": [], "out": list(shape)}
        for kind, values in (("inputs", inputs), ("weights", weights)):
            for i, value in enumerate(values):
                if value is None:
                    case[kind].append(None)
                    continue
                case[kind].append(list(value.shape))
                self.tensors[f"{name}.{kind}.{i}"] = value.contiguous()
        self.tensors[f"{name}.out"] = out.float().contiguous()
        assert torch.isfinite(self.tensors[f"{name}.out"]).all(), case
        self.cases.append(case)

    def conv2d(self, h, w, in_c, out_c, kernel=(1, 1), stride=1, pad=(0, 0, 0, 0), upsample=1, scale=1.0, act="none",
               channel=False, residual=False, bias=True, std=1.0):
        g = self.gen
        x = rand(g, 1, in_c, h, w, std=std)
        weight = rand(g, out_c, in_c, *kernel, std=(in_c * kernel[0] * kernel[1]) ** -0.5)
        b = rand(g, out_c) if bias else None
        c = rand(g, out_c) if channel else None
        y = x.double()
        if upsample > 1:
            y = F.interpolate(y, scale_factor=float(upsample), mode="nearest")
        y = F.conv2d(F.pad(y, (pad[1], pad[3], pad[0], pad[2])), weight.double(), None if b is None else b.double(),
                     stride=stride)
        if c is not None:
            y = y + c.double()[None, :, None, None]
        r = rand(g, *y.shape) if residual else None
        if r is not None:
            y = y + r.double()
        y = ACTS[act](y * scale)
        params = dict(in_c=in_c, out_c=out_c, kernel=kernel, stride=stride, pad=pad, upsample=upsample, scale=scale,
                      act=act)
        inputs = [nhwc(x), None if c is None else c.view(1, 1, -1), None if r is None else nhwc(r)]
        self.add("conv2d", params, inputs, [weight, b], nhwc(y), nhwc(y).shape)

    def group_norm(self, h, w, c, groups, eps=1e-5, act="none", scale_shift=False, mean=0.0, std=1.0):
        g = self.gen
        x = rand(g, 1, c, h, w, std=std, mean=mean)
        gamma, beta = rand(g, c, std=0.3, mean=1.0), rand(g, c)
        y = F.group_norm(x.double(), groups, gamma.double(), beta.double(), eps)
        s = rand(g, 2 * c, std=0.5) if scale_shift else None
        if s is not None:
            scale, shift = s.double()[None, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        y = ACTS[act](y)
        self.add("group_norm", dict(groups=groups, eps=eps, act=act),
                 [nhwc(x), None if s is None else s.view(1, 1, -1), None], [gamma, beta], nhwc(y), nhwc(y).shape)

    def attention(self, q_hw, k_hw, heads, head_dim, std=1.0, scale=None, causal=False, biased=False):
        g = self.gen
        c = heads * head_dim
        scale = head_dim ** -0.5 if scale is None else scale
        scale = float(np.float32(scale))
        q, k, v = rand(g, *q_hw, c, std=std), rand(g, *k_hw, c, std=std), rand(g, *k_hw, c)
        split = lambda t: t.double().reshape(-1, heads, head_dim).transpose(0, 1)
        scores = split(q) @ split(k).transpose(1, 2) * scale
        if biased:
            # Half of the keys but the first are padding; all others have a small bias.
            bias = rand(g, *k_hw, 1)
            bias.view(-1)[1::2] = -10000.0
            scores += bias.double().reshape(1, 1, -1)
        if causal:
            scores += torch.full_like(scores, -torch.inf).triu(1)
        y = torch.softmax(scores, dim=-1) @ split(v)
        y = y.transpose(0, 1).reshape(*q_hw, c)
        params = dict(heads=heads, head_dim=head_dim, scale=scale) | (dict(causal=True) if causal else {})
        if biased:
            k, params = torch.cat([k, bias], dim=2), params | dict(biased=True)
        self.add("attention", params, [q, k, v], [], y, y.shape)

    def upsample(self, h, w, c, factor):
        x = rand(self.gen, 1, c, h, w)
        y = F.interpolate(x.float(), scale_factor=float(factor), mode="nearest")
        self.add("upsample", dict(factor=factor), [nhwc(x), None, None], [], nhwc(y), nhwc(y).shape)

    def avg_pool(self, h, w, c, size):
        x = rand(self.gen, 1, c, h, w)
        y = F.avg_pool2d(x.double(), size)
        self.add("avg_pool", dict(size=size), [nhwc(x), None, None], [], nhwc(y), nhwc(y).shape)

    def concat(self, h, w, a, b):
        x, y = rand(self.gen, h, w, a), rand(self.gen, h, w, b)
        out = torch.cat([x, y], dim=2)
        self.add("concat", {}, [x, y, None], [], out, out.shape)

    def embedding(self, h, w, count, dim, positions=0):
        index = torch.randint(count, (h, w), generator=self.gen)
        index.view(-1)[-1] = count - 1
        table = rand(self.gen, count, dim)
        out, weights = F.embedding(index, table), [table]
        if positions:
            weights.append(rand(self.gen, positions, dim))
            out = out.float() + weights[1][:h * w].float().reshape(h, w, dim)
        self.add("embedding", dict(count=count, dim=dim), [index[..., None].half(), None, None], weights, out, out.shape)

    def layer_norm(self, h, w, c, eps=1e-5, mean=0.0, std=1.0):
        g = self.gen
        x = rand(g, h, w, c, std=std, mean=mean)
        gamma, beta = rand(g, c, std=0.3, mean=1.0), rand(g, c)
        y = F.layer_norm(x.double(), (c,), gamma.double(), beta.double(), eps)
        self.add("layer_norm", dict(eps=eps), [x, None, None], [gamma, beta], y, y.shape)

    def head_norm(self, h, w, heads, dim, rms, gamma=True, beta=False, eps=1e-6, mean=0.0, std=1.0):
        """Each head apart, the weights shared; without some of them."""
        g = self.gen
        x = rand(g, h, w, heads * dim, std=std, mean=mean)
        weights = [rand(g, dim, std=0.3, mean=1.0) if gamma else None, rand(g, dim) if beta else None]
        wide, y = [None if v is None else v.double() for v in weights], x.double().reshape(h, w, heads, dim)
        if rms:
            y = F.rms_norm(y, (dim,), wide[0], eps) + (wide[1] if beta else 0.0)
        else:
            y = F.layer_norm(y, (dim,), *wide, eps)
        y = y.reshape(h, w, heads * dim)
        params = dict(eps=eps) | (dict(heads=heads) if heads > 1 else {}) | (dict(rms=True) if rms else {})
        self.add("layer_norm", params, [x, None, None], weights, y, y.shape)

    def modulate(self, h, w, c, n=None, scale=None, shift=None, factor=1.0, residual=False):
        g = self.gen
        x = rand(g, h, w, c)
        v = rand(g, n) if n else None
        r = rand(g, h, w, c) if residual else None
        part = lambda first: 0.0 if first is None else v.double()[first:first + c]
        y = x.double() * (factor + part(scale)) + part(shift) + (r.double() if residual else 0.0)
        params = dict(factor=factor) | {k: s for k, s in (("scale", scale), ("shift", shift)) if s is not None}
        self.add("modulate", params, [x, None if v is None else v.view(1, 1, -1), r], [], y, y.shape)

    def join(self, a, b, c, first, h, w):
        x, y = rand(self.gen, *a, c), rand(self.gen, *b, c) if b else None
        rows = torch.cat([t.reshape(-1, c) for t in (x, y) if t is not None])
        out = rows[first:first + h * w].reshape(h, w, c)
        self.add("join", dict(first=first, h=h, w=w), [x, y, None], [], out, out.shape)

    def unpatchify(self, h, w, c, size):
        x = rand(self.gen, h, w, size * size * c)
        out = torch.einsum("hwpqc->hpwqc", x.reshape(h, w, size, size, c)).reshape(h * size, w * size, c)
        self.add("unpatchify", dict(size=size), [x, None, None], [], out, out.shape)

    def gate(self, h, w, c, act, std=1.0):
        x = rand(self.gen, h, w, 2 * c, std=std)
        a, b = x.double().chunk(2, dim=-1)
        y = a * ACTS[act](b)
        self.add("gate", dict(act=act), [x, None, None], [], y, y.shape)

    def affine(self, h, w, c, scale, shift, divisor=None, act=None, std=1.0):
        x = rand(self.gen, h, w, c, std=std)
        y = x.double() * scale + shift
        d = None
        if divisor is not None:
            d = torch.tensor([[[divisor]]]).half()
            y = y / d.double()
        params = dict(scale=scale, shift=shift)
        if act is not None:
            y, params = ACTS[act](y), params | dict(act=act)
        self.add("affine", params, [x, d, None], [], y, y.shape)


def make_ops(to):
    ops = Ops()
    # Odd channel counts, none a multiple of the next; borders inside and outside of vectors and tiles.
    ops.conv2d(1, 1, 1, 1)
    ops.conv2d(1, 1, 24, 127, act="silu")
    ops.conv2d(1, 1, 127, 24, bias=False)
    ops.conv2d(5, 7, 3, 6, kernel=(3, 3), pad=(1, 1, 1, 1))
    ops.conv2d(7, 5, 6, 5, kernel=(3, 3), pad=(1, 1, 1, 1), channel=True, act="mish")
    ops.conv2d(6, 6, 7, 3, kernel=(3, 3), pad=(1, 1, 1, 1), residual=True, scale=0.625, act="gelu")
    ops.conv2d(5, 6, 5, 7, kernel=(3, 3), pad=(1, 1, 1, 1), channel=True, residual=True, scale=1.5, act="relu")
    ops.conv2d(7, 9, 5, 6, kernel=(3, 3), pad=(1, 1, 1, 1), stride=2)
    ops.conv2d(8, 6, 6, 9, kernel=(3, 3), pad=(0, 0, 1, 1), stride=2)
    ops.conv2d(4, 5, 12, 10, kernel=(3, 3), pad=(1, 1, 1, 1), upsample=2, channel=True)
    ops.conv2d(3, 2, 4, 8, kernel=(3, 3), pad=(1, 1, 1, 1), upsample=3, act="silu")
    ops.conv2d(6, 7, 3, 4, kernel=(5, 5), pad=(2, 2, 2, 2))
    ops.conv2d(6, 7, 3, 4, kernel=(5, 5), pad=(3, 1, 0, 2), stride=3, bias=False)
    ops.conv2d(7, 6, 5, 3, kernel=(1, 3), pad=(0, 1, 0, 1), residual=True)
    ops.conv2d(7, 6, 4, 5, kernel=(3, 1), pad=(1, 0, 1, 0), stride=2)
    ops.conv2d(5, 5, 9, 11, kernel=(2, 4), pad=(0, 0, 0, 0))
    ops.conv2d(7, 5, 10, 13, kernel=(1, 1), stride=2, residual=True)
    ops.conv2d(24, 23, 8, 12, kernel=(3, 3), pad=(1, 1, 1, 1))
    ops.conv2d(16, 16, 36, 40, kernel=(3, 3), pad=(1, 1, 1, 1), channel=True, residual=True)
    ops.conv2d(1, 127, 12, 20, residual=True, scale=0.75)
    ops.conv2d(13, 11, 33, 7, act="silu")
    ops.conv2d(1, 1, 5, 3, kernel=(3, 3), pad=(1, 1, 1, 1))
    ops.conv2d(2, 2, 130, 66, kernel=(3, 3), pad=(1, 1, 1, 1), channel=True)

    ops.group_norm(5, 7, 6, 3)
    ops.group_norm(1, 1, 8, 1, act="silu")
    ops.group_norm(3, 3, 5, 5, eps=1e-6, act="mish")
    ops.group_norm(7, 6, 12, 4, scale_shift=True, act="gelu")
    ops.group_norm(6, 5, 7, 1, eps=1e-2, act="relu", scale_shift=True)
    ops.group_norm(24, 23, 24, 8, act="silu")
    ops.group_norm(1, 127, 10, 2)
    ops.group_norm(16, 15, 20, 4, mean=100.0)
    ops.group_norm(31, 33, 3, 1, mean=-100.0, act="silu")
    ops.group_norm(5, 5, 4, 2, std=0.001, eps=1e-6)
    ops.group_norm(2, 1, 127, 127, scale_shift=True)

    ops.attention((5, 7), (5, 7), 1, 1)
    ops.attention((3, 2), (7, 5), 2, 5)
    ops.attention((1, 1), (1, 1), 3, 8)
    ops.attention((8, 8), (8, 8), 4, 8)
    ops.attention((6, 5), (6, 5), 1, 33)
    ops.attention((7, 3), (1, 24), 2, 16)
    ops.attention((4, 4), (1, 127), 3, 6, scale=0.3)
    ops.attention((5, 5), (6, 6), 2, 16, std=6.0)
    ops.attention((16, 16), (16, 16), 1, 32, std=2.0)

    ops.upsample(3, 5, 6, 2)
    ops.upsample(1, 7, 5, 3)
    ops.upsample(4, 4, 8, 1)
    ops.avg_pool(6, 8, 5, 2)
    ops.avg_pool(7, 5, 6, 2)
    ops.avg_pool(11, 7, 3, 3)
    ops.avg_pool(24, 24, 12, 2)
    ops.concat(5, 3, 3, 4)
    ops.concat(1, 1, 1, 127)
    ops.concat(6, 7, 5, 6)
    ops.concat(3, 3, 8, 12)
    ops.embedding(1, 1, 7, 24)
    ops.embedding(3, 5, 24, 7)
    ops.affine(5, 6, 3, 2.0, -1.0)
    ops.affine(1, 127, 5, 1.0, 0.0, divisor=7.0)
    ops.affine(3, 7, 6, -0.5, 0.25, divisor=-3.0)
    # Where activations saturate and e^x overflows; a group without any deviation.
    for act in ("silu", "mish", "gelu", "relu"):
        ops.conv2d(5, 4, 3, 4, act=act, std=100.0)
    ops.group_norm(4, 3, 6, 2, mean=3.0, std=0.0, act="silu")
    # Channels that fill vectors and that don't; means far from 0, next to no deviation; pixels more than a work group.
    ops.layer_norm(5, 7, 6)
    ops.layer_norm(1, 1, 1)
    ops.layer_norm(1, 77, 24)
    ops.layer_norm(24, 23, 5, eps=1e-6)
    ops.layer_norm(3, 3, 127, eps=1e-2)
    ops.layer_norm(1, 2, 1280)
    ops.layer_norm(4, 5, 20, mean=100.0)
    ops.layer_norm(1, 3, 640, mean=-100.0)
    ops.layer_norm(5, 5, 12, std=0.001, eps=1e-6)
    ops.layer_norm(4, 3, 6, mean=3.0, std=0.0)
    for c, act in ((1, "gelu"), (6, "gelu"), (7, "silu"), (8, "none"), (24, "mish"), (127, "relu")):
        ops.gate(3, 5, c, act)
    ops.gate(1, 2, 1280, "gelu")
    ops.gate(24, 23, 4, "gelu")
    ops.gate(1, 1, 5, "gelu", std=100.0)
    # What text encoders and their decoders' clamps need.
    for act in ("quick_gelu", "tanh"):
        ops.conv2d(5, 6, 9, 7, kernel=(3, 3), pad=(1, 1, 1, 1), channel=True, residual=True, act=act)
        ops.conv2d(1, 7, 24, 30, act=act)
        ops.conv2d(5, 4, 3, 4, act=act, std=100.0)
        ops.group_norm(5, 7, 12, 3, act=act)
        ops.gate(3, 5, 7, act)
    # Heads of whole vectors and others, of several blocks; more keys than a CPU's block; scores far apart.
    ops.attention((1, 1), (1, 1), 2, 4, causal=True)
    ops.attention((1, 77), (1, 77), 2, 16, causal=True)
    ops.attention((1, 77), (1, 77), 3, 5, causal=True)
    ops.attention((1, 13), (1, 13), 1, 68, causal=True)
    ops.attention((17, 16), (17, 16), 2, 3, std=3.0, causal=True)
    ops.embedding(1, 77, 50, 12, positions=77)
    ops.embedding(1, 5, 9, 7, positions=11)
    for act in ("none", "silu", "mish", "gelu", "relu", "quick_gelu", "tanh"):
        ops.affine(3, 5, 6, 0.5, -0.25, act=act)
    ops.affine(4, 4, 32, 1 / 3, 0.0, act="tanh", std=8.0)
    ops.affine(4, 4, 5, 0.125, 0.0, act="tanh", std=0.5)
    # What transformers over patches need.
    ops.conv2d(5, 6, 9, 7, kernel=(3, 3), pad=(1, 1, 1, 1), channel=True, residual=True, act="gelu_tanh")
    ops.conv2d(1, 7, 24, 30, act="gelu_tanh")
    ops.conv2d(5, 4, 3, 4, act="gelu_tanh", std=100.0)
    ops.conv2d(8, 6, 4, 10, kernel=(2, 2), stride=2, residual=True)
    ops.group_norm(5, 7, 12, 3, act="gelu_tanh")
    ops.gate(3, 5, 7, "gelu_tanh")
    ops.affine(3, 5, 6, 0.5, -0.25, act="gelu_tanh")
    for heads, dim, rms, gamma, beta in ((1, 6, False, False, False), (1, 127, True, True, False), (3, 8, True, True, False),
                                         (2, 4, False, True, True), (5, 12, True, False, False), (6, 64, True, True, True)):
        ops.head_norm(3, 5, heads, dim, rms, gamma, beta)
    ops.head_norm(1, 77, 2, 16, True, mean=100.0)
    ops.modulate(5, 7, 6, n=36, scale=6, shift=0)
    ops.modulate(5, 7, 6, n=36, scale=12, factor=0.0, residual=True)
    ops.modulate(1, 77, 7, n=42, scale=35, shift=28)
    ops.modulate(3, 3, 5, n=10, scale=0, shift=5, residual=True)
    ops.modulate(24, 23, 8, n=24, shift=16)
    ops.modulate(1, 1, 127, n=254, scale=127, shift=0)
    ops.modulate(3, 4, 9, residual=True)
    ops.modulate(3, 4, 12, residual=True, factor=-0.5)
    ops.join((5, 7), (1, 3), 6, 0, 1, 38)
    ops.join((2, 3), (4, 5), 7, 4, 2, 5)
    ops.join((2, 3), (4, 5), 8, 9, 3, 4)
    ops.join((1, 81), None, 12, 80, 1, 1)
    ops.join((3, 4), None, 5, 0, 2, 6)
    for h, w, c, size in ((3, 5, 4, 2), (2, 3, 3, 2), (4, 1, 16, 2), (1, 1, 5, 3), (3, 2, 7, 1), (12, 13, 8, 4)):
        ops.unpatchify(h, w, c, size)
    # Texts with padding.
    ops.attention((5, 7), (1, 13), 2, 8, biased=True)
    ops.attention((3, 2), (7, 5), 3, 5, biased=True)
    ops.attention((1, 81), (1, 81), 2, 12, causal=True, biased=True)
    ops.attention((4, 5), (1, 300), 1, 68, biased=True)
    save_file(ops.tensors, to / "ops.safetensors", {"cases": json.dumps(ops.cases)})
    print(f"ops: {len(ops.cases)} cases")


# -------------------------------------------------------------------------------------------------------------- nets

NETS = {
    # Names with the UNetRes prefix, padding below and to the right, odd head size, shifted frequencies, sines first.
    "padding": dict(
        config=dict(sample_size=(10, 14), in_channels=3, out_channels=3, center_input_sample=True, freq_shift=1,
                    flip_sin_to_cos=False, down_block_types=("UNetResDownBlock2D", "UNetResAttnDownBlock2D"),
                    up_block_types=("UNetResAttnUpBlock2D", "UNetResUpBlock2D"), block_out_channels=(8, 12),
                    layers_per_block=1, downsample_padding=0, act_fn="swish", attention_head_dim=3, norm_num_groups=4,
                    norm_eps=1e-6),
        times=(17.25, 999.0)),
    # The time scales and shifts; resampling inside residual layers; no normalisation before the middle's attention.
    "scale-shift": dict(
        config=dict(sample_size=(6, 10), in_channels=1, out_channels=2, num_class_embeds=5,
                    down_block_types=("ResnetDownsampleBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D"), block_out_channels=(8, 12),
                    layers_per_block=2, mid_block_scale_factor=1.4142135, act_fn="mish", attention_head_dim=None,
                    norm_num_groups=2, resnet_time_scale_shift="scale_shift"),
        times=(500.0, 1.0), store=torch.float16),
    # As above with a normalisation there; attention blocks that resample inside residual layers; the class as a time.
    "attention": dict(
        config=dict(sample_size=(8, 4), in_channels=2, out_channels=2, class_embed_type="timestep",
                    time_embedding_dim=20, down_block_types=("AttnDownBlock2D", "AttnDownBlock2D"),
                    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D"), block_out_channels=(6, 12), layers_per_block=1,
                    downsample_type="resnet", upsample_type="resnet", act_fn="gelu", attention_head_dim=5,
                    norm_num_groups=3, attn_norm_num_groups=2, resnet_time_scale_shift="scale_shift", norm_eps=1e-4),
        times=(3.0, 700.0)),
    # Learned frequencies, a given class embedding, no middle block.
    "fourier": dict(
        config=dict(sample_size=(6, 6), in_channels=2, out_channels=4, time_embedding_type="fourier",
                    class_embed_type="identity", down_block_types=("DownBlock2D", "ResnetDownsampleBlock2D"),
                    mid_block_type=None, up_block_types=("ResnetUpsampleBlock2D", "UpBlock2D"),
                    block_out_channels=(8, 8), layers_per_block=3, act_fn="relu", norm_num_groups=8),
        times=(0.5, 80.0), store=torch.bfloat16),
    # A table of times, which serves the class too; no attention; three levels that end at 3x5; in several files.
    "learned": dict(
        config=dict(sample_size=(12, 20), in_channels=1, out_channels=1, time_embedding_type="learned",
                    num_train_timesteps=40, class_embed_type="timestep",
                    down_block_types=("DownBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"),
                    up_block_types=("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D"),
                    block_out_channels=(5, 10, 15), layers_per_block=1, attention_head_dim=5, norm_num_groups=5,
                    add_attention=False, downsample_padding=1),
        times=(0.0, 39.0), shards="80KB"),
    # The names that diffusers used before 0.12, in a config of that time, with few keys; one level, odd size.
    "deprecated": dict(
        config=dict(sample_size=9, in_channels=3, out_channels=3, down_block_types=("AttnDownBlock2D",),
                    up_block_types=("AttnUpBlock2D",), block_out_channels=(14,), layers_per_block=1,
                    attention_head_dim=7, norm_num_groups=7, norm_eps=1e-6),
        times=(0.0, 250.0), deprecated=True),
    # An odd number of time features, normalised attention in a scaled middle, channels that shrink on the way down.
    "odd": dict(
        config=dict(sample_size=(12, 8), in_channels=1, out_channels=3, num_class_embeds=3,
                    down_block_types=("AttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D"),
                    up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"),
                    block_out_channels=(9, 15, 12), layers_per_block=1, mid_block_scale_factor=2.0,
                    downsample_type="conv", upsample_type="resnet", attention_head_dim=4, norm_num_groups=3,
                    attn_norm_num_groups=6, time_embedding_dim=30),
        times=(123.0, 998.0)),
    # Learned frequencies of the class's label too.
    "fourier-class": dict(
        config=dict(sample_size=(4, 6), in_channels=1, out_channels=1, time_embedding_type="fourier",
                    class_embed_type="timestep", down_block_types=("AttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "AttnUpBlock2D"), block_out_channels=(12, 8), layers_per_block=1,
                    downsample_type="resnet", attention_head_dim=4, norm_num_groups=4, norm_eps=1e-3),
        times=(1.0, 20.0)),
}

# UNet2DConditionModels. All see 77 tokens.
CONDITION_NETS = {
    # As Stable Diffusion 1: one number of heads, projections stored as convolutions, half floats.
    "sd1": dict(
        config=dict(sample_size=(8, 12), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(8, 16), layers_per_block=1,
                    cross_attention_dim=6, attention_head_dim=2, norm_num_groups=4),
        times=(999.0, 1.0), store=torch.float16),
    # As Stable Diffusion 2 with images as conditions: heads level by level, projections stored as linear layers, further layers
    # in the middle level, which attends to the tokens alone.
    "sd2": dict(
        config=dict(sample_size=(8, 4), down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                    block_out_channels=(6, 12, 12), layers_per_block=(1, 2, 1), cross_attention_dim=10,
                    attention_head_dim=(1, 2, 3), norm_num_groups=3, use_linear_projection=True, upcast_attention=True,
                    only_cross_attention=(False, True, False), class_embed_type="projection",
                    projection_class_embeddings_input_dim=7, norm_eps=1e-3),
        times=(17.25, 981.0)),
    # As Stable Diffusion XL: transformers of several layers, none at the highest resolution; sizes as conditions.
    "sdxl": dict(
        config=dict(sample_size=(6, 10), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(8, 16), layers_per_block=1,
                    cross_attention_dim=12, attention_head_dim=(1, 2), norm_num_groups=4, use_linear_projection=True,
                    transformer_layers_per_block=(1, 2), addition_embed_type="text_time", addition_time_embed_dim=4,
                    projection_class_embeddings_input_dim=29),
        times=(500.0, 0.0), store=torch.bfloat16),
    # A guidance embedding, tokens that are projected first, heads that don't divide the channels, the class as a time, the time
    # as scale and shift, a middle without attention, nine channels, other kernels, an even image.
    "guided": dict(
        config=dict(sample_size=(4, 6), in_channels=9, out_channels=4, center_input_sample=True, flip_sin_to_cos=False,
                    freq_shift=1, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(10, 15),
                    mid_block_type="UNetMidBlock2D", mid_block_scale_factor=1.5, downsample_padding=0, layers_per_block=1,
                    act_fn="gelu", norm_num_groups=5, cross_attention_dim=4, encoder_hid_dim=7,
                    encoder_hid_dim_type="text_proj", attention_head_dim=3, time_cond_proj_dim=5,
                    class_embed_type="timestep", resnet_time_scale_shift="scale_shift", conv_in_kernel=5, conv_out_kernel=1,
                    time_embedding_dim=12),
        times=(3.0, 700.0)),
    # As the upscalers: a table of noise levels. No middle.
    "table": dict(
        config=dict(sample_size=(4, 4), in_channels=7, out_channels=4,
                    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(4, 8), layers_per_block=1,
                    mid_block_type=None, norm_num_groups=2, cross_attention_dim=5, attention_head_dim=(4, 8),
                    only_cross_attention=True, num_class_embeds=6),
        times=(250.0,)),
}


def randomise(model, gen):
    """Weights for which every part of the network matters: larger than torch's, norms and biases away from 1 and 0."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "time_proj.weight" and model.config.get("time_embedding_type") == "fourier":
                p.copy_(torch.randn(p.shape, generator=gen))
            elif "norm" in name:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.3 + (1.0 if name.endswith("weight") else 0.0))
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=gen) * 0.3)
            else:
                fan_in = p[0].numel() if p.dim() > 1 and "embedding.weight" not in name and name != "time_proj.weight" else 1
                p.copy_(torch.randn(p.shape, generator=gen) * 1.2 * fan_in ** -0.5)


def save_net(kind, spec, folder, gen):
    model = kind(**spec["config"])
    randomise(model, gen)
    model = model.to(spec.get("store", torch.float32))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size=spec.get("shards", "1GB"))
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    if spec.get("deprecated"):
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        file = folder / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        renamed = {}
        for key, value in weights.items():
            for new, was in old.items():
                key = key.replace(f".{new}.", f".{was}.")
            renamed[key] = value
        save_file(renamed, file, {"format": "pt"})
        kept = ("_class_name", "act_fn", "attention_head_dim", "block_out_channels", "center_input_sample",
                "down_block_types", "downsample_padding", "flip_sin_to_cos", "freq_shift", "in_channels",
                "layers_per_block", "mid_block_scale_factor", "norm_eps", "norm_num_groups", "out_channels",
                "sample_size", "time_embedding_type", "up_block_types")
        config = {"_diffusers_version": "0.1.1"} | {k: config[k] for k in kept}
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def evaluate(model, x, t, label, dtype):
    if label is not None and label.is_floating_point():
        label = label.to(dtype)
    # Positional features are f32 whatever the dtype; diffusers forgets to convert those of a class.
    model = model.to(dtype)
    if model.config.class_embed_type == "timestep":
        hook = model.class_embedding.register_forward_pre_hook(lambda _, args: (args[0].to(dtype),))
    time = torch.tensor([t], dtype=torch.float32)
    if model.config.time_embedding_type == "learned":
        time = time.long()
    out = model(x.to(dtype), time, class_labels=label).sample
    if model.config.class_embed_type == "timestep":
        hook.remove()
    return out


class Condition:
    """The condition of some images: what diffusers is given, and the one vector that unfog is given."""

    def __init__(self, config, images, gen):
        self.tokens = rand(gen, images, 77, config.encoder_hid_dim or config.cross_attention_dim).float()
        self.kwargs, self.added = {}, {}
        parts = [self.tokens.flatten(1)]
        if config.time_cond_proj_dim:
            self.kwargs["timestep_cond"] = rand(gen, images, config.time_cond_proj_dim).float()
            parts.append(self.kwargs["timestep_cond"])
        if config.class_embed_type == "projection":
            self.kwargs["class_labels"] = rand(gen, images, config.projection_class_embeddings_input_dim).float()
            parts.append(self.kwargs["class_labels"])
        elif config.class_embed_type == "timestep":
            self.kwargs["class_labels"] = torch.arange(images) * 31 + 4
            parts.append(get_timestep_embedding(self.kwargs["class_labels"], config.block_out_channels[0],
                                                config.flip_sin_to_cos, config.freq_shift))
        elif config.num_class_embeds:
            self.kwargs["class_labels"] = config.num_class_embeds - 1 - torch.arange(images)
            parts.append(self.kwargs["class_labels"][:, None].float())
        if config.addition_embed_type == "text_time":
            times = torch.randint(1024, (images, 6), generator=gen).float()
            dim = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            text = rand(gen, images, dim).float()
            self.added = dict(text_embeds=text, time_ids=times)
            sines = get_timestep_embedding(times.flatten(), config.addition_time_embed_dim, config.flip_sin_to_cos,
                                           config.freq_shift)
            parts += [text, sines.reshape(images, -1)]
        self.vector = torch.cat(parts, dim=1)

    @torch.no_grad()
    def evaluate(self, model, x, t, dtype):
        wide = lambda v: v.to(dtype) if v.is_floating_point() else v
        kwargs = {key: wide(value) for key, value in self.kwargs.items()}
        if self.added:
            # The times stay f32, as their features are.
            kwargs["added_cond_kwargs"] = self.added | dict(text_embeds=wide(self.added["text_embeds"]))
        time = torch.tensor([t], dtype=torch.float32)
        return model.to(dtype)(x.to(dtype), time, wide(self.tokens), **kwargs).sample


def make_nets(to):
    gen = torch.Generator().manual_seed(2)
    tensors, cases = {}, []

    def add(name, path, model, t, labels=None, embedding=None, images=1):
        size = model.config.sample_size
        size = (size, size) if isinstance(size, int) else size
        x = rand(gen, images, model.config.in_channels, *size)
        label = embedding if embedding is not None else None if labels is None else torch.tensor(labels)
        wide = evaluate(model, x, t, label, torch.float64)
        out = evaluate(model, x, t, label, torch.float32)
        key = f"{len(cases):02}"
        tensors[f"{key}.x"], tensors[f"{key}.out"] = x, out.contiguous()
        if embedding is not None:
            tensors[f"{key}.embedding"] = embedding.contiguous()
        cases.append(dict(net=name, path=path, t=t, labels=labels, floor=rel(out, wide)))
        print(f"net {name} t={t}: output std {float(out.std()):.3f}, floor {cases[-1]['floor']:.1e}")

    for name in ("glyph-tiny", "mednist-ddpm"):
        model = UNet2DModel.from_pretrained(MODELS / name / "unet", torch_dtype=torch.float32)
        runs = [(500.0, [2]), (500.0, [6]), (0.0, [4]), (999.0, [0])]
        for t, labels in runs if name == "mednist-ddpm" else [(t, None) for t, _ in runs[1:]]:
            add(name, f"models/{name}/unet", model, t, labels)
    for name, spec in NETS.items():
        folder = to / "nets" / name
        save_net(UNet2DModel, spec, folder, gen)
        model = UNet2DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
        kind, count = model.config.class_embed_type, model.config.num_class_embeds
        for i, t in enumerate(spec["times"]):
            labels = embedding = None
            if kind == "timestep":
                labels = [4, 31 + i]
            elif count is not None:
                labels = [count - 1, i]
            elif kind == "identity":
                embedding = rand(gen, 2, 4 * model.config.block_out_channels[0]).float()
            add(name, f"tests/golden/nets/{name}", model, t, labels, embedding, images=2)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"net {name}: {size} bytes")
    for name, spec in CONDITION_NETS.items():
        folder = to / "nets" / name
        save_net(UNet2DConditionModel, spec, folder, gen)
        model = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
        for t in spec["times"]:
            x = rand(gen, 2, model.config.in_channels, *model.config.sample_size)
            condition = Condition(model.config, 2, gen)
            wide = condition.evaluate(model, x, t, torch.float64)
            out = condition.evaluate(model, x, t, torch.float32)
            key = f"{len(cases):02}"
            tensors |= {f"{key}.x": x, f"{key}.out": out.contiguous(), f"{key}.embedding": condition.vector}
            cases.append(dict(net=name, path=f"tests/golden/nets/{name}", t=t, labels=None, floor=rel(out, wide)))
            print(f"net {name} t={t}: output std {float(out.std()):.3f}, floor {cases[-1]['floor']:.1e}")
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"net {name}: {size} bytes")
    save_file(tensors, to / "nets.safetensors", {"cases": json.dumps(cases)})


# --------------------------------------------------------------------------------------------------------- schedules

def make_schedules(to):
    tensors = {}
    tables = {
        "linear": dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
        "scaled_linear": dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        "squaredcos_cap_v2": dict(beta_schedule="squaredcos_cap_v2"),
    }
    for name, table in tables.items():
        for count in (1000, 50, 7):
            s = DDPMScheduler(num_train_timesteps=count, **table)
            tensors[f"betas.{name}.{count}"] = s.betas
            tensors[f"alphas_cumprod.{name}.{count}"] = s.alphas_cumprod
        for n in (1000, 50, 7):
            for kind in ("fixed_small", "fixed_large"):
                s = DDPMScheduler(variance_type=kind, **table)
                s.set_timesteps(n)
                tensors[f"variance.{kind}.{name}.{n}"] = torch.stack([s._get_variance(int(t)) for t in s.timesteps])
            s = DDIMScheduler(**table)
            s.set_timesteps(n)
            tensors[f"variance.ddim.{name}.{n}"] = torch.stack(
                [s._get_variance(int(t), int(t) - 1000 // n) for t in s.timesteps])
    # Half-to-even rounding, table lengths that float steps spoil, and the ends of the range (NUMERICS, first section).
    counts = (1, 2, 3, 6, 7, 10, 12, 13, 16, 18, 19, 20, 24, 25, 30, 31, 32, 49, 50, 61, 64, 80, 100, 103, 121, 250, 333,
              500, 501, 999, 1000)
    for spacing in ("leading", "linspace", "trailing"):
        for n in counts:
            s = DDIMScheduler(timestep_spacing=spacing)
            s.set_timesteps(n)
            tensors[f"timesteps.{spacing}.0.{n}"] = s.timesteps.int().contiguous()
    for n in (1, 30, 50, 999):
        s = DDIMScheduler(steps_offset=1)
        s.set_timesteps(n)
        tensors[f"timesteps.leading.1.{n}"] = s.timesteps.int().contiguous()
    save_file({k: v.contiguous() for k, v in tensors.items()}, to / "schedules.safetensors")
    print(f"schedules: {len(tensors)} tables")


# ------------------------------------------------------------------------------------------------------------ chains

@torch.no_grad()
def chain(model, scheduler, steps, eta, noise, dtype, label=None, guidance=1.0, null=None):
    """A whole run as diffusers' pipelines do it, on given noise. Returns the final sample and the number of draws."""
    model = model.to(dtype)
    draws = iter(noise.to(dtype))
    used = [0]

    def take(shape, **_):
        used[0] += 1
        x = next(draws)
        assert x.shape == shape
        return x

    scheduling_ddim.randn_tensor = scheduling_ddpm.randn_tensor = take
    scheduler.set_timesteps(steps)
    x = take(noise.shape[1:])
    labels = None if label is None else torch.full((x.shape[0],), label)
    extra = dict(eta=eta) if isinstance(scheduler, DDIMScheduler) else {}
    for t in scheduler.timesteps:
        out = model(x, t, class_labels=labels).sample
        if guidance != 1.0:
            uncond = model(x, t, class_labels=torch.full_like(labels, null)).sample
            out = uncond + guidance * (out - uncond)
        x = scheduler.step(out, int(t), x, **extra).prev_sample
    return x, used[0]


def run_chains(model_name, runs, tensors, cases):
    model = UNet2DModel.from_pretrained(MODELS / model_name / "unet", torch_dtype=torch.float32)
    base = json.loads((MODELS / model_name / "scheduler" / "scheduler_config.json").read_text())
    for run in runs:
        run = dict(run)
        noise = run.pop("noise_values")
        kind = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler}[run["sampler"]]
        config = base | run["config"]
        args = dict(label=run.get("label"), guidance=run.get("guidance", 1.0), null=run.get("null"))
        x0, draws = chain(model, kind.from_config(config), run["steps"], run["eta"], noise, torch.float32, **args)
        wide, _ = chain(model, kind.from_config(config), run["steps"], run["eta"], noise, torch.float64, **args)
        key = f"{len(cases):02}"
        tensors[f"{key}.x0"] = x0.float().contiguous()
        cases.append(dict(model=model_name, draws=draws, floor=rel(x0, wide), **run))
        print(f"chain {model_name} {run}: {draws} draws, std {float(x0.std()):.3f}, floor {cases[-1]['floor']:.1e}")


def make_chains(to):
    gen = torch.Generator().manual_seed(3)
    pair, one, scan = rand(gen, 51, 2, 1, 16, 16), rand(gen, 1000, 1, 1, 16, 16), rand(gen, 51, 1, 1, 64, 64)
    for name, noise in (("glyph-pair", pair), ("glyph", one), ("mednist", scan)):
        save_file({"noise": noise}, to / f"noise-{name}.safetensors")
    tensors, cases = {}, []

    def run(noise, values, sampler, steps, eta=0.0, **config):
        extra = {k: config.pop(k) for k in ("label", "guidance", "null") if k in config}
        return dict(noise=noise, noise_values=values, sampler=sampler, steps=steps, eta=eta, config=config, **extra)

    glyph = []
    for clip in (True, False):
        glyph += [
            run("glyph-pair", pair, "ddim", 50, 0.0, clip_sample=clip),
            run("glyph-pair", pair, "ddim", 50, 1.0, clip_sample=clip),
            run("glyph", one, "ddpm", 1000, clip_sample=clip, variance_type="fixed_small"),
            run("glyph-pair", pair, "ddpm", 50, clip_sample=clip, variance_type="fixed_large"),
        ]
    glyph += [
        run("glyph", one, "ddpm", 1000, clip_sample=True, variance_type="fixed_large"),
        run("glyph-pair", pair, "ddim", 10, 0.5, timestep_spacing="linspace", set_alpha_to_one=False),
        run("glyph-pair", pair, "ddim", 16, 0.0, timestep_spacing="trailing"),
        run("glyph-pair", pair, "ddim", 25, 1.0, steps_offset=1, clip_sample_range=0.8),
        run("glyph-pair", pair, "ddpm", 32, timestep_spacing="trailing", variance_type="fixed_small"),
        run("glyph-pair", pair, "ddim", 1, 0.0),
    ]
    run_chains("glyph-tiny", glyph, tensors, cases)
    mednist = []
    for clip in (True, False):
        for eta in (0.0, 1.0):
            mednist.append(run("mednist", scan, "ddim", 50, eta, clip_sample=clip, label=2))
    mednist.append(run("mednist", scan, "ddim", 20, 0.0, label=4, guidance=2.0, null=6))
    run_chains("mednist-ddpm", mednist, tensors, cases)
    save_file(tensors, to / "chains.safetensors", {"cases": json.dumps(cases)})


def make_long(to):
    """DDPM 1000 on mednist-ddpm: `noise` and `x0` in files of their own, as `--noise-in` and `--latents-out` take them."""
    gen = torch.Generator().manual_seed(4)
    noise = rand(gen, 1000, 1, 1, 64, 64)
    save_file({"noise": noise.float()}, to / "long-noise.safetensors")
    tensors, cases = {}, []
    for clip in (True, False):
        spec = dict(noise="long", noise_values=noise, sampler="ddpm", steps=1000, eta=0.0, label=2,
                    config=dict(clip_sample=clip, variance_type="fixed_small"))
        run_chains("mednist-ddpm", [spec], tensors, cases)
    for tensor, case in zip(tensors.values(), cases):
        name = "clip" if case["config"]["clip_sample"] else "free"
        save_file({"x0": tensor}, to / f"long-{name}.safetensors", {"case": json.dumps(case)})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=HERE, help="where to write (default: beside this script)")
    parser.add_argument("--long", action="store_true", help="write only the runs that are too long to be committed")
    parser.add_argument("--only", choices=("ops", "nets", "schedules", "chains"), help="write only this part")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    makers = dict(ops=make_ops, nets=make_nets, schedules=make_schedules, chains=make_chains)
    with sdpa_kernel(SDPBackend.MATH):
        if args.long:
            make_long(args.to)
            return
        for name, maker in makers.items():
            if args.only in (None, name):
                maker(args.to)


if __name__ == "__main__":
    main()
