"""Directories of Qwen3-VL: names, nesting, fields, pixel statistics."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from helpers.checkpoints import QWEN3_TEXT, QWEN3_TOWER, arrays, edited, same
from helpers.models import TINY

from qoq_jax import hf
from qoq_jax.base.errors import ConfigError
from qoq_jax.hf import architectures, config
from qoq_jax.hf import names as keys
from qoq_jax.models import sizes as variants
from qoq_jax.models import vlm

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def test_qwen3_round_trip_is_bit_exact_in_names_and_values(qwen3, tmp_path):
    cfg, params = hf.load(qwen3)
    assert cfg.decoder == variants.DecoderConfig(
        vocab_size=128,
        width=48,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=96,
        mrope_section=(4, 2, 2),
        rope_theta=5e6,
        qkv_bias=False,
        qk_norm=True,
        mrope_interleaved=True,
    )
    assert cfg.vision == variants.Qwen3VisionConfig(
        width=32,
        depth=4,
        num_heads=2,
        mlp_dim=48,
        patch_size=4,
        position_grid=6,
        deepstack_blocks=(0, 2),
        max_frame_patches=architectures.frame_patches(4),
    )
    assert (cfg.ecg, cfg.ecg_token_id, cfg.eos_ids, cfg.pad_id) == (
        None,
        variants.QWEN3_ECG_TOKEN_ID,
        (111,),
        111,
    )
    with np.load(GOLDEN / "qwen3_tiny.npz") as golden:
        tensors = {
            name.removeprefix("weight:"): x
            for name, x in golden.items()
            if name.startswith("weight:")
        }
    same(params, hf.from_tensors(vlm.param_specs(cfg), tensors))
    for dest, source in (("copied", qwen3), ("written", None)):
        hf.save(str(tmp_path / dest), cfg, params, source)
        same(arrays(str(tmp_path / dest)), arrays(qwen3))
        assert hf.read_config(str(tmp_path / dest)) == dataclasses.replace(
            cfg, compute_dtype="bfloat16"
        )
        written = json.loads((tmp_path / dest / config.PREPROCESSOR).read_text())
        assert written["image_mean"] == [0.5] * 3 and written["patch_size"] == 4
    written = json.loads((tmp_path / "copied" / "config.json").read_text())
    assert (
        written["text_config"]["max_position_embeddings"] == 512
        and written["text_config"]["head_dim"] == 16
    )


def test_qwen3_as_transformers_5_nests_it_and_tied(qwen3, tmp_path):
    rope = {**QWEN3_TEXT["rope_scaling"], "rope_theta": 5e6}
    text = {
        name: x
        for name, x in QWEN3_TEXT.items()
        if name not in ("rope_scaling", "rope_theta", "tie_word_embeddings")
    }
    tower = {**QWEN3_TOWER, "rope_parameters": {"rope_type": "axial", "rope_theta": 500.0}}
    tensors = arrays(qwen3)
    tensors[keys.LM_HEAD] = tensors["model.language_model.embed_tokens.weight"]
    fields = {
        "text_config": text | {"rope_parameters": rope},
        "vision_config": tower,
        "tie_word_embeddings": True,
    }
    tied = edited(qwen3, tmp_path, tensors, **fields)
    cfg, params = hf.load(tied)
    assert (
        cfg.decoder.tied_embeddings
        and cfg.decoder.rope_theta == 5e6
        and cfg.vision.rope_theta == 500
    )
    hf.save(str(tmp_path / "again"), cfg, params)
    assert hf.load(str(tmp_path / "again"))[0] == cfg and keys.LM_HEAD not in arrays(
        str(tmp_path / "again")
    )


@pytest.mark.parametrize(
    "text, tower, message",
    [
        ({"attention_bias": True}, {}, "text_config.attention_bias = True is not supported"),
        ({"head_dim": 8}, {}, "must sum to half of head_dim=8"),
        (
            {"rope_scaling": {"mrope_section": [4, 2, 2], "mrope_interleaved": False}},
            {},
            "mrope_interleaved = False is not supported",
        ),
        (
            {"rope_scaling": {"mrope_section": [4, 2, 2], "factor": 2.0}},
            {},
            "rope_parameters.factor is not supported",
        ),
        (
            {"rope_scaling": {"mrope_section": [4, 2, 2], "rope_type": "dynamic", "factor": 2.0}},
            {},
            "rope_type = 'dynamic' is not supported",
        ),
        ({"num_experts": 8}, {}, "text_config.num_experts is not supported"),
        ({}, {"hidden_act": "gelu"}, "vision_config.hidden_act = 'gelu' is not supported"),
        (
            {},
            {"out_hidden_size": 64},
            "vision_config.out_hidden_size = 64 is not supported, only 48",
        ),
        ({}, {"num_position_embeddings": 35}, "num_position_embeddings = 35 is not a square"),
        ({}, {"deepstack_visual_indexes": [2, 0]}, "must be rising numbers"),
        ({}, {"patch_size": [4, 4]}, "patch_size"),
        ({}, {"window_size": 112}, "vision_config.window_size is not supported"),
    ],
)
def test_qwen3_fields_are_honoured_or_refused_by_name(qwen3, tmp_path, text, tower, message):
    with pytest.raises(ConfigError, match=message):
        hf.load(
            edited(
                qwen3, tmp_path, text_config=QWEN3_TEXT | text, vision_config=QWEN3_TOWER | tower
            )
        )


def test_what_config_json_cannot_say_is_not_exported(qwen3):
    cfg, replace = hf.read_config(qwen3), dataclasses.replace
    for wrong, name in (
        (replace(cfg, tokens_per_second=4), "tokens_per_second = 4"),
        (replace(cfg, decoder=replace(cfg.decoder, qkv_bias=True)), "decoder.qkv_bias = True"),
        (replace(TINY, vision=replace(TINY.vision, norm_eps=1e-5)), "vision.norm_eps = 1e-05"),
    ):
        with pytest.raises(ConfigError, match=f"config.json of .* cannot say {name}"):
            config.write(wrong, "float32")


@pytest.mark.parametrize("name", [config.PREPROCESSOR, config.VIDEO_PREPROCESSOR])
def test_pixel_statistics_of_the_other_family_are_refused(qwen3, tmp_path, name):
    path = pathlib.Path(edited(qwen3, tmp_path), name)
    path.write_text(json.dumps({"image_mean": list(variants.CLIP_MEAN)}))
    with pytest.raises(ConfigError, match=rf"{name}: image_mean = \[0.48145466.*Qwen3VLProcessor"):
        hf.load(str(path.parent))
