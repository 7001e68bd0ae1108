"""The published sizes, and the mistakes a configuration refuses."""

from __future__ import annotations

import dataclasses

import pytest

from qoq_jax.errors import ConfigError
from qoq_jax.models import decoder, spec, variants, vision, vlm

# Parameters of the released Qwen2.5-VL checkpoints (vision tower included).
PUBLISHED = {"3b": 3_754_622_976, "7b": 8_292_166_656, "32b": 33_452_718_336, "72b": 73_410_777_344}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_count_equals_the_released_checkpoint(name):
    cfg = variants.get(name)
    specs = [decoder.param_specs(cfg.decoder), vision.param_specs(cfg.vision, cfg.decoder.width)]
    assert sum(map(spec.count, specs)) == PUBLISHED[name]


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


def test_nano_special_tokens_are_the_last_of_its_vocabulary():
    cfg = variants.get("nano")
    assert len(variants.SPECIAL_TOKENS) == len(set(variants.SPECIAL_TOKENS)) == 23
    assert (cfg.pad_id, cfg.image_token_id, cfg.ecg_token_id) == (1001, 1013, 1023)
    assert cfg.eos_ids == (1003, 1001)


@pytest.mark.parametrize(
    "part, change",
    [
        (None, {"ecg_tokens": 7}),
        (None, {"compute_dtype": "float16"}),
        (None, {"remat": "some"}),
        ("decoder", {"num_kv_heads": 3}),
        ("decoder", {"mrope_section": (4, 6, 6)}),
        ("vision", {"full_attention_blocks": (0,)}),
        ("vision", {"width": 100}),
    ],
)
def test_inconsistent_configurations_are_refused(part, change):
    cfg = variants.get("nano")
    with pytest.raises(ConfigError):
        dataclasses.replace(getattr(cfg, part) if part else cfg, **change)


def test_unknown_variant_names_the_choices():
    with pytest.raises(ConfigError, match="nano, 3b, 7b, 32b, 72b"):
        variants.get("8b")
