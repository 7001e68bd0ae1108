"""A config on a topology: its model, mesh and stages, and the shapes that its programs meet.
Nothing is allocated: weights are the rows of models/spec.py, places are NamedShardings of an
abstract mesh.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh

from qoq_jax.base.errors import ConfigError
from qoq_jax.data.packing import Budget, empty_batch
from qoq_jax.models import attention, critic, decode_attention, sizes, spec, vlm
from qoq_jax.models import lora as lora_lib
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.parallel.mesh import MESH_AXES, MeshConfig
from qoq_jax.plan.devices import Topology
from qoq_jax.train import budgets, optim, stages, state
from qoq_jax.train import plan as plan_lib
from qoq_jax.train.config import Config
from qoq_jax.train.plan import Plan
from qoq_jax.train.state import TrainState

Mesh = jax.sharding.Mesh | AbstractMesh
# Hub ids whose config.json says what the sizes of models/sizes.py say: nothing is downloaded.
HUB = {
    **{f"Qwen/Qwen2.5-VL-{n}B-Instruct": f"{n}b" for n in (3, 7, 32, 72)},
    **{f"Qwen/Qwen3-VL-{n}B-Instruct": f"qwen3-{n}b" for n in (2, 4, 8, 32)},
    "ddvd233/QoQ-Med-VL-7B": "7b",
    "ddvd233/QoQ-Med-VL-32B": "32b",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One stage of a config on a topology.

    Attributes:
      config: with its mesh resolved: no size is -1.
      model: with the config's compute options and the kernel of the devices.
      topology: the devices.
      mesh: of training, without devices.
      stage: what the config says about the stage.
    """

    config: Config
    model: VlmConfig
    topology: Topology
    mesh: AbstractMesh
    stage: Plan

    @property
    def is_rl(self) -> bool:
        """Whether responses are sampled."""
        return self.stage.algorithm is not None

    @property
    def batch_ways(self) -> int:
        """Devices that share the rows of a training batch."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def sequence(self) -> int:
        """Devices that share the tokens of a row in training."""
        return self.mesh.shape["sequence"]

    @property
    def tensor(self) -> int:
        """Ways that heads and hidden units are cut in training."""
        return self.mesh.shape["tensor"]

    @property
    def rollout_tensor(self) -> int:
        """Ways that weights are cut for sampling."""
        return self.config.mesh.rollout_tensor or self.tensor

    @property
    def rollout_weights(self) -> str:
        """Of the decoder's layers while sampling: rl.rollout_weights."""
        return self.stage.rl.rollout_weights if self.is_rl else "auto"

    @property
    def copies_weights(self) -> bool:
        """Whether sampling has weights of its own (sampling/layout.py)."""
        return bool(self.config.mesh.rollout_tensor) or self.rollout_weights != "auto"

    @property
    def rollout_mesh(self) -> AbstractMesh:
        """The mesh of sampling."""
        ways = self.config.mesh.rollout_tensor
        if not ways:
            return self.mesh
        return _abstract(mesh_lib.rollout_sizes(self.mesh.size, ways))

    @property
    def rollout_ways(self) -> int:
        """Devices that share the rows of sampling."""
        mesh = self.rollout_mesh
        return mesh.shape["data"] * mesh.shape["fsdp"]

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in the compute dtype."""
        return jnp.dtype(self.model.compute_dtype).itemsize

    @functools.cached_property
    def budget(self) -> Budget:
        """The shape of a batch of the stage: of prompts in RL."""
        answers = not self.is_rl and not self.stage.stage.packed
        return budgets.training_budget(self.config, self.model, self.stage.name, answers)

    @property
    def updates(self) -> int:
        """Updates of a step."""
        return self.stage.rl.minibatches * self.stage.rl.epochs if self.is_rl else 1

    @property
    def parts(self) -> int:
        """Parts that the rows of a step are cut into: mini-batches, and their micro-batches."""
        return (self.stage.rl.minibatches if self.is_rl else 1) * self.stage.accumulate

    @property
    def specs(self) -> dict[str, Any]:
        """Declarations of the model's weights."""
        return specs_of(self.model)

    @property
    def trained(self) -> dict[str, Any]:
        """Declarations of what the stage trains."""
        return trained_specs(self.model, self.stage)

    @functools.cached_property
    def state(self) -> TrainState:
        """The train state as shapes and places, as train/stage_run.py lays it out."""
        # What the state does not depend on is left out of the key.
        rl = self.stage.rl and dataclasses.replace(self.stage.rl, accumulate=1)
        stage = dataclasses.replace(self.stage, accumulate=1, rl=rl)
        model = dataclasses.replace(self.model, remat="full", attention="einsum")
        return _state(model, stage, self.mesh)


def model_of(cfg: Config, kind: str) -> VlmConfig:
    """The model of a config with its compute options on devices of a kind, "tpu" or "gpu".

    Raises:
      ConfigError: a model that is neither a known size or hub id nor a directory.
    """
    chosen = cfg.model
    kernel = chosen.attention
    if kernel == "auto":
        kernel = attention.kernel_for(kind)
    decoding = decode_attention.kernel_of(chosen.decode_attention)
    name = HUB.get(chosen.variant, chosen.variant)
    if name not in sizes.NAMES:
        if not os.path.isdir(chosen.variant):
            raise ConfigError(
                f"model.variant = {chosen.variant!r} is neither a size, nor a directory here, nor "
                "one of the hub ids that are planned without a download",
                hint=f"use one of {', '.join((*sizes.NAMES, *HUB))}, or a directory",
            )
        from qoq_jax.train import setup  # it reads config.json with transformers

        kept = dataclasses.replace(chosen, attention=kernel, decode_attention=decoding)
        return setup.model_config(dataclasses.replace(cfg, model=kept))
    model = dataclasses.replace(
        sizes.get(name),
        compute_dtype=chosen.compute_dtype,
        remat=chosen.remat,
        attention=kernel,
        decode_attention=decoding,
    )
    if not chosen.ecg_tokens:
        return dataclasses.replace(model, ecg=None)
    return dataclasses.replace(model, ecg_tokens=chosen.ecg_tokens)


def resolved(cfg: MeshConfig, topology: Topology) -> MeshConfig:
    """The mesh on a topology, -1 taken as what is left.

    Raises:
      ConfigError: it does not multiply to the number of devices, or weights would be gathered over
        the network between slices.
    """
    try:
        found = mesh_lib.resolved_sizes(cfg.sizes, topology.size, topology.slices)
        if cfg.rollout_tensor:
            mesh_lib.rollout_sizes(topology.size, cfg.rollout_tensor)
    except ConfigError as error:
        hint = f"{error.hint}; qoq plan --search tries all"
        raise ConfigError(error.what, where=str(topology), hint=hint) from None
    return dataclasses.replace(cfg, **dict(zip(MESH_AXES, found, strict=True)))


def check_stages(cfg: Config) -> None:
    """Checks that all stages of a config are of the multimodal model.

    Raises:
      ConfigError: one is not.
    """
    for stage in cfg.stages:
        if stages.get(stage).alone:
            raise ConfigError(
                f"stage {stage} trains no multimodal model",
                hint="plan a config of sft, align or rl",
            )


def make(cfg: Config, topology: Topology, stage: str) -> Case:
    """A stage of a config on a topology.

    Raises:
      ConfigError: the mesh does not fit the topology, or batches do not divide over it.
    """
    check_stages(cfg)
    cfg = dataclasses.replace(cfg, mesh=resolved(cfg.mesh, topology))
    mesh = _abstract(cfg.mesh.sizes)
    planned, model = plan_lib.plan(cfg, stage), model_of(cfg, topology.device.kind)
    if planned.algorithm is not None:
        model = dataclasses.replace(model, kv_cache_dtype=planned.rl.kv_cache_dtype)
    case = Case(cfg, model, topology, mesh, planned)
    budgets.check_sequence(cfg, model, cfg.mesh.sequence, cfg.mesh.tensor)
    wanted = case.batch_ways * case.parts
    if cfg.data.media_rows % wanted:
        raise ConfigError(
            f"data.media_rows = {cfg.data.media_rows} does not divide over {case.batch_ways} data "
            f"x fsdp devices in {case.parts} part(s) (stage {stage})",
            hint=f"{budgets.hint_rows(cfg, model, mesh.shape, case.parts)}; --search tries all",
        )
    if case.is_rl and cfg.mesh.rollout_tensor and cfg.data.media_rows % case.rollout_ways:
        raise ConfigError(
            f"data.media_rows = {cfg.data.media_rows} does not divide over the "
            f"{case.rollout_ways} copies of the weights of rollouts",
            hint="raise mesh.rollout_tensor, or use --search",
        )
    return case


def _abstract(sizes: Sequence[int]) -> AbstractMesh:
    return AbstractMesh(tuple(sizes), MESH_AXES, axis_types=mesh_lib.AXIS_TYPES)


# ------------------------------------------------------------------------------------------- shapes


def weights_on(specs: Any, mesh: Mesh, dtype: jax.typing.DTypeLike) -> Any:
    """Weights as shapes with shardings."""
    return jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, dtype, sharding=at),
        specs,
        spec.shardings(specs, mesh),
    )


@functools.lru_cache(maxsize=64)
def specs_of(model: VlmConfig) -> dict[str, Any]:
    """Declarations of a model's weights."""
    return vlm.param_specs(model)


def trained_specs(model: VlmConfig, stage: Plan) -> dict[str, Any]:
    """Declarations of what a stage trains: all weights or adapters, and a critic."""
    trained = dict(specs_of(model))
    if stage.lora.rank:
        trained = {"lora": lora_lib.adapter_specs(trained, stage.lora)}
    if stage.critic:
        trained["critic"] = critic.param_specs(model.decoder.width)
    return trained


def state_on(model: VlmConfig, stage: Plan, mesh: Mesh) -> tuple[TrainState, Any]:
    """(the train state of a stage on a mesh as shapes and places, its optimiser), as
    train/stage_run.py makes them.
    """
    history = coefficient = None
    if (rl := stage.rl) is not None:
        history = state.empty_history(rl.drpo, rl.rollouts) if stage.algorithm.history else None
        coefficient = rl.kl_coefficient if rl.kl_target else None
    specs = trained_specs(model, stage)
    rate = optim.schedule(stage.schedule, stage.lr, stage.warmup, stage.updates)
    critic_lr = rl.critic.lr if stage.critic else None
    optimizer = optim.make_optimizer(stage.optimizer, rate, specs, critic_lr)
    weights = weights_on(specs, mesh, np.float32)
    return state.layout(weights, optimizer, mesh, history, coefficient), optimizer


@functools.lru_cache(maxsize=256)
def _state(model: VlmConfig, stage: Plan, mesh: AbstractMesh) -> TrainState:
    return state_on(model, stage, mesh)[0]


def batch_on(budget: Budget, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch as shapes with rows over data and fsdp."""
    return rows_on(empty_shapes(budget), mesh)


def empty_shapes(budget: Budget) -> dict[str, jax.ShapeDtypeStruct]:
    """`packing.empty_batch` without its arrays."""
    one = dataclasses.replace(budget, rows=1, media_rows=1)
    rows = {"patches", "patch_hw", "patch_frame", "patch_window", "ecg"}
    return {
        name: jax.ShapeDtypeStruct(
            (budget.media_rows if name in rows else budget.rows, *x.shape[1:]), x.dtype
        )
        for name, x in empty_batch(one).items()
    }


def rows_on(tree: Any, mesh: Mesh) -> Any:
    """Arrays as shapes with their rows over data and fsdp."""
    at = mesh_lib.batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree)


def numbers(mesh: Mesh, one: spec.ParamSpec) -> int:
    """Numbers of a weight on a device."""
    return _numbers(mesh, one.axes, one.shape)


@functools.lru_cache(maxsize=1 << 14)
def _numbers(mesh: Mesh, axes: tuple, shape: tuple[int, ...]) -> int:
    return math.prod(mesh_lib.named_sharding(mesh, axes, shape).shard_shape(shape))


def device_bytes(tree: Any) -> int:
    """Bytes of a pytree of shapes with shardings on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
