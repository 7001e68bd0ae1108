"""What training an encoder needs on a topology (configs of transfer/config.py), from shapes alone.

Weights, gradients and both moments are float32, cut as their specs say. What the forward pass keeps
for the backward one is what jax.vjp returns for a device's rows; FLOPs are those of the products of
the step's program. Both are exact for the program as written; a compiler may keep less.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from qoq_jax.base.errors import ConfigError
from qoq_jax.models import spec
from qoq_jax.models.encoders.encoder import Encoder
from qoq_jax.models.encoders.labram import LabramConfig
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.plan.devices import Topology
from qoq_jax.plan.memory import GIB
from qoq_jax.plan.show import table
from qoq_jax.transfer import model
from qoq_jax.transfer.config import TransferConfig, encoder_of

_CLASSES = 128  # columns of the head: the union of CLIMB's labels has about so many
_SIGNALS = {"ecg": (8, 2500), "eeg": (16, 2000)}  # [C,T] of a sample


@dataclasses.dataclass(frozen=True)
class EncoderPlan:
    """One training of an encoder on a topology; bytes and seconds are those of a device and step.

    Attributes:
      mesh: its axes and sizes.
      weights: number of parameters.
      state: bytes of weights, gradients and moments.
      activations: bytes that the backward pass needs of the forward one.
      inputs: bytes of two batches, the one that is learned from and the next.
      flops: of the step, on all devices together.
      compute, reduce: least seconds of the products, and of moving the gradients.
      capacity: bytes that a program may use.
    """

    config: TransferConfig
    topology: Topology
    mesh: dict[str, int]
    weights: int
    state: int
    activations: int
    inputs: int
    flops: float
    compute: float
    reduce: float
    capacity: int

    @property
    def peak(self) -> int:
        """Bytes at the end of the forward pass, when most is held."""
        return self.state + self.activations + self.inputs

    @property
    def spare(self) -> int:
        """Bytes left, negative where it does not fit."""
        return self.capacity - self.peak

    @property
    def step_seconds(self) -> float:
        """Least time of a step."""
        return max(self.compute, self.reduce)


def plan(cfg: TransferConfig, topology: Topology) -> EncoderPlan:
    """The plan of a config.

    Raises:
      ConfigError: a mesh or batch that does not fit the devices, or a kind of encoder whose samples
        have no shape of their own (graphs, sensors, expression).
    """
    encoder = encoder_of(cfg)
    cfg.mesh.check_no_text("an encoder on labels")  # --mesh came after the config was parsed
    sizes = mesh_lib.resolved_sizes(cfg.mesh.sizes, topology.size, topology.slices)
    mesh = AbstractMesh(sizes, mesh_lib.MESH_AXES)
    specs = model.param_specs(encoder, _CLASSES)
    rows = cfg.training.batch // math.prod(sizes[:2])
    mesh_lib.partition_spec(mesh, ("batch",), (cfg.training.batch,))
    inputs = sample_shapes(encoder, cfg.data.frames, rows)
    params, count = spec.abstract(specs), spec.count(specs)
    step = functools.partial(_loss, encoder, jnp.dtype(cfg.compute_dtype))
    kept = jax.eval_shape(
        lambda p, x: jax.vjp(functools.partial(step, inputs=x), p)[1], params, inputs
    )
    program = jax.make_jaxpr(jax.grad(step))(params, inputs)
    flops = sum(products(program.jaxpr)) * math.prod(sizes[:2])
    device = topology.device
    return EncoderPlan(
        cfg,
        topology,
        dict(zip(mesh_lib.MESH_AXES, sizes, strict=True)),
        count,
        # weights, their gradients, and two moments of AdamW
        4 * 4 * _held(specs, mesh),
        # the weights in what is kept are no copies
        max(_bytes(kept) - _bytes(params), 0),
        2 * _bytes(inputs),
        flops,
        flops / topology.size / device.flops,
        _reduce_seconds(count, topology),
        int(device.memory_gib * GIB),
    )


def _reduce_seconds(count: int, topology: Topology) -> float:
    """Least seconds for the sum of all gradients, each sent and received once (a ring)."""
    if topology.size == 1:
        return 0.0
    speeds = [topology.links] + [topology.device.dcn] * (topology.near < topology.size)
    return 2 * 4 * count / min(speeds)


def sample_shapes(encoder: Encoder, frames: int, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The largest batch of `rows` samples as shapes: volumes of `frames` slices, say.

    Raises:
      ConfigError: samples of that kind have no shape of their own.
    """
    if encoder.kind == "image":
        size = int(encoder.cfg.image_size)
        return {
            "pixels": jax.ShapeDtypeStruct((rows, frames, size, size, 3), jnp.uint8),
            "slice_valid": jax.ShapeDtypeStruct((rows, frames), bool),
        }
    if encoder.kind not in _SIGNALS:
        raise ConfigError(
            f"encoder {encoder.name}: a {encoder.kind} has no size of its own to plan with",
            hint=f"plan an encoder of kind image, {' or '.join(_SIGNALS)}",
        )
    channels, steps = _SIGNALS[encoder.kind]
    if isinstance(encoder.cfg, LabramConfig):
        channels = len(encoder.cfg.electrodes)
    made = {"signal": jax.ShapeDtypeStruct((rows, channels, steps), jnp.float32)}
    if encoder.kind == "eeg":
        made["channel_valid"] = jax.ShapeDtypeStruct((rows, channels), bool)
    return made


def _loss(encoder: Encoder, dtype: jnp.dtype, params: Any, inputs: Any) -> jax.Array:
    found = model.logits(params, encoder, inputs, dtype)
    everything = jnp.ones(found.shape, bool)
    exclusive = jnp.zeros(found.shape[0], bool)
    return model.masked_losses(found, jnp.zeros(found.shape), everything, exclusive).mean()


def _held(specs: Any, mesh: AbstractMesh) -> int:
    """Parameters of a device."""
    total = 0
    for one in spec.flatten(specs).values():
        cut = mesh_lib.partition_spec(mesh, one.axes, one.shape)
        names = [
            name
            for entry in cut
            if entry
            for name in ([entry] if isinstance(entry, str) else entry)
        ]
        total += math.prod(one.shape) // math.prod(mesh.shape[name] for name in names)
    return total


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def products(program: Any, times: int = 1) -> Iterator[float]:
    """FLOPs of each matrix product and convolution of a jaxpr, loops as often as they run."""
    for one in program.eqns:
        name = one.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            out = math.prod(one.outvars[0].aval.shape)
            yield 2.0 * times * out * _terms(one)
        inner = times * one.params["length"] if name == "scan" else times
        for value in one.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                found = getattr(part, "jaxpr", part)
                if hasattr(found, "eqns"):
                    yield from products(found, inner)


def _terms(one: Any) -> int:
    """Products that are summed for each number of the result."""
    if one.primitive.name == "dot_general":
        (contracted, _), _ = one.params["dimension_numbers"]
        return math.prod(one.invars[0].aval.shape[axis] for axis in contracted)
    kernel, places = one.invars[1].aval.shape, one.params["dimension_numbers"].rhs_spec
    return math.prod(kernel[axis] for axis in places[1:])  # all but the features of the result


def show(found: EncoderPlan) -> None:
    """Prints a plan: a table, and the verdict."""
    mesh = " ".join(f"{name}={n}" for name, n in found.mesh.items())
    cfg = found.config
    print(
        f"\nencoder {cfg.encoder} ({found.weights / 1e6:.1f} M weights) on {found.topology} "
        f"({found.topology.size} devices): {mesh}, {cfg.training.batch} samples a step"
    )
    parts = {
        "weights, gradients, moments": found.state,
        "kept for the backward pass": found.activations,
        "inputs": found.inputs,
    }
    rows = [(name, f"{value / GIB:.2f}") for name, value in parts.items()]
    table("a device", ("", "GiB"), rows)
    said = "fits" if found.spare >= 0 else "does not fit"
    print(
        f"{said}: {found.peak / GIB:.2f} of {found.capacity / GIB:.2f} GiB\n"
        f"a step takes at least {found.step_seconds:.3g} s ({found.flops / 1e12:.3g} TFLOP; "
        f"products {found.compute:.3g} s, gradients {found.reduce:.3g} s); "
        f"{cfg.training.steps} steps"
    )


def as_json(found: EncoderPlan) -> dict[str, Any]:
    """The plan for a program."""
    numbers = dataclasses.asdict(found)
    config = numbers.pop("config")
    return numbers | {
        "encoder": config["encoder"],
        "topology": str(found.topology),
        "peak": found.peak,
        "spare": found.spare,
        "step_seconds": found.step_seconds,
    }
