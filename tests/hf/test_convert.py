"""Names of the hub, `qoq convert`, and the memory that loading takes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.checkpoints import edited, same
from helpers.models import random_params

from qoq_jax import hf
from qoq_jax.base.errors import CheckpointError
from qoq_jax.cli import convert
from qoq_jax.cli import main as cli
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.hf import config
from qoq_jax.hf import safetensors as files
from qoq_jax.models import sizes as variants
from qoq_jax.models.encoders import ecg

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ECG_FILE = str(GOLDEN / "ecg_jepa_small.safetensors")


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
text = dataclasses.replace(
    nano.decoder, vocab_size=32768, width=1024, num_layers=12, num_heads=8, num_kv_heads=2,
    head_dim=128, mlp_dim=4096, mrope_section=(16, 24, 24),
)
cfg = dataclasses.replace(nano, decoder=text, ecg=None)
import json, os
directory = sys.argv[1]
specs = spec.flatten(vlm.param_specs(cfg)).values()
plan = {key: ("BF16", keys.published_shape(one)) for one in specs for key in keys.layer_keys(one)}
zeros = (np.zeros(shape, files.DTYPES["BF16"]) for _, shape in plan.values())
files.write(os.path.join(directory, files.SINGLE), plan, zeros)
json.dump(config.write(cfg, "bfloat16"), open(os.path.join(directory, "config.json"), "w"))
jax.block_until_ready(jax.jit(lambda x: x + 1)(jax.numpy.zeros(8)))
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
_, params = hf.load(directory)
placed = sum(x.nbytes for x in jax.tree.leaves(params))
print(placed, status("VmHWM") - before - placed)
"""


@pytest.mark.slow
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
