"""LoRA adapters in the layout of peft, against the sum by hand on torch weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from benchmarks import parity
from qoq_jax import hf

pytestmark = pytest.mark.parity

RANK, ALPHA = 2, 6
TARGETS = (
    "language_model.layers.0.self_attn.q_proj",
    "language_model.layers.1.mlp.down_proj",
    "visual.blocks.2.attn.qkv",
)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", parity.FAMILIES)
def test_a_model_with_an_adapter_equals_transformers_with_the_sum(family, rslora, tmp_path):
    model = parity.tiny_model(family)
    model.save_pretrained(tmp_path / "base")
    rng = np.random.default_rng(0)
    scale, matrices = ALPHA / (RANK**0.5 if rslora else RANK), {}
    for name in TARGETS:
        weight = model.model.get_submodule(name).weight
        a = rng.normal(size=(RANK, weight.shape[1])).astype(np.float32)
        b = rng.normal(size=(weight.shape[0], RANK)).astype(np.float32) / 40
        matrices |= {
            f"base_model.model.model.{name}.lora_A.weight": a,
            f"base_model.model.model.{name}.lora_B.weight": b,
        }
        with torch.no_grad():
            weight += scale * torch.tensor(b) @ torch.tensor(a)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(matrices, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "base_model_name_or_path": str(tmp_path / "base"),
                "r": RANK,
                "lora_alpha": ALPHA,
                "use_rslora": rslora,
            }
        )
    )
    cfg, params = hf.load(str(adapter))
    found = parity.compare("one image", model, cfg, params)
    assert max(found.values()) <= parity.TOLERANCE, found
