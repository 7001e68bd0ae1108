"""The published sizes, and the mistakes a configuration refuses."""

from __future__ import annotations

import dataclasses

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm

# Parameters of the released checkpoints (vision tower included); of Qwen3-VL half the total_size of
# its safetensors index.
PUBLISHED = {
    "3b": 3_754_622_976,
    "7b": 8_292_166_656,
    "32b": 33_452_718_336,
    "72b": 73_410_777_344,
    "qwen3-2b": 2_127_532_032,
    "qwen3-4b": 4_437_815_808,
    "qwen3-8b": 8_767_123_696,
    "qwen3-32b": 33_357_390_064,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_count_equals_the_released_checkpoint(name):
    cfg = variants.get(name)
    specs = vlm.param_specs(cfg)
    assert spec.count(specs["decoder"]) + spec.count(specs["vision"]) == PUBLISHED[name]


def test_ecg_encoder_has_the_size_of_vit_base():
    specs = vlm.param_specs(variants.get("7b"))
    assert 84e6 < spec.count(specs["ecg"]) < 87e6
    assert spec.count(specs["ecg_proj"]) == 768 * 3584 + 3584


def test_nano_trains_on_a_laptop():
    assert spec.count(vlm.param_specs(variants.get("nano"))) < 2e6


def test_special_tokens_have_the_ids_of_the_qwen_tokenizer():
    cfg = variants.get("7b")
    assert (cfg.pad_id, cfg.eos_ids) == (151643, (151645, 151643))
    assert (cfg.vision_start_id, cfg.vision_end_id) == (151652, 151653)
    assert (cfg.image_token_id, cfg.video_token_id, cfg.ecg_token_id) == (151655, 151656, 151665)


def test_qwen3_shares_the_ids_but_the_ecg_token_comes_after_its_four_new_tokens():
    cfg, older = variants.get("qwen3-8b"), variants.get("7b")
    assert cfg.ecg_token_id == 151669 > older.ecg_token_id
    assert (cfg.pad_id, cfg.eos_ids, cfg.image_token_id) == (
        older.pad_id,
        older.eos_ids,
        older.image_token_id,
    )


def test_nano_special_tokens_are_the_last_of_its_vocabulary():
    cfg = variants.get("nano")
    assert len(variants.SPECIAL_TOKENS) == len(set(variants.SPECIAL_TOKENS)) == 23
    assert (cfg.pad_id, cfg.image_token_id, cfg.ecg_token_id) == (1001, 1013, 1023)
    assert cfg.eos_ids == (1003, 1001)


@pytest.mark.parametrize(
    "name, part, change",
    [
        ("nano", None, {"ecg_tokens": 7}),
        ("nano", None, {"compute_dtype": "float16"}),
        ("nano", None, {"remat": "some"}),
        ("nano", "decoder", {"num_kv_heads": 3}),
        ("nano", "decoder", {"mrope_section": (4, 6, 6)}),
        ("nano", "vision", {"full_attention_blocks": (0,)}),
        ("nano", "vision", {"width": 100}),
        ("qwen3-2b", "decoder", {"mrope_section": (16, 24, 24)}),  # of 64 places width can have 21
        ("qwen3-2b", "vision", {"deepstack_blocks": (5, 11, 24)}),
        ("qwen3-2b", "vision", {"deepstack_blocks": (11, 5)}),
        ("qwen3-2b", "vision", {"width": 1000}),
        (
            "qwen3-2b",
            None,
            {"decoder": dataclasses.replace(variants.get("qwen3-2b").decoder, num_layers=2)},
        ),
    ],
)
def test_inconsistent_configurations_are_refused(name, part, change):
    cfg = variants.get(name)
    with pytest.raises(ConfigError):
        dataclasses.replace(getattr(cfg, part) if part else cfg, **change)


def test_unknown_variant_names_the_choices():
    with pytest.raises(
        ConfigError, match="nano, 3b, 7b, 32b, 72b, qwen3-2b, qwen3-4b, qwen3-8b, qwen3-32b"
    ):
        variants.get("8b")
