"""config.json in the forms that transformers and its users have written, against transformers."""

from __future__ import annotations

import dataclasses
import json

import pytest
import transformers

from benchmarks import parity
from qoq_jax import hf

pytestmark = pytest.mark.parity

TEXT_ALONE = 1e-5  # largest difference of a model without its vision tower
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
# text fields that transformers 4.52 to 4.54 wrote at the root too
DOUBLE = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "vocab_size",
    "max_position_embeddings",
    "eos_token_id",
    "pad_token_id",
)


@pytest.fixture(scope="module", params=parity.FAMILIES)
def saved(request, tmp_path_factory):
    """A tiny model as transformers saves it, without generation_config.json."""
    directory = tmp_path_factory.mktemp("saved")
    parity.tiny_model(request.param).save_pretrained(directory)
    (directory / "generation_config.json").unlink()
    return directory, json.loads((directory / "config.json").read_text())


def both(saved, **fields):
    """(the torch model, cfg, params) of a directory with other fields of config.json."""
    directory, content = saved
    (directory / "config.json").write_text(json.dumps(content | fields))
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(
        directory, dtype="float32", attn_implementation="eager"
    )
    cfg, params = hf.load(str(directory))
    return theirs.eval(), dataclasses.replace(cfg, remat="none"), params


def differences(theirs, cfg, params):
    return parity.compare("text only", theirs, cfg, params)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"attention_factor": 0.7},
        {"beta_fast": 4.0, "beta_slow": 0.5},
        {"truncate": False},
        {"mscale": 0.7, "mscale_all_dim": 1.0},
    ],
    ids=str,
)
def test_yarn_stretches_the_frequencies_as_transformers_does(saved, more):
    text = saved[1]["text_config"]
    rope = text["rope_parameters"] | YARN | more
    model = both(saved, text_config=text | {"rope_parameters": rope})
    assert model[1].decoder.yarn.factor == 4
    found = differences(*model)
    assert max(found.values()) <= TEXT_ALONE, found
    plain = dataclasses.replace(model[1], decoder=dataclasses.replace(model[1].decoder, yarn=None))
    assert differences(model[0], plain, model[2])["logits"] > 1e-2


def test_yarn_as_older_files_write_it_is_exported_and_read_again(saved, tmp_path):
    text = dict(saved[1]["text_config"])
    rope = {("type" if name == "rope_type" else name): x for name, x in YARN.items()}
    old = text.pop("rope_parameters")
    scaling = {name: old[name] for name in ("mrope_section", "mrope_interleaved") if name in old}
    text |= {"rope_scaling": scaling | rope, "rope_theta": old["rope_theta"]}
    theirs, cfg, params = both(saved, text_config=text)
    assert max(differences(theirs, cfg, params).values()) <= TEXT_ALONE
    hf.save(str(tmp_path / "ours"), cfg, params)
    again = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "ours", dtype="float32", attn_implementation="eager"
    )
    found = differences(again.eval(), cfg, params)
    assert max(found.values()) <= TEXT_ALONE, found


def test_text_fields_written_twice_are_read_as_transformers_reads_them(saved):
    """As 4.52 to 4.54 wrote them; where they differ, those of text_config count."""
    text = saved[1]["text_config"]
    twice = {name: text[name] for name in DOUBLE}
    twice |= {"rms_norm_eps": 1e-2, "rope_theta": 10.0, "rope_scaling": {"type": "mrope"}}
    nested = text | {"image_token_id": None, "video_token_id": None, "vision_end_token_id": 123}
    theirs, cfg, params = both(saved, text_config=nested, **twice)
    assert cfg.decoder.norm_eps == 1e-6
    found = differences(theirs, cfg, params)
    assert max(found.values()) <= TEXT_ALONE, found


@pytest.mark.parametrize(
    "root",
    [{}, {"eos_token_id": 7}, {"eos_token_id": [7, 8], "pad_token_id": 9}, {"pad_token_id": 9}],
    ids=str,
)
def test_end_and_pad_tokens_are_those_of_transformers_generate(saved, root):
    theirs, cfg, _ = both(saved, **root)
    generation = theirs.generation_config
    eos = generation.eos_token_id
    assert cfg.eos_ids == tuple(eos if isinstance(eos, list) else [eos])
    assert cfg.pad_id == generation.pad_token_id
