"""BIOT and LaBraM against torch, by the names of their published state dicts.

The references are written from the papers and the published modules' order of operations; random
weights. The published modules themselves gave 3e-6 (docs/encoders.md).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from qoq_jax.hf import encoders, names
from qoq_jax.models import spec as spec_lib
from qoq_jax.models.encoders import biot, labram, registry

pytestmark = pytest.mark.parity
BIOT = biot.BiotConfig(channels=5, width=16, depth=2, num_heads=4)
LABRAM = labram.LabramConfig(filters=8, depth=2, num_heads=10, electrodes=("O2", "FP1", "CZ"))


def published(encoder, seed):
    """Random tensors under the published names and in the published shapes."""
    torch.manual_seed(seed)
    specs = spec_lib.flatten(encoder.param_specs(encoder.cfg)).values()
    return {
        key: 0.3 * torch.randn(names.published_shape(spec))
        for spec in specs
        for key in names.layer_keys(spec)
    }


def loaded(encoder, tensors, folder, **more):
    """Our parameters of a file of these tensors, and of more that are not the encoder's."""
    path = str(folder / "model.safetensors")
    save_file({name: tensor.numpy() for name, tensor in tensors.items()} | more, path)
    return encoders.load(encoder, path)


def dense(x, w, key):
    return F.linear(x, w[f"{key}.weight"], w.get(f"{key}.bias"))


def norm(x, w, key, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], w[f"{key}.weight"], w[f"{key}.bias"], eps)


def heads(x, count):
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)  # [B,K,T,h]


def biot_reference(w, signal, cfg):
    scale = np.quantile(np.abs(signal), 0.95, axis=-1, keepdims=True) + 1e-8
    signal = torch.tensor(signal / scale, dtype=torch.float32)
    position = torch.arange(19)[:, None] * 10000 ** (-torch.arange(0, cfg.width, 2) / cfg.width)
    position = torch.stack([position.sin(), position.cos()], dim=2).reshape(19, cfg.width)
    tokens = []
    for c in range(signal.shape[1]):
        spectrum = torch.stft(
            signal[:, c], 200, 100, window=torch.ones(200), center=False, return_complex=True
        )
        x = dense(spectrum.abs().transpose(1, 2), w, "patch_embedding.projection")
        tokens.append(x + w["channel_tokens.weight"][c] + position)
    x = torch.cat(tokens, dim=1)
    for i in range(cfg.depth):
        layer = f"transformer.layers.layers.{i}"
        y = norm(x, w, f"{layer}.0.norm")
        q, k, v = (heads(dense(y, w, f"{layer}.0.fn.to_{n}"), cfg.num_heads) for n in "qkv")
        q, k = q.softmax(dim=-1) * q.shape[-1] ** -0.5, k.softmax(dim=-2)
        mixed = (q @ (k.transpose(2, 3) @ v)).transpose(1, 2).flatten(2)
        x = x + dense(mixed, w, f"{layer}.0.fn.to_out")
        y = norm(x, w, f"{layer}.1.norm")
        y = dense(F.gelu(dense(y, w, f"{layer}.1.fn.fn.w1")), w, f"{layer}.1.fn.fn.w2")
        x = x + y
    return x.mean(dim=1)


def labram_reference(w, signal, cfg):
    count, seconds = signal.shape[1], signal.shape[2] // 200
    x = torch.tensor(signal / 100).reshape(len(signal), 1, count * seconds, 200)
    for n, stride, padding in ((1, 8, 7), (2, 1, 1), (3, 1, 1)):
        kernel, bias = w[f"patch_embed.conv{n}.weight"], w[f"patch_embed.conv{n}.bias"]
        x = F.conv2d(x, kernel, bias, stride=(1, stride), padding=(0, padding))
        scale, offset = w[f"patch_embed.norm{n}.weight"], w[f"patch_embed.norm{n}.bias"]
        x = F.gelu(F.group_norm(x, 4, scale, offset))
    x = x.permute(0, 2, 3, 1).flatten(2)  # [B,P,t,o] -> [B,P,W]
    at = [labram.ROWS[name] for name in cfg.electrodes]
    place = w["pos_embed"][0, at][:, None] + w["time_embed"][:, :seconds]
    first = (w["cls_token"] + w["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = torch.cat([first, x + place.reshape(1, -1, cfg.width)], dim=1)
    for i in range(cfg.depth):
        block = f"blocks.{i}"
        y = dense(norm(x, w, f"{block}.norm1", 1e-6), w, f"{block}.attn.qkv")
        q, k, v = (heads(part, cfg.num_heads) for part in y.chunk(3, dim=-1))
        q, k = norm(q, w, f"{block}.attn.q_norm", 1e-6), norm(k, w, f"{block}.attn.k_norm", 1e-6)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + w[f"{block}.gamma_1"] * dense(mixed, w, f"{block}.attn.proj")
        y = F.gelu(dense(norm(x, w, f"{block}.norm2", 1e-6), w, f"{block}.mlp.fc1"))
        x = x + w[f"{block}.gamma_2"] * dense(y, w, f"{block}.mlp.fc2")
    return norm(x[:, 1:].mean(dim=1), w, "fc_norm", 1e-6)


def test_biot(tmp_path):
    encoder = dataclasses.replace(registry.get("biot"), cfg=BIOT, width=BIOT.width)
    w = published(encoder, 0)
    buffer = {"transformer.layers.layers.0.0.fn.local_attn.rel_pos.inv_freq": np.ones(2, "f")}
    index, positions = np.arange(5), np.zeros((1, 1000, 16), "f")
    more = {"index": index, "positional_encoding.pe": positions} | buffer
    params = loaded(encoder, w, tmp_path, **more)
    signal = 30 * np.random.default_rng(0).normal(size=(2, 3, 2000)).astype(np.float32)
    batch = {"signal": signal, "channel_valid": np.ones((2, 3), bool)}
    expected = biot_reference(w, signal, BIOT)
    found = encoder.pooled(params, BIOT, batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_labram(tmp_path):
    encoder = dataclasses.replace(registry.get("labram_base"), cfg=LABRAM, width=LABRAM.width)
    w = published(encoder, 1)
    head = {"head.weight": np.zeros((6, 200), "f"), "head.bias": np.zeros(6, "f")}
    params = loaded(encoder, w, tmp_path, **head)
    signal = 30 * np.random.default_rng(0).normal(size=(2, 3, 800)).astype(np.float32)
    batch = {"signal": signal, "channel_valid": np.ones((2, 3), bool)}
    found = encoder.pooled(params, LABRAM, batch)
    np.testing.assert_allclose(found, labram_reference(w, signal, LABRAM), rtol=0, atol=1e-5)


def test_a_pretrained_labram_gets_a_new_last_norm(tmp_path):
    encoder = dataclasses.replace(registry.get("labram_base"), cfg=LABRAM, width=LABRAM.width)
    tensors = {
        f"student.{name}": tensor
        for name, tensor in published(encoder, 1).items()
        if not name.startswith("fc_norm.")
    }
    more = {"student.mask_token": np.ones((1, 1, 200), "f"), "student.norm.bias": np.ones(200, "f")}
    params = loaded(encoder, tensors, tmp_path, **more)
    np.testing.assert_array_equal(params["norm"]["scale"], np.ones(200))
    np.testing.assert_array_equal(params["cls"], tensors["student.cls_token"].numpy())
