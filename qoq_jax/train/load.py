"""`qoq_jax.load`: what a source is, and the model that it gives."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError, DataError, did_you_mean
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm
from qoq_jax.sampling import model as models
from qoq_jax.sampling.model import Model


def load(
    source: str | os.PathLike, mesh: jax.sharding.Mesh | None = None, dtype: Any = None
) -> Model:
    """A model to ask.

    Args:
      source: a Hugging Face directory or hub id, the workdir of a `qoq train` run (its last stage),
        or the name of a variant (nano, 3b, ...), which gets random weights and says so.
      mesh: parallel.mesh.make_mesh(...), over which weights are sharded; None = one device, or the
        mesh of the run.
      dtype: "float32" or "bfloat16" of weights and compute; None = as stored.

    Raises:
      ConfigError: nothing of that name, or a config that is not supported. CheckpointError: weights
        that do not fit.
    """
    name = os.fspath(source)
    if dtype is not None and jnp.dtype(dtype).name not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype={jnp.dtype(dtype).name}", hint="use 'float32' or 'bfloat16'")
    if storage.is_dir(name):
        return (models.of_published if _is_hf(name) else _of_run)(name, mesh, dtype)
    if name in variants.NAMES:
        return models.of_variant(name, mesh, dtype)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return models.of_published(name, mesh, dtype)
    near = did_you_mean(name, variants.NAMES, "")
    raise ConfigError(
        f"no directory and no variant {name!r}" + (near and f", {near}"),
        hint="give a Hugging Face directory, a hub id like OWNER/NAME, the workdir of a run, or "
        "one of " + ", ".join(variants.NAMES),
    )


def _is_hf(directory: str) -> bool:
    """A config.json with a model_type is Hugging Face's; a run has its own, or none (restore_run
    then says so). An adapter_config.json is PEFT's.
    """
    if storage.exists(os.path.join(directory, "adapter_config.json")):
        return True
    try:
        content = files.read_json(os.path.join(directory, "config.json"), {}, finite=False)
    except DataError:
        return False
    return isinstance(content, dict) and "model_type" in content


def _of_run(workdir: str, mesh: jax.sharding.Mesh | None, dtype: Any) -> Model:
    from qoq_jax.train import run  # here: all of training, which no other source needs

    setup, params, stage = run.restore_run(workdir, prepare=False, mesh=mesh)
    cfg = models.inference_config(setup.model, dtype)
    if dtype is not None:
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    if mesh is not None:
        params = jax.device_put(params, spec.shardings(vlm.param_specs(cfg), mesh))
    return Model(
        cfg,
        params,
        setup.tokenizer,
        process=setup.process,
        mesh=setup.mesh if mesh is None else mesh,
        source=f"stage {stage} of the run {workdir}",
    )
