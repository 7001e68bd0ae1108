"""Options of XLA that the package's programs are built for. This file imports no JAX: they are set
before it starts.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# "Windowed einsum" passes pieces of a gathered matrix from device to device beside the product with
# it, and reads the activations once for each piece: 81 GB in the place of 24 in the largest product
# of two layers of a policy update (docs/scaling.md). Layers gather their weights themselves
# (models/gathered.py).
TPU_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Adds the options of TPUs to LIBTPU_INIT_ARGS, which libtpu reads when it starts; an option
    that is there already stays. Elsewhere nothing reads it.
    """
    given = environment.get("LIBTPU_INIT_ARGS", "")
    new = [f"--{name}={value}" for name, value in TPU_OPTIONS.items() if f"--{name}=" not in given]
    environment["LIBTPU_INIT_ARGS"] = " ".join([*given.split(), *new])
