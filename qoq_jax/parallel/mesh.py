"""The device mesh and the one table that maps logical axes to mesh axes.

Mesh axes:
  data    replicas of the parameters; each sees other rows of the batch.
  fsdp    parameters, gradients and optimizer state are cut along their width; rows of the batch are
          cut too.
  sequence  parameters are cut as over fsdp; of text rows the tokens are cut (models/sequence.py).
  tensor  attention heads, mlp hidden units and the vocabulary are cut; rows are replicated.

All mesh axes are `AxisType.Auto`: the compiler propagates shardings from the parameters, the batch
and the few `constrain` calls in the forward pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from qoq_jax.base.errors import ConfigError
from qoq_jax.base.fields import NotNegative

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
AXIS_TYPES = (AxisType.Auto,) * len(MESH_AXES)

# Logical axis -> mesh axes. A logical axis that is not listed (None, "layers", "head_dim") is never
# cut.
AXIS_RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),  # text rows
    # media rows; cut like the text rows, so that gathers between both stay local
    "media": ("data", "fsdp"),
    "tokens": ("sequence",),  # of text rows, everywhere but in attention
    "embed": ("fsdp", "sequence"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "patches": ("sequence",),  # of media rows, likewise
    # while rows attend, when a device has all their tokens
    "row_heads": ("tensor", "sequence"),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
}
# Never replicated: every device would do the same work.
STRICT_AXES = ("batch", "media", "tokens")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Device mesh. The product must be the device count; -1 takes what is left."""

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    # rollouts of RL: ways that the weights, cast to the compute dtype, are cut while the other
    # devices share the rows (sampling/layout.py); 0 = on the mesh of training
    rollout_tensor: NotNegative[int] = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """In the order of MESH_AXES."""
        return self.data, self.fsdp, self.sequence, self.tensor

    def __str__(self) -> str:
        return text_of(self.sizes)

    def check_no_text(self, what: str) -> None:
        """Raises ConfigError when fields that are of text rows alone are set for `what`, a training
        that has none.
        """
        for name, value, usual in (
            ("sequence", self.sequence, 1),
            ("rollout_tensor", self.rollout_tensor, 0),
        ):
            if value != usual:
                raise ConfigError(
                    f"mesh.{name} = {value}: {what} has no rows of text",
                    hint=f"set mesh.{name}={usual}; mesh.data and mesh.fsdp share the samples",
                )


def resolved_sizes(sizes: Sequence[int], devices: int, slices: int = 1) -> tuple[int, ...]:
    """Sizes of the axes (MESH_AXES) for so many devices, -1 taken as what is left.

    Raises:
      ConfigError: they do not multiply to the number of devices, or data is no multiple of the
        slices that these lie in.
    """
    shape = list(sizes)
    if shape.count(-1) == 1:
        known = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = max(devices // max(known, 1), 1)
    if min(shape) < 1 or math.prod(shape) != devices:
        raise ConfigError(
            f"mesh {text_of(sizes)} does not fit {devices} devices",
            hint="choose sizes whose product is the number of devices; one of them may be -1",
        )
    if shape[0] % slices:
        raise ConfigError(
            f"mesh data={shape[0]} over {slices} slices",
            hint=f"make mesh.data a multiple of {slices}: weights are gathered within a slice, and "
            "only gradients cross the network between slices",
        )
    return tuple(shape)


def text_of(sizes: Sequence[int]) -> str:
    """Sizes of the axes (MESH_AXES) in words; sequence where it cuts."""
    named = zip(MESH_AXES, sizes, strict=True)
    return " ".join(f"{name}={n}" for name, n in named if name != "sequence" or n != 1)


def rollout_sizes(devices: int, tensor: int) -> tuple[int, ...]:
    """Sizes of the axes (MESH_AXES) for rollouts, `tensor` devices for each copy of the weights.

    Raises:
      ConfigError: that does not divide the devices.
    """
    if devices % tensor:
        raise ConfigError(
            f"mesh.rollout_tensor = {tensor} does not divide {devices} devices",
            hint="use a divisor; 0 samples on the mesh of training",
        )
    return devices // tensor, 1, 1, tensor


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
    sequence: int = 1,
) -> Mesh:
    """A mesh of MESH_AXES over `devices` (default: all). One of the sizes may be -1: what is left.

    Devices of several slices (TPU slices joined by the data centre's network) are laid out with the
    slices along data, so that gradients alone cross the slow network.

    Raises ConfigError when the sizes do not multiply to the number of devices, or data is no
    multiple of the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({slice_of(device) for device in devices})
    shape = resolved_sizes((data, fsdp, sequence, tensor), len(devices), slices)
    if slices > 1:
        arranged = across_slices(shape, devices)
        return Mesh(arranged, MESH_AXES, axis_types=AXIS_TYPES)
    if len(devices) == jax.device_count():
        return jax.make_mesh(tuple(shape), MESH_AXES, axis_types=AXIS_TYPES, devices=devices)
    # A subset of the devices (a test, one host of a sweep) has no torus to follow: the given order
    # is kept.
    return Mesh(np.array(devices).reshape(shape), MESH_AXES, axis_types=AXIS_TYPES)


def slice_of(device: jax.Device) -> int:
    """The slice that a device belongs to; 0 where there are none."""
    return getattr(device, "slice_index", None) or 0


def across_slices(shape: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices, axes as MESH_AXES, with the slices outermost along data, which is a multiple of
    their number.
    """
    data, *others = shape
    slices = len({slice_of(device) for device in devices})
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, *others),
        (slices, *(1 for _ in others)),
        devices=devices,
        allow_split_physical_axes=True,
    )


def rollout_mesh(mesh: Mesh, tensor: int) -> Mesh:
    """The devices of `mesh`, in the same order, `tensor` of them for each copy of the weights.

    Raises ConfigError when that does not divide them.
    """
    shape = rollout_sizes(mesh.size, tensor)
    # One order: moving between both meshes is a program of one set of devices.
    return Mesh(mesh.devices.reshape(shape), mesh.axis_names, axis_types=mesh.axis_types)


def partition_spec(
    mesh: Mesh | AbstractMesh, axes: Sequence[str | None], shape: Sequence[int]
) -> PartitionSpec:
    """The PartitionSpec of an array with logical `axes` on `mesh` (a Mesh or an AbstractMesh).

    A dimension that the mesh axis does not divide (two kv heads on tensor=4) is replicated instead:
    for parameters and heads that costs memory, not correctness. Rows and their tokens never fall
    back: replicated, every device would silently do the same work, so they raise ConfigError.
    """
    if len(axes) != len(shape):
        raise ConfigError(f"axes {tuple(axes)} do not name every dimension of shape {tuple(shape)}")
    entries: list[str | tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape):
        names = AXIS_RULES.get(axis, ()) if axis is not None else ()
        if mesh.shape["sequence"] == 1:
            names = tuple(name for name in names if name != "sequence")
        ways = math.prod(mesh.shape[name] for name in names)
        if names and size % ways:
            if axis in STRICT_AXES:
                what = "tokens" if axis == "tokens" else "rows"
                raise ConfigError(
                    f"{axis} dimension of {size} {what} does not divide over {ways} devices (mesh "
                    f"{names})",
                    hint=f"use a multiple of {ways} {what}, or a mesh with smaller "
                    f"{' * '.join(names)}",
                )
            names = ()
        entries.append(None if not names else names[0] if len(names) == 1 else names)
    return PartitionSpec(*entries)


def named_sharding(mesh: Mesh, axes: Sequence[str | None], shape: Sequence[int]) -> NamedSharding:
    """NamedSharding of an array with logical `axes` and `shape`; see `partition_spec`."""
    return NamedSharding(mesh, partition_spec(mesh, axes, shape))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of every array of a device batch: leading (row) axis over data and fsdp, the rest
    whole.
    """
    return NamedSharding(mesh, PartitionSpec(AXIS_RULES["batch"]))


def constrain(x: jax.Array, axes: Sequence[str | None]) -> jax.Array:
    """Pins the sharding of an activation in jit, under `jax.set_mesh`; without a mesh returns x
    itself.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(mesh, axes, x.shape))


def batch_shards() -> int:
    """Over how many devices rows are cut in the current mesh context; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[name] for name in AXIS_RULES["batch"])


def sequence_shards() -> int:
    """Over how many devices the tokens of a text row are cut in the current mesh context."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["sequence"]


def tensor_shards() -> int:
    """Over how many devices heads and hidden units are cut in the current mesh context."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["tensor"]
