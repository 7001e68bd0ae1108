"""Qwen2.5-VL and Qwen3-VL of transformers, saved, loaded, compared and written back; ECG-JEPA's
pickles. Cases: benchmarks/parity.py.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import pickle

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from benchmarks import parity
from qoq_jax import hf
from qoq_jax.base.errors import CheckpointError
from qoq_jax.cli import convert
from qoq_jax.cli import main as cli
from qoq_jax.data import chat
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.hf import architectures
from qoq_jax.hf import config as config_lib
from qoq_jax.hf import names as keys
from qoq_jax.hf import safetensors as files
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm

pytestmark = pytest.mark.parity

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(
    scope="module", params=["Qwen2.5-VL", "Qwen2.5-VL, names of transformers 5", "Qwen3-VL"]
)
def kind(request):
    """Family and key scheme; Qwen3-VL has one scheme."""
    return request.param


@pytest.fixture(scope="module")
def theirs(kind):
    torch.set_num_threads(2)
    return parity.tiny_model(kind.partition(",")[0])


@pytest.fixture(scope="module")
def directory(theirs, kind, tmp_path_factory):
    """The model as transformers saves it."""
    path = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(path, save_original_format="," not in kind, max_shard_size="200KB")
    names = set(files.open_directory(str(path)))
    assert ("model.language_model.norm.weight" in names) == (kind != "Qwen2.5-VL")
    return str(path)


@pytest.fixture(scope="module")
def ours(directory):
    cfg, params = hf.load(directory)
    return dataclasses.replace(cfg, remat="none"), params


@pytest.mark.parametrize("case", parity.PROMPTS)
def test_every_stage_equals_transformers(case, theirs, ours):
    found = parity.compare(case, theirs, *ours)
    assert {"positions", "hidden", "logits"} <= found.keys() and found["positions"] == 0
    assert ("deepstack" in found) == (parity.is_qwen3(ours[0]) and "vision tower" in found)
    assert max(found.values()) <= parity.TOLERANCE, found


@pytest.mark.slow
def test_gradients_equal_transformers(theirs, ours):
    relative = parity.gradients(theirs, *ours)
    assert max(relative.values()) <= parity.TOLERANCE, relative


@pytest.mark.parametrize("family", parity.FAMILIES)
def test_a_tied_model_equals_transformers_and_goes_back(family, tmp_path):
    model = parity.tiny_model(family, seed=1, tied=True)
    cfg, params = parity.loaded(model, str(tmp_path / "theirs"))
    assert cfg.decoder.tied_embeddings and "lm_head" not in params["decoder"]
    found = parity.compare("one image", model, cfg, params)
    assert max(found.values()) <= parity.TOLERANCE, found
    hf.save(str(tmp_path / "ours"), cfg, params)
    again = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "ours", dtype="float32", attn_implementation="eager"
    )
    assert again.lm_head.weight is again.get_input_embeddings().weight
    assert torch.equal(logits(again.eval(), cfg), logits(model, cfg))


@torch.no_grad()
def logits(model, cfg):
    prompt = parity.make_prompt(parity.PROMPTS["image and video"][0], np.random.default_rng(0), cfg)
    return model(**parity.torch_inputs([prompt], cfg)).logits


def test_transformers_loads_the_export_with_equal_bits(theirs, directory, tmp_path):
    dest, cfg = str(tmp_path / "back"), hf.read_config(directory)
    assert cli.main(["convert", directory, dest, "--shard-size", "150KB"]) == 0
    again = transformers.AutoModelForImageTextToText.from_pretrained(
        dest, dtype="float32", attn_implementation="eager"
    )
    state, reference = again.state_dict(), theirs.state_dict()
    assert state.keys() == reference.keys()
    for name in reference:
        assert torch.equal(state[name], reference[name]), name
    assert torch.equal(logits(again.eval(), cfg), logits(theirs, cfg))
    assert again.generation_config.eos_token_id == theirs.generation_config.eos_token_id


def test_ecg_weights_travel_beside_and_transformers_loads_the_rest(theirs, directory, tmp_path):
    """A .pth in ECG-JEPA's own form; transformers leaves the ECG tensors aside."""
    golden = load_file(GOLDEN / "ecg_jepa_small.safetensors")
    pth, dest = str(tmp_path / "epoch100.pth"), str(tmp_path / "with_ecg")
    encoder = {
        name.removeprefix("encoder."): torch.tensor(x)
        for name, x in golden.items()
        if name.startswith("encoder.")
    }
    torch.save({"encoder": encoder, "epoch": 100}, pth)
    assert cli.main(["convert", pth, str(tmp_path / "ecg.safetensors")]) == 0
    converted = load_file(tmp_path / "ecg.safetensors")
    assert converted.keys() == {name for name in golden if name.startswith("encoder.")}
    assert all(np.array_equal(converted[name], golden[name]) for name in converted)

    source = tmp_path / "source"
    cfg, params = hf.load(directory)
    hf.save(str(source), dataclasses.replace(cfg, ecg_token_id=124), params, directory)
    content = json.loads((source / "config.json").read_text()) | {"time_series_token_id": 124}
    (source / "config.json").write_text(json.dumps(content))
    assert cli.main(["convert", str(source), dest, "--ecg", pth, "--ecg-heads", "4"]) == 0
    names = files.open_directory(dest)
    for name in golden:
        if name.startswith("encoder."):
            np.testing.assert_array_equal(
                names[f"time_series_embedding.{name}"].map(), golden[name]
            )
    assert names["time_series_embedding.linear.weight"].shape == (cfg.decoder.width, 96)
    again = transformers.AutoModelForImageTextToText.from_pretrained(
        dest, dtype="float32", attn_implementation="eager"
    )
    assert torch.equal(logits(again.eval(), cfg), logits(theirs, cfg))


class Harmful:
    def __reduce__(self):
        return print, ("code of a pickle ran",)


def test_pickles_build_tensors_and_nothing_else(tmp_path, capsys):
    path, dest = str(tmp_path / "evil.pth"), str(tmp_path / "out.safetensors")
    torch.save({"encoder": Harmful()}, path)
    assert cli.main(["convert", path, dest]) == 1
    pathlib.Path(path).write_bytes(pickle.dumps(Harmful(), protocol=2))
    assert cli.main(["convert", path, dest]) == 1
    said = capsys.readouterr()
    assert (
        "code of a pickle ran" not in said.out
        and said.err.count("more than tensors") == 2
        and not pathlib.Path(dest).exists()
    )
    torch.save({"encoder": {"W_P.weight": torch.zeros(16, 50)}}, path)
    with pytest.raises(CheckpointError, match="missing"):
        convert.ecg_files.convert(path, dest)
    assert list(tmp_path.iterdir()) == [pathlib.Path(path)]


@pytest.mark.parametrize("system", ["", "You read ECGs."])
def test_transformers_reads_tokenizer_template_and_processor_of_a_run(tmp_path, system):
    """The nano model as `qoq convert RUN` writes it: prompts and sizes of images are those of the
    training.
    """
    nano = dataclasses.replace(variants.get("nano"), ecg=None)
    folder = tmp_path / "files"
    folder.mkdir()
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), vlm.param_specs(nano))
    dest = str(tmp_path / "nano")
    convert.files_of_run(
        "nano",
        str(folder),
        nano,
        ProcessConfig.for_model(
            nano, system=system, min_pixels=1000, max_pixels=9000, frame_max_pixels=9000
        ),
    )
    hf.save(dest, nano, params, str(folder))
    tokenizer = transformers.AutoTokenizer.from_pretrained(dest)
    turns = [
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "ecg"},
                {"type": "text", "text": "Is it normal?"},
            ],
        }
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == chat.prompt_text("Is it normal?", images=1, ecgs=1, system=system)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (
        ids.count(nano.image_token_id) == ids.count(nano.ecg_token_id) == 1
        and tokenizer.eos_token_id == nano.eos_ids[0]
    )
    config = transformers.AutoConfig.from_pretrained(dest)
    assert config.text_config.hidden_size == 96 and config.tie_word_embeddings
    processor = transformers.AutoImageProcessor.from_pretrained(dest, backend="pil")
    assert processor.patch_size == 14 and processor.merge_size == 2
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (1000, 9000)


@pytest.mark.parametrize("name", ["3b", "7b", "qwen3-2b", "qwen3-8b"])
def test_transformers_has_the_same_tensors_for_a_published_size(name, tmp_path):
    """config.json of a variant as we write it; every name and shape, without the weights."""
    cfg = dataclasses.replace(variants.get(name), ecg=None)
    (tmp_path / "config.json").write_text(json.dumps(config_lib.write(cfg, "bfloat16")))
    published = architectures.of(cfg).published_name
    ours = {
        published(key): keys.published_shape(one)
        for one in spec.flatten(vlm.param_specs(cfg)).values()
        for key in keys.layer_keys(one)
    }
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(
            transformers.AutoConfig.from_pretrained(tmp_path)
        )
    theirs = {keys.canonical(key): tuple(x.shape) for key, x in model.state_dict().items()}
    if cfg.decoder.tied_embeddings:
        del theirs[keys.LM_HEAD]
    assert {keys.canonical(key): shape for key, shape in ours.items()} == theirs
    read = config_lib.read(str(tmp_path))
    assert (
        dataclasses.replace(
            read,
            pad_id=cfg.pad_id,
            eos_ids=cfg.eos_ids,
            ecg_tokens=50,
            ecg_token_id=cfg.ecg_token_id,
        )
        == cfg
    )
