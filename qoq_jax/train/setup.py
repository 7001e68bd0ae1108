"""From a Config to the objects a run works with: data sets, tokenizer, model configuration, mesh,
budgets.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from qoq_jax import hf
from qoq_jax.base import interrupt
from qoq_jax.base.errors import ConfigError
from qoq_jax.data import images
from qoq_jax.data import rows as schema
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.models import attention, decode_attention
from qoq_jax.models import sizes as variants
from qoq_jax.parallel import hosts
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.train import budgets, datasets
from qoq_jax.train.batches import Batches
from qoq_jax.train.config import Config


@dataclasses.dataclass(kw_only=True)
class Setup(Batches):
    """What every command needs: the data half (`Batches`), and the devices.

    Attributes:
      mesh: device mesh.
      domains: names behind the domain ids of DRPO, in the schema's order.
      banned: bool [V] on the mesh, tokens that are never sampled.
    """

    mesh: jax.sharding.Mesh
    domains: tuple[str, ...] = schema.DOMAINS

    @property
    def banned(self) -> jax.Array:
        banned = np.zeros(self.model.decoder.vocab_size, bool)
        banned[list(self.tokenizer.banned_ids(self.model.decoder.vocab_size))] = True
        return self.everywhere(banned)

    def put(self, batch: Any) -> Any:
        """This process's arrays -> arrays of the mesh with rows (axis 0) over data and fsdp."""
        return hosts.to_global(batch, mesh_lib.batch_sharding(self.mesh))

    def everywhere(self, tree: Any) -> Any:
        """Host arrays that all processes have -> arrays of the mesh, whole on every device."""
        whole = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())
        return hosts.place(tree, whole)

    def own(self, tree: Any) -> Any:
        """The inverse of `put`: this process's rows of arrays of the mesh, as numpy arrays."""
        return hosts.own_rows(tree, mesh_lib.batch_sharding(self.mesh))


def model_config(cfg: Config) -> variants.VlmConfig:
    """The model of a config with its compute options.

    A published model without an ECG encoder gets one of the size of the published ECG-JEPA, unless
    model.ecg_tokens is 0.

    Raises:
      ConfigError: an unknown variant, a published model that is not supported or does not fit
        model.ecg_tokens, or a kernel of another platform.
      CheckpointError: the directory or hub id cannot be read.
    """
    chosen = cfg.model
    kernel = chosen.attention
    if kernel == "auto":
        kernel = attention.kernel_for(jax.default_backend())
    options = {"compute_dtype": chosen.compute_dtype, "remat": chosen.remat, "attention": kernel}
    decoding = decode_attention.kernel_of(chosen.decode_attention)
    if decoding == "ragged" and jax.default_backend() != "tpu":
        raise ConfigError(
            f"model.decode_attention=ragged on {jax.default_backend()}: a kernel for TPUs",
            hint="leave model.decode_attention at auto",
        )
    options["decode_attention"] = decoding
    if not is_published(chosen.variant):
        model = variants.get(chosen.variant)
    else:
        directory = hf.resolve(chosen.variant)
        model = hf.read_config(directory)
        if model.ecg is not None and chosen.ecg_tokens not in (0, model.ecg_tokens):
            raise ConfigError(
                f"its ECGs take {model.ecg_tokens} token(s), model.ecg_tokens = "
                f"{chosen.ecg_tokens}",
                where=directory,
                hint=f"set model.ecg_tokens={model.ecg_tokens}, or 0 to leave the ECG encoder out",
            )
        if model.ecg is None and chosen.ecg_tokens:
            if model.ecg_token_id >= model.decoder.vocab_size:
                raise ConfigError(
                    f"no room for an ECG encoder: the vocabulary of {model.decoder.vocab_size} "
                    "ends before the ECG "
                    f"token {model.ecg_token_id}",
                    where=directory,
                    hint="set model.ecg_tokens=0, or give time_series_token_id in its config.json",
                )
            options["ecg"] = variants.BASE_ECG
    if not chosen.ecg_tokens:
        return dataclasses.replace(model, ecg=None, **options)
    return dataclasses.replace(model, ecg_tokens=chosen.ecg_tokens, **options)


def is_published(variant: str) -> bool:
    """Whether model.variant names a Hugging Face directory or hub id, and not a size of
    models/sizes.py.
    """
    return variant not in variants.NAMES and (os.path.isdir(variant) or "/" in variant)


def tokenizer_source(cfg: Config) -> str:
    """What data.tokenizer.load reads: model.tokenizer, or else the model's own."""
    if cfg.model.tokenizer:
        return cfg.model.tokenizer
    if is_published(cfg.model.variant):
        directory = hf.resolve(cfg.model.variant)
        found = hf.find(directory, "tokenizer.json")  # an adapter may have that of its base
        return os.path.dirname(found) if found else directory
    if cfg.model.variant == "nano":
        return tokenizer_lib.NANO
    raise ConfigError(
        f"model.variant = {cfg.model.variant!r} has no tokenizer of its own",
        hint="set model.tokenizer to a directory with tokenizer.json, or model.variant to a "
        "Hugging Face model",
    )


def assemble(
    cfg: Config,
    prepare: bool = True,
    training: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> Setup:
    """Checks that tokenizer, model, mesh and budgets fit each other, and starts to prepare the data
    sets when asked.

    Args:
      training: for `qoq train`: the data sets must be those that the run began with, with all
        splits that it will need.
      devices: of the mesh; None = all.

    Raises:
      ConfigError: parts that do not fit. A data set that cannot be made or read is a DataError
        where it is first used.
    """
    model = model_config(cfg)
    tokenizer = tokenizer_lib.load(tokenizer_source(cfg))
    mesh = _mesh(cfg, model, devices)
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    micro = {
        "sft": cfg.sft.accumulate,
        "align": cfg.rl.minibatches * cfg.rl.accumulate,
        "rl": cfg.rl.minibatches * cfg.rl.accumulate,
    }
    for parts, what in [
        (1, ""),
        *(
            (micro[name], f" in {micro[name]} parts (stage {name})")
            for name in cfg.stages
            if name in micro
        ),
    ]:
        if prepare and cfg.data.media_rows % (shards * parts):
            raise ConfigError(
                f"data.media_rows = {cfg.data.media_rows} does not divide over {shards} data x "
                f"fsdp devices{what}",
                hint=budgets.hint_rows(cfg, model, mesh.shape, parts),
            )
    _check_rollout_rows(cfg, mesh, prepare)
    images.resampler()  # what resizes pictures is decided, and said, once
    process = ProcessConfig.for_model(
        model,
        min_pixels=cfg.data.min_pixels,
        max_pixels=cfg.data.max_pixels,
        frame_max_pixels=cfg.data.frame_max_pixels,
        max_prompt_tokens=cfg.data.max_prompt_tokens,
        max_response_tokens=cfg.data.max_response_tokens,
        system=cfg.data.system,
        answer_only=cfg.rl.reward.answer_only,
        ecg_length=cfg.data.ecg_length,
        box_coordinates=cfg.model.box_coordinates,
    )
    tokenizer.check(process.token_ids())
    datasets.check_extra(cfg.data)
    # In the background, so that the first step compiles while files are generated and fetched.
    pool = concurrent.futures.ThreadPoolExecutor(1, initializer=interrupt.block)
    record = datasets.Record(cfg.workdir, training) if prepare else None
    splits = (
        ("train", cfg.eval.split, *(("validation",) if cfg.eval.every else ())) if training else ()
    )
    prepared = (
        pool.submit(datasets.prepare, cfg, record, splits)
        if prepare
        else pool.submit(lambda: ({}, []))
    )
    pool.shutdown(wait=False)
    return Setup(
        config=cfg,
        model=model,
        tokenizer=tokenizer,
        process=process,
        prepared=prepared,
        record=record,
        mesh=mesh,
        share=hosts.Share.of(mesh),
    )


def _mesh(
    cfg: Config, model: variants.VlmConfig, devices: Sequence[jax.Device] | None
) -> jax.sharding.Mesh:
    """The mesh of a config; raises ConfigError when it does not fit the devices or the rows."""
    sizes = cfg.mesh
    mesh = mesh_lib.make_mesh(sizes.data, sizes.fsdp, sizes.tensor, devices, sizes.sequence)
    budgets.check_sequence(cfg, model, mesh.shape["sequence"], mesh.shape["tensor"])
    return mesh


def _check_rollout_rows(cfg: Config, mesh: jax.sharding.Mesh, prepare: bool) -> None:
    """Raises ConfigError when the rows of media do not divide over the mesh of rollouts."""
    if cfg.mesh.rollout_tensor and {"align", "rl"} & set(cfg.stages):
        rows = mesh_lib.rollout_mesh(mesh, cfg.mesh.rollout_tensor).shape["data"]
        if prepare and cfg.data.media_rows % rows:
            raise ConfigError(
                f"data.media_rows = {cfg.data.media_rows} does not divide over the {rows} copies "
                "of the weights of rollouts (devices / mesh.rollout_tensor)",
                hint=f"set data.media_rows to a multiple of {rows}",
            )
