"""Hugging Face directories without torch: both key schemes and nestings, exact round trips, shards,
errors.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers.checkpoints import arrays, edited, same
from helpers.models import TINY, random_params
from safetensors import safe_open

from qoq_jax import hf
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.hf import architectures, config
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm
from qoq_jax.parallel import mesh as mesh_lib

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def test_round_trip_is_bit_exact_and_safetensors_reads_it(published):
    cfg, params = hf.load(published)
    assert cfg == dataclasses.replace(
        TINY,
        vision=dataclasses.replace(TINY.vision, max_frame_patches=architectures.frame_patches(4)),
        remat="full",
    )
    same(params, random_params())
    index = json.loads(pathlib.Path(published, files.INDEX).read_text())
    sizes = [path.stat().st_size for path in pathlib.Path(published).glob("*.safetensors")]
    assert len(sizes) == len(set(index["weight_map"].values())) > 5 and index["metadata"][
        "total_size"
    ] < sum(sizes)
    ours = arrays(published)
    for name, shard in index["weight_map"].items():
        with safe_open(f"{published}/{shard}", framework="numpy") as file:
            np.testing.assert_array_equal(file.get_tensor(name), ours[name])


def test_both_key_schemes_and_nestings_are_one_model(published, tmp_path):
    renamed = {}
    for name, tensor in arrays(published).items():
        for theirs, canonical in keys.TRANSFORMERS_5:
            if name.startswith(canonical):
                renamed[theirs + name.removeprefix(canonical)] = tensor
                break
        else:
            renamed[name] = tensor
    assert sum(name.startswith(("model.visual.", "model.language_model.")) for name in renamed) > 70
    flat = json.loads(pathlib.Path(published, "config.json").read_text())
    text = {
        name: flat[name]
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "rms_norm_eps",
            "hidden_act",
            "max_position_embeddings",
            "attention_dropout",
            "use_sliding_window",
        )
    }
    text |= {
        "layer_types": ["full_attention"] * 2,
        "sliding_window": None,
        "model_type": "qwen2_5_vl_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }
    nested = edited(
        published,
        tmp_path,
        renamed,
        text_config=text,
        rope_scaling=None,
        rope_theta=None,
        **dict.fromkeys(name for name in text if name in flat and name != "model_type"),
    )
    assert hf.load(nested)[0] == hf.load(published)[0]
    same(hf.load(nested)[1], random_params())


def test_the_published_qoq_med_is_the_7b_variant():
    """config.json and all 868 tensor names of the released checkpoint."""
    golden = json.loads((GOLDEN / "qoq_med_7b.json").read_text())
    cfg = config.parse(golden["config"], True)
    assert dataclasses.replace(cfg, ecg_tokens=50) == variants.get("7b") and cfg.ecg_tokens == 1
    specs = spec.flatten(vlm.param_specs(cfg))
    ours = [key for one in specs.values() for key in keys.layer_keys(one)]
    assert keys.fold([*ours, keys.ECG_POSITIONS]) == golden["tensors"] and len(ours) + 1 == 868
    # bfloat16, but for the ECG encoder, which was saved in float32.
    encoder = spec.count(vlm.param_specs(cfg)["ecg"]) + 400 * 768
    assert 2 * (spec.count(vlm.param_specs(cfg)) + 400 * 768) + 2 * encoder == golden["total_size"]


def test_qwen_without_an_ecg_encoder_has_no_ecg_weights(published, tmp_path):
    plain = {
        name: x for name, x in arrays(published).items() if not name.startswith(keys.ECG_PREFIX)
    }
    cfg, params = hf.load(
        edited(published, tmp_path, plain, time_series_config=None, time_series_token_id=None)
    )
    assert cfg.ecg is None and params.keys() == {"decoder", "vision"}
    batch = {"patches": jnp.zeros((1, 0, 96), jnp.uint8), "ecg": jnp.zeros((1, 1, 8, 2500))}
    with pytest.raises(ConfigError, match="an ECG for a model without an ECG encoder"):
        vlm.media_table(params, cfg, batch)


def test_tied_embeddings_need_no_head_and_an_equal_one_is_accepted(published, tmp_path):
    tied = arrays(published)
    tied[keys.LM_HEAD] = tied[keys.EMBEDDING]
    cfg, params = hf.load(edited(published, tmp_path, tied, tie_word_embeddings=True))
    assert cfg.decoder.tied_embeddings and "lm_head" not in params["decoder"]
    hf.save(str(tmp_path / "again"), cfg, params)
    assert keys.LM_HEAD not in arrays(str(tmp_path / "again"))
    tied[keys.LM_HEAD] = tied[keys.EMBEDDING] + 1
    with pytest.raises(
        CheckpointError, match="lm_head.weight differs from model.embed_tokens.weight"
    ):
        hf.load(edited(published, tmp_path / "x", tied, tie_word_embeddings=True))


@pytest.mark.parametrize("stored", [ml_dtypes.bfloat16, np.float16])
def test_dtypes_are_kept_or_cast(published, tmp_path, stored):
    """A half-precision file with a float32 ECG encoder, as QoQ-Med is published."""
    half = {
        name: x if ".encoder." in name else x.astype(stored)
        for name, x in arrays(published).items()
    }
    directory = edited(published, tmp_path, half)
    cfg, params = hf.load(directory)
    expected = jax.tree_util.tree_map_with_path(
        lambda path, x: np.asarray(x) if path[0].key == "ecg" else np.asarray(x).astype(stored),
        random_params(),
    )
    same(params, expected)
    assert cfg.compute_dtype == "bfloat16"
    cfg, params = hf.load(directory, dtype="float32")
    assert cfg.compute_dtype == "float32"
    same(params, jax.tree.map(lambda x: x.astype(np.float32), expected))


def test_eight_devices_hold_their_parts_of_the_same_weights(published, tmp_path):
    mesh = mesh_lib.make_mesh(data=2, fsdp=2, tensor=2)
    cfg, params = hf.load(published, mesh)
    same(params, random_params())
    expected = spec.shardings(vlm.param_specs(cfg), mesh)
    right = jax.tree.map(
        lambda x, sharding: x.sharding.is_equivalent_to(sharding, x.ndim), params, expected
    )
    assert all(jax.tree.leaves(right)), right
    assert params["vision"]["blocks"]["qkv"]["kernel"].addressable_shards[0].data.shape == (
        4,
        16,
        3,
        1,
        16,
    )
    hf.save(str(tmp_path / "from8"), cfg, params, published)
    same(arrays(str(tmp_path / "from8")), arrays(published))


def test_all_wrong_tensors_are_listed_at_once(published, tmp_path):
    tensors = arrays(published)
    for layer in range(2):
        del tensors[f"model.layers.{layer}.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.zeros(3, np.float32)
    tensors["model.layers.1.self_attn.q_norm.weight"] = np.zeros(16, np.float32)
    tensors["visual.blocks.2.norm1.weight"] = tensors["visual.blocks.2.norm1.weight"].astype(
        np.float16
    )
    with pytest.raises(CheckpointError) as caught:
        hf.load(edited(published, tmp_path, tensors))
    for text in (
        "2 missing: model.layers.{0-1}.mlp.up_proj.weight",
        "1 left over: model.layers.1.self_attn.q_norm.weight",
        "model.norm.weight ([3] for [64])",
        "visual.blocks.{0-3}.norm1.weight (F16 and F32, choose a dtype)",
    ):
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def change(path, edit):
    content = bytearray(path.read_bytes())
    path.write_bytes(edit(content))


def header_of(content, edit):
    size = int.from_bytes(content[:8], "little")
    text = json.dumps(edit(json.loads(content[8 : 8 + size]))).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def as_dtype(name):
    return lambda entries: {
        key: {**x, "dtype": name} if key == "lm_head.weight" else x for key, x in entries.items()
    }


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda c: c[:-1], "the header declares"),
        (lambda c: c + b"x", "the header declares"),
        (lambda c: c[:4], "truncated or no safetensors file"),
        (lambda c: b"\xff" * 8 + c[8:], "truncated or no safetensors file"),
        (lambda c: c[:8] + b"not json" + c[16:], "damaged safetensors header"),
        (
            lambda c: header_of(c, lambda e: {**e, "lm_head.weight": {"dtype": "F32"}}),
            "damaged safetensors header",
        ),
        (
            lambda c: header_of(c, as_dtype("F16")),
            "damaged safetensors header .tensor lm_head.weight",
        ),
        (lambda c: header_of(c, as_dtype("I32")), "1 of another type: lm_head.weight .I32"),
    ],
)
def test_damaged_files_are_named_errors(published, tmp_path, damage, message):
    directory = pathlib.Path(edited(published, tmp_path, arrays(published)))
    change(directory / files.SINGLE, damage)
    with pytest.raises(CheckpointError, match=message):
        hf.load(str(directory))


@pytest.mark.parametrize(
    "edit, message",
    [
        (
            lambda index: {**index, "lm_head.weight": "../other.safetensors"},
            "outside the directory: ../other.safetensors",
        ),
        (
            lambda index: {**index, "lm_head.weight": "model-9.safetensors"},
            "files of the index are missing: model-9.safetensors",
        ),
        (
            lambda index: {**index, "lm_heat.weight": index["lm_head.weight"]},
            "disagree about lm_heat.weight",
        ),
        (
            lambda index: {k: v for k, v in index.items() if k != "lm_head.weight"},
            "disagree about lm_head.weight",
        ),
        (lambda index: None, "damaged index"),
    ],
)
def test_an_index_that_does_not_describe_its_files(published, tmp_path, edit, message):
    path = pathlib.Path(edited(published, tmp_path), files.INDEX)
    path.write_text(json.dumps({"weight_map": edit(json.loads(path.read_text())["weight_map"])}))
    with pytest.raises(CheckpointError, match=message):
        hf.load(str(path.parent))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model_type": "llava"}, "unsupported architecture: model_type 'llava'"),
        ({"architectures": ["Qwen2_5_VLModel"]}, r"architectures \['Qwen2_5_VLModel'\]"),
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0, "mrope_section": [2, 3, 3]}},
            r"rope_type = 'linear' is not supported.*rope_parameters.factor is not supported",
        ),
        ({"rope_scaling": None}, "mrope_section .16, 24, 24. must sum to half of head_dim"),
        ({"rope_scaling": {"mrope_section": [2, 3, 4]}}, "must sum to half of head_dim"),
        (
            {"hidden_act": "gelu", "use_sliding_window": True, "quantization_config": {}},
            "quant_method = None.*hidden_act = 'gelu'.*use_sliding_window = True",
        ),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"head_dim": 128}, "head_dim = 128 is not supported, only 16"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers.*expected int, got str"),
        ({"logit_softcapping": 30.0}, "logit_softcapping is not supported"),
        (
            {
                "vision_config": {
                    "depth": 4,
                    "num_heads": 2,
                    "hidden_size": 32,
                    "fullatt_block_indexes": [0, 2],
                    "out_hidden_size": 64,
                }
            },
            r"full_attention_blocks \(0, 2\)",
        ),
        (
            {"time_series_config": {"leads": 8, "patch": 50}},
            "time_series_config.patch is not supported",
        ),
        ({"text_config": {"hidden_size": 32}}, "hidden_size 32 does not divide into 64 heads"),
    ],
)
def test_config_fields_are_honoured_or_refused_by_name(published, tmp_path, fields, message):
    directory = edited(published, tmp_path, **fields)
    with pytest.raises(ConfigError, match=message):
        hf.load(directory)


def test_other_pixel_statistics_and_other_ecg_positions_are_refused(published, tmp_path):
    directory = edited(published, tmp_path)
    path = pathlib.Path(directory, config.PREPROCESSOR)
    path.write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(ConfigError, match=r"image_mean = \[0.5, 0.5, 0.5\] is not supported"):
        hf.load(directory)
    tensors = arrays(published)
    tensors[keys.ECG_POSITIONS] = tensors[keys.ECG_POSITIONS] + 0.01
    with pytest.raises(CheckpointError, match="pos_embed is not the fixed sin-cos table"):
        hf.load(edited(published, tmp_path / "x", tensors))
