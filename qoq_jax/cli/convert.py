"""`qoq convert`: a Hugging Face directory or hub id, a run of this package, or an ECG-JEPA file ->
published form.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import tempfile
from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError
from qoq_jax.cli.parser import shard_bytes
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.hf import config as config_lib
from qoq_jax.hf import ecg as ecg_files
from qoq_jax.hf import template
from qoq_jax.hf.hub import resolve
from qoq_jax.hf.load import load
from qoq_jax.hf.save import COMPANIONS, save
from qoq_jax.models import spec, vlm
from qoq_jax.models.sizes import VlmConfig

PICKLED = (".pth", ".pt")
PUBLISHED_ECG = {768: 16}  # encoder width -> heads


def run(arguments: argparse.Namespace) -> int:
    """Writes `arguments.dest`; see the parser in cli/main.py for the arguments."""
    source, dest, dtype = arguments.source, arguments.dest, arguments.dtype
    limit = shard_bytes(arguments.shard_size)
    if source.endswith(PICKLED):
        if not storage.is_file(source):
            raise ConfigError("no such file", where=source)
        ecg_files.convert(source, dest)
    elif storage.is_dir(os.path.join(source, "checkpoints")):
        from qoq_jax.train import run as loop  # the trainer is needed for runs only
        from qoq_jax.train.setup import tokenizer_source

        setup, params, _ = loop.restore_run(source, arguments.stage, prepare=False)
        cfg, params = with_ecg(setup.model, params, arguments.ecg, arguments.ecg_heads)
        with tempfile.TemporaryDirectory() as folder:
            files_of_run(tokenizer_source(setup.config), folder, cfg, setup.process)
            save(dest, cfg, params, folder, dtype=dtype, shard_size=limit)
    else:
        directory = resolve(source)
        cfg, params = with_ecg(*load(directory), arguments.ecg, arguments.ecg_heads)
        save(dest, cfg, params, directory, dtype=dtype, shard_size=limit)
    print(dest)
    return 0


def with_ecg(
    cfg: VlmConfig, params: dict[str, Any], path: str | None, heads: int | None = None
) -> tuple[VlmConfig, dict[str, Any]]:
    """(cfg, params) with the ECG encoder of a file; the projection is kept, or new (initial values
    of seed 0).

    Args:
      path: .pth or safetensors of ECG-JEPA; None: nothing changes.
      heads: of the encoder; None: those of the published encoder of that width.
    """
    if path is None:
        return cfg, params
    if cfg.ecg_token_id >= cfg.decoder.vocab_size:
        raise ConfigError(
            f"the ECG token {cfg.ecg_token_id} is outside the vocabulary of "
            f"{cfg.decoder.vocab_size}",
            hint="give time_series_token_id in config.json",
        )
    with tempfile.TemporaryDirectory() as folder:
        if path.endswith(PICKLED):
            ecg_files.convert(path, converted := os.path.join(folder, "ecg.safetensors"))
            path = converted
        # the width tells how many heads the published encoder has
        _, sizes = ecg_files.load(path, num_heads=1)
        heads = heads or PUBLISHED_ECG.get(sizes.width)
        if heads is None:
            raise ConfigError(
                f"the number of heads of an encoder of width {sizes.width} is not known",
                where=path,
                hint="give --ecg-heads",
            )
        weights, sizes = ecg_files.load(path, num_heads=heads)
    dtype = params["decoder"]["embedding"].dtype
    projection = params.get("ecg_proj")
    if projection is None or projection["kernel"].shape[0] != sizes.width:
        specs = vlm.ecg_projection_specs(sizes.width, cfg.decoder.width)
        projection = spec.init_params(specs, jax.random.key(0), dtype)
        print("the ECG projection is new: train it before use")
    encoder = jax.tree.map(lambda weight: jnp.asarray(weight, dtype), weights["encoder"])
    return dataclasses.replace(cfg, ecg=sizes), {**params, "ecg": encoder, "ecg_proj": projection}


def files_of_run(name: str, folder: str, cfg: VlmConfig, process: ProcessConfig) -> None:
    """Writes into `folder` what goes beside a run's weights: its tokenizer, and prompts and sizes
    of images as it was trained with.

    Args:
      name: tokenizer of the run, as for data.tokenizer.load. Of a Hugging Face directory all
        companions of the weights go along.
      process: the run's.
    """
    if name == tokenizer_lib.NANO:
        shutil.copyfile(tokenizer_lib.NANO_PATH, os.path.join(folder, "tokenizer.json"))
        content = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": tokenizer_lib.END_OF_TURN,
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
        }
        files.write_json(os.path.join(folder, template.TOKENIZER_CONFIG), content, indent=2)
    else:
        if storage.is_url(name):
            name = resolve(name.removesuffix("/tokenizer.json"))
        source = name if os.path.isdir(name) else os.path.dirname(os.path.abspath(name))
        # One template and one image processor: those of the training, below.
        left_out = (template.JSON, config_lib.PROCESSOR)
        for file in (*COMPANIONS, config_lib.CONFIG):
            if file not in left_out and os.path.exists(path := os.path.join(source, file)):
                shutil.copyfile(path, os.path.join(folder, file))
    files.write_text(os.path.join(folder, template.JINJA), template.write(process.system))
    limits = {"min_pixels": process.min_pixels, "max_pixels": process.max_pixels}
    preprocessor = config_lib.write_preprocessor(cfg) | limits
    files.write_json(os.path.join(folder, config_lib.PREPROCESSOR), preprocessor, indent=2)
