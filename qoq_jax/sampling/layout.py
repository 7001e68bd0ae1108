"""A mesh of its own for sampling; moving weights and batches to it and back.

Training cuts weights along their width (fsdp), and gathers each layer's before it is used: cheap
beside the products of thousands of tokens, but not beside those of one. A decode step reads every
weight once for a handful of tokens; on a mesh made for training it gathers them all again for every
token, or cuts the activations and computes every row on every device. So once a step the weights
are cast to the compute dtype and laid over the same devices in another way: cut over `tensor` by
heads and hidden units, as few ways as memory allows, and copied over the rest, which share the
rows. veRL calls this resharding (HybridFlow, arXiv 2409.19256, section 5).
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import jax

from qoq_jax.models import spec, vlm
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import mesh as mesh_lib
from qoq_jax.sampling.rollout import Rollout

Batch = dict[str, jax.Array]


class Layout:
    """Where sampling happens: on the trainer's mesh, with its weights as they lie, or on another.

    Args:
      cfg: the model.
      mesh: the trainer's.
      tensor: ways that sampling cuts the weights; 0 = on the trainer's mesh.
      weights: of the decoder's layers, "auto" (the compute dtype) or "int8": then sampling has a
        copy of its own on any mesh.

    Attributes:
      mesh: for the sampler.
      moves: whether the sampler has weights of its own.
      reshard: the jitted program of `weights`, where it moves.
      moved: bytes of the sampler's weights on a device after the last call of `weights`; 0 where
        it has none of its own.

    Raises:
      ConfigError: tensor does not divide the devices.
    """

    def __init__(self, cfg: VlmConfig, mesh: jax.sharding.Mesh, tensor: int, weights: str = "auto"):
        self.mesh, self.moves, self.moved = mesh, bool(tensor) or weights != "auto", 0
        if not self.moves:
            return
        if tensor:
            self.mesh = mesh_lib.rollout_mesh(mesh, tensor)
        specs = vlm.sampling_specs(cfg, weights)
        self.reshard = jax.jit(
            lambda params: vlm.sampling_params(params, cfg, weights),
            out_shardings=spec.shardings(specs, self.mesh),
        )
        here, there = (mesh_lib.batch_sharding(x) for x in (mesh, self.mesh))
        self._there = jax.jit(lambda batch: batch, out_shardings=there)
        self._back = jax.jit(lambda rollout: rollout, out_shardings=here)

    def on_mesh(self) -> contextlib.AbstractContextManager:
        """The context of calls of the sampler."""
        return jax.set_mesh(self.mesh) if self.moves else contextlib.nullcontext()

    def weights(self, params: Any) -> Any:
        """The trainer's weights as the sampler reads them: a copy where it has its own."""
        if not self.moves:
            return params
        found = self.reshard(params)
        self.moved = sum(
            math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
            for x in jax.tree.leaves(found)
        )
        return found

    def prompts(self, batch: Batch) -> Batch:
        """A batch of prompts, rows over the sampler's mesh."""
        return self._there(batch) if self.moves else batch

    def responses(self, rollout: Rollout) -> Rollout:
        """Responses of the sampler, rows over the trainer's mesh."""
        return self._back(rollout) if self.moves else rollout
