"""Host memory for what a step needs only now and then: the reference policy, the optimiser's
moments.

JAX memory kinds: "device" is the accelerator's own memory, "pinned_host" the host's, from which
copies run at full speed. A move is a copy between steps; nothing inside a jitted function knows of
it. The CPU backend has both kinds, so the same code is tested there.
"""

from __future__ import annotations

from typing import Any

import jax

HOST, DEVICE = "pinned_host", "device"


def to_host(tree: Any) -> Any:
    """The arrays of a pytree in host memory, cut over the devices as before."""
    return _move(tree, HOST)


def to_device(tree: Any) -> Any:
    """The inverse of `to_host`."""
    return _move(tree, DEVICE)


def _move(tree: Any, kind: str) -> Any:
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(kind)), tree)
