"""Hugging Face directories without torch: both key schemes and nestings, exact round trips, shards,
errors, memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import huggingface_hub
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers.models import TINY, random_params
from safetensors import safe_open

from qoq_jax import hf
from qoq_jax.base.errors import CheckpointError, ConfigError
from qoq_jax.cli import convert
from qoq_jax.cli import main as cli
from qoq_jax.data import chat
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.hf import architectures, config, template
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm
from qoq_jax.models.encoders import ecg
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling.model import process_config

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ECG_FILE = str(GOLDEN / "ecg_jepa_small.safetensors")
SHARD = 60_000  # bytes: a dozen files


def same(a, b):
    """Bit-equal trees of equal structure and dtypes."""
    a, b = spec.flatten(a), spec.flatten(b)
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        np.testing.assert_array_equal(np.asarray(a[path]), np.asarray(b[path]), err_msg=path)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tiny model with its ECG encoder, written in several files."""
    directory = str(tmp_path_factory.mktemp("hf") / "tiny")
    hf.save(directory, TINY, random_params(), shard_size=SHARD)
    return directory


def edited(published, tmp_path, tensors=None, **fields):
    """A copy of a directory with other tensors (one file) and other fields of config.json; None
    removes a field.
    """
    directory = tmp_path / "edited"
    shutil.copytree(published, directory)
    content = json.loads((directory / "config.json").read_text())
    content = {name: value for name, value in {**content, **fields}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(content))
    if tensors is not None:
        for old in [*directory.glob("*.safetensors"), directory / files.INDEX]:
            old.unlink(missing_ok=True)
        write(directory / files.SINGLE, tensors)
    return str(directory)


def write(path, tensors):
    files.write(
        str(path),
        {name: (files.dtype_name(x.dtype), x.shape) for name, x in tensors.items()},
        tensors.values(),
    )


def arrays(directory):
    return {
        name: np.array(tensor.map()) for name, tensor in files.open_directory(directory).items()
    }


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
                name = theirs + name.removeprefix(canonical)
                break
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
            # fmt: skip
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


@pytest.mark.parametrize("damage, message", [
    (lambda c: c[:-1], "the header promises"),
    (lambda c: c + b"x", "the header promises"),
    (lambda c: c[:4], "truncated or no safetensors file"),
    (lambda c: b"\xff" * 8 + c[8:], "truncated or no safetensors file"),
    (lambda c: c[:8] + b"not json" + c[16:], "damaged safetensors header"),
    (lambda c: header_of(c, lambda e: {**e, "lm_head.weight": {"dtype": "F32"}}), "damaged "
                                                                                  "safetensors "
                                                                                  "header"),
    (lambda c: header_of(c, as_dtype("F16")), "damaged safetensors header .tensor lm_head.weight"),
    (lambda c: header_of(c, as_dtype("I32")), "1 of another type: lm_head.weight .I32"),
])  # fmt: skip
def test_damaged_files_are_named_errors(published, tmp_path, damage, message):
    directory = pathlib.Path(edited(published, tmp_path, arrays(published)))
    change(directory / files.SINGLE, damage)
    with pytest.raises(CheckpointError, match=message):
        hf.load(str(directory))


@pytest.mark.parametrize("edit, message", [
    (lambda index: {**index, "lm_head.weight": "../other.safetensors"}, "outside the directory: "
                                                                        "../other.safetensors"),
    (lambda index: {**index, "lm_head.weight": "model-9.safetensors"}, "files of the index are "
                                                                       "missing: "
                                                                       "model-9.safetensors"),
    (lambda index: {**index, "lm_heat.weight": index["lm_head.weight"]}, "disagree about "
                                                                         "lm_heat.weight"),
    (lambda index: {k: v for k, v in index.items() if k != "lm_head.weight"}, "disagree about "
                                                                              "lm_head.weight"),
    (lambda index: None, "damaged index"),
])  # fmt: skip
def test_an_index_that_does_not_describe_its_files(published, tmp_path, edit, message):
    path = pathlib.Path(edited(published, tmp_path), files.INDEX)
    path.write_text(json.dumps({"weight_map": edit(json.loads(path.read_text())["weight_map"])}))
    with pytest.raises(CheckpointError, match=message):
        hf.load(str(path.parent))


@pytest.mark.parametrize("fields, message", [
    ({"model_type": "llava"}, "unsupported architecture: model_type 'llava'"),
    ({"architectures": ["Qwen2_5_VLModel"]}, r"architectures \['Qwen2_5_VLModel'\]"),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0, "mrope_section": [2, 3, 3]}},
     r"rope_scaling.type = 'yarn' is not supported.*rope_scaling.factor is not supported"),
    ({"rope_scaling": None}, "rope_parameters is missing"),
    ({"rope_scaling": {"mrope_section": [2, 3, 4]}}, "must sum to half of head_dim"),
    ({"hidden_act": "gelu", "use_sliding_window": True, "quantization_config": {}},
     "hidden_act = 'gelu'.*use_sliding_window = True.*quantization_config is not supported"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ({"head_dim": 128}, "head_dim = 128 is not supported, only 16"),
    ({"num_hidden_layers": "2"}, "num_hidden_layers is '2', not int"),
    ({"logit_softcapping": 30.0}, "logit_softcapping is not supported"),
    ({"vision_config": {"depth": 4, "num_heads": 2, "hidden_size": 32, "fullatt_block_indexes": [0, 2], "out_hidden_size": 64}},
     r"full_attention_blocks \(0, 2\)"),
    ({"time_series_config": {"leads": 8, "patch": 50}}, "time_series_config.patch is not "
                                                        "supported"),
    ({"text_config": {"hidden_size": 32}}, "hidden_size is 64 and in text_config 32"),
])  # fmt: skip
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


# ----------------------------------------------------------------------------------------- Qwen3-VL

# config.json in the form of Qwen/Qwen3-VL-4B-Instruct, of the tiny model in golden/qwen3_tiny.npz.
QWEN3_TEXT = {
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 110, "dtype": "float16", "eos_token_id": 111, "head_dim": 16,
    "hidden_act": "silu", "hidden_size": 48, "initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 512,
    "model_type": "qwen3_vl_text", "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "rope_theta": 5000000, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 128,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
}  # fmt: skip
QWEN3_TOWER = {
    "deepstack_visual_indexes": [0, 2], "depth": 4, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 32, "in_channels": 3,
    "initializer_range": 0.02, "intermediate_size": 48, "model_type": "qwen3_vl", "num_heads": 2, "num_position_embeddings": 36,
    "out_hidden_size": 48, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
QWEN3 = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "image_token_id": 120, "video_token_id": 121,
    "vision_start_token_id": 122, "vision_end_token_id": 123, "tie_word_embeddings": False, "text_config": QWEN3_TEXT,
    "vision_config": QWEN3_TOWER, "transformers_version": "4.57.0",
}  # fmt: skip


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """The tiny Qwen3-VL as the hub has it."""
    directory = tmp_path_factory.mktemp("qwen3")
    with np.load(GOLDEN / "qwen3_tiny.npz") as golden:
        tensors = {
            keys.transformers_5(name.removeprefix("weight:")): x
            for name, x in golden.items()
            if name.startswith("weight:")
        }
    assert {
        "model.language_model.layers.2.self_attn.k_norm.weight",
        "model.visual.pos_embed.weight",
        keys.LM_HEAD,
    } <= tensors.keys()
    write(directory / files.SINGLE, tensors)
    (directory / "config.json").write_text(json.dumps(QWEN3))
    processor = {
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    for name in (config.PREPROCESSOR, config.VIDEO_PREPROCESSOR):
        (directory / name).write_text(json.dumps(processor))
    return str(directory)


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


@pytest.mark.parametrize("text, tower, message", [
    ({"attention_bias": True}, {}, "text_config.attention_bias = True is not supported"),
    ({"head_dim": 8}, {}, "must sum to half of head_dim=8"),
    ({"rope_scaling": {"mrope_section": [4, 2, 2], "mrope_interleaved": False}}, {}, "mrope_interleaved = False is not supported"),
    ({"rope_scaling": {"mrope_section": [4, 2, 2], "factor": 2.0}}, {}, "rope_scaling.factor is "
                                                                        "not supported"),
    ({"rope_scaling": {"mrope_section": [4, 2, 2], "rope_type": "yarn"}}, {}, "rope_type = "
                                                                              "'yarn' is not "
                                                                              "supported"),
    ({"num_experts": 8}, {}, "text_config.num_experts is not supported"),
    ({}, {"hidden_act": "gelu"}, "vision_config.hidden_act = 'gelu' is not supported"),
    ({}, {"out_hidden_size": 64}, "vision_config.out_hidden_size = 64 is not supported, only 48"),
    ({}, {"num_position_embeddings": 35}, "num_position_embeddings = 35 is not a square"),
    ({}, {"deepstack_visual_indexes": [2, 0]}, "must be rising numbers"),
    ({}, {"patch_size": [4, 4]}, r"patch_size is \[4, 4\], not int"),
    ({}, {"window_size": 112}, "vision_config.window_size is not supported"),
])  # fmt: skip
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


# ------------------------------------------------------------------------- prompts, sizes of images

# In the form of the published ones: of Qwen2.5-VL (a system turn of its own), Qwen3-VL (none) and
# Qwen3-VL Thinking (an opening).
BODY = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for part in message.content %}
        {%- if part.type == 'image' %}
            {%- set images.value = images.value + 1 %}
            <|vision_start|><|image_pad|><|vision_end|>
        {%- else %}
            {{- part.text }}
        {%- endif %}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}"""
BODY = "{%- set images = namespace(value=0) %}" + BODY.replace(
    "1 %}\n            <|", "1 -%}\n            <|"
)
SYSTEM_TURN = (
    "{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful "
    "assistant.<|im_end|>\\n' }}{%- endif %}"
)
QWEN2_5_TEMPLATE = SYSTEM_TURN + BODY + "{{- '<|im_start|>assistant\\n' }}"
QWEN3_TEMPLATE = (
    BODY + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
THINKING_TEMPLATE = BODY + "{{- '<|im_start|>assistant\\n<think>\\n' }}"


@pytest.mark.parametrize("place", [template.JINJA, template.JSON, template.TOKENIZER_CONFIG])
@pytest.mark.parametrize("source, words", [
    (QWEN2_5_TEMPLATE, (chat.SYSTEM, "")), (QWEN3_TEMPLATE, ("", "")), (THINKING_TEMPLATE, ("", "<think>\n")),
    (template.write(""), ("", "")), (template.write('Say "yes" {{ or }} no\n\\ é'), ('Say "yes" '
                                                                                     '{{ or }} '
                                                                                     'no\n\\ é', "")),
])  # fmt: skip
def test_prompts_are_written_with_the_words_of_the_chat_template(tmp_path, place, source, words):
    (tmp_path / place).write_text(
        source if place == template.JINJA else json.dumps({"chat_template": source})
    )
    process = process_config(variants.get("qwen3-2b"), str(tmp_path))
    assert (process.system, process.opening) == words == template.read(str(tmp_path))
    ends = "".join(
        chat.prompt_parts("?", system=process.system, opening=process.opening)
    ).partition("<|im_start|>user\n?<|im_end|>\n")
    assert ends[2] == "<|im_start|>assistant\n" + words[1] and bool(ends[0]) == bool(words[0])


@pytest.mark.parametrize("source, message", [
    ("{{ messages[0].content }}", "writes prompts that this package cannot"),
    (QWEN3_TEMPLATE.replace("message.role", "'human'"), "writes prompts that this package cannot"),
    ("Hi! " + QWEN3_TEMPLATE, "writes prompts that this package cannot: 'Hi!<"),
    ("{{ raise_exception('no images') }}", "cannot be run .no images"),
    ("{% for", "cannot be run"),
    ("{{ 1 / 0 }}", "cannot be run .division by zero"),
    ("{{ messages.__class__.__base__.__subclasses__() }}", "cannot be run .*unsafe"),
])  # fmt: skip
def test_a_chat_template_that_cannot_be_honoured_is_a_named_error(tmp_path, source, message):
    (tmp_path / template.JINJA).write_text(source)
    with pytest.raises(ConfigError, match=message) as caught:
        process_config(variants.get("3b"), str(tmp_path))
    assert "\n" not in str(caught.value)


def test_without_a_template_prompts_are_those_of_the_family(tmp_path):
    assert process_config(variants.get("3b"), str(tmp_path)).system == chat.SYSTEM
    assert process_config(variants.get("qwen3-2b"), str(tmp_path)).system == ""


@pytest.mark.parametrize("content, limits", [
    ({"min_pixels": 4000, "max_pixels": 90_000}, (4000, 90_000)),
    ({"size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}}, (65_536, 16_777_216)),
    ({"patch_size": 14}, config.PROCESSOR_PIXELS), (None, config.QOQ_PIXELS),
])  # fmt: skip
def test_sizes_of_images_are_those_of_the_image_processor(tmp_path, content, limits):
    """Also where transformers 5 keeps them; never more than the model takes."""
    for name in (config.PROCESSOR, config.PREPROCESSOR):
        if content is not None:
            (tmp_path / name).write_text(
                json.dumps({"image_processor": content} if name == config.PROCESSOR else content)
            )
        assert config.pixel_limits(str(tmp_path)) == limits
        process = process_config(variants.get("3b"), str(tmp_path))
        room = variants.get("3b").vision.max_frame_patches * 14**2
        assert (process.min_pixels, process.max_pixels) == (limits[0], min(limits[1], room))
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / config.PREPROCESSOR).write_text('{"max_pixels": "many"}')
    with pytest.raises(ConfigError, match="'many' pixels"):
        config.pixel_limits(str(tmp_path))


# ------------------------------------------------------------------------------------- hub, command


def test_resolve_names_what_is_missing_and_asks_the_hub_for_the_rest(tmp_path, monkeypatch):
    assert hf.resolve(str(tmp_path)) == str(tmp_path)
    with pytest.raises(CheckpointError, match="no such directory"):
        hf.resolve("./nowhere")

    def offline(name, allow_patterns):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand no cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        CheckpointError, match=r"not downloaded from the hub \(no network\)"
    ) as caught:
        hf.resolve("Qwen/Qwen2.5-VL-7B-Instruct")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: f"{name} {'*.bin' in allow_patterns}",
    )
    assert hf.resolve("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct False"


def test_convert_copies_what_belongs_to_the_model_and_replaces_nothing(published, tmp_path, capsys):
    source = pathlib.Path(edited(published, tmp_path, max_position_embeddings=777))
    (source / "tokenizer.json").write_text("{}")
    (source / "modeling.py").write_text("raise SystemExit")
    (source / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": "modeling.Own"}}'
    )
    dest = tmp_path / "out"
    command = ["convert", str(source), str(dest), "--dtype", "bfloat16", "--shard-size", "100KB"]
    assert cli.main(command) == 0
    content = json.loads((dest / "config.json").read_text())
    assert content["max_position_embeddings"] == 777 and content["torch_dtype"] == "bfloat16"
    assert (dest / "tokenizer.json").read_text() == "{}" and not (dest / "modeling.py").exists()
    assert json.loads((dest / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "Qwen2Tokenizer"
    }
    same(hf.load(str(dest))[1], jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_params()))
    before = sorted(tmp_path.iterdir())
    assert cli.main(command) == 1 and "already exists" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before  # nothing written by half
    assert cli.main(["convert", str(source), str(tmp_path / "y"), "--shard-size", "many"]) == 2


def test_convert_adds_an_ecg_encoder(published, tmp_path, capsys):
    """The golden ECG-JEPA in the place of the random one; a new projection of its width."""
    dest = str(tmp_path / "ecg")
    assert (
        cli.main(["convert", published, dest, "--ecg", ECG_FILE]) == 2
        and "give --ecg-heads" in capsys.readouterr().err
    )
    assert cli.main(["convert", published, dest, "--ecg", ECG_FILE, "--ecg-heads", "4"]) == 0
    assert "the ECG projection is new" in capsys.readouterr().out
    cfg, params = hf.load(dest)
    golden = np.load(GOLDEN / "ecg_jepa_small_io.npz")
    assert cfg.ecg.num_heads == 4 and params["ecg_proj"]["kernel"].shape == (96, 64)
    np.testing.assert_allclose(
        jax.jit(ecg.represent, static_argnums=1)(params["ecg"], cfg.ecg, golden["ecg"]),
        golden["representation"],
        atol=1e-5,
    )


def test_tokenizer_files_of_a_run_and_sizes_of_shards(tmp_path):
    nano = variants.get("nano")
    process = ProcessConfig.for_model(
        nano, max_pixels=112 * 112, frame_max_pixels=56 * 56, min_pixels=784
    )
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, source in ((first, "nano"), (second, str(first))):
        folder.mkdir()
        convert.files_of_run(source, str(folder), nano, process)
        names = sorted(path.name for path in folder.iterdir())
        assert names == [
            "chat_template.jinja",
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        # is not to go along: it would hide preprocessor_config.json
        (folder / config.PROCESSOR).write_text("{}")
    assert config.pixel_limits(str(second)) == (784, 112 * 112)
    assert list(files.shard({"a": 5, "b": 5, "c": 20, "d": 1}, 10)) == [["a", "b"], ["c"], ["d"]]


MEMORY = """
import dataclasses, gc, re, sys
import jax, numpy as np
from qoq_jax import hf
from qoq_jax.models import sizes as variants, spec, vlm
from qoq_jax.hf import config, names as keys, safetensors as files

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

nano = variants.get("nano")
text = dataclasses.replace(nano.decoder, vocab_size=32768, width=1024, num_layers=12, num_heads=8, num_kv_heads=2,
                           head_dim=128, mlp_dim=4096, mrope_section=(16, 24, 24))
cfg = dataclasses.replace(nano, decoder=text, ecg=None)
import json, os
directory = sys.argv[1]
specs = spec.flatten(vlm.param_specs(cfg)).values()
plan = {key: ("BF16", keys.published_shape(one)) for one in specs for key in keys.layer_keys(one)}
files.write(os.path.join(directory, files.SINGLE), plan, (np.zeros(shape, files.DTYPES["BF16"]) for _, shape in plan.values()))
json.dump(config.write(cfg, "bfloat16"), open(os.path.join(directory, "config.json"), "w"))
jax.block_until_ready(jax.jit(lambda x: x + 1)(jax.numpy.zeros(8)))
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
_, params = hf.load(directory)
placed = sum(x.nbytes for x in jax.tree.leaves(params))
print(placed, status("VmHWM") - before - placed)
"""


def test_host_memory_above_the_parameters_is_bounded(tmp_path):
    """400 MB of parameters, the largest tensor 67 MB: neither a second copy nor the mapped file
    piles up.
    """
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"PYTHONPATH": str(GOLDEN.parents[1])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    placed, above = map(int, done.stdout.split())
    assert placed > 300e6 and above < 150e6, f"{above / 1e6:.0f} MB above {placed / 1e6:.0f} MB"
