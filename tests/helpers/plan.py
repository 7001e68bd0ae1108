"""Cases for the tests of qoq_jax/plan."""

from __future__ import annotations

from qoq_jax.plan import case as case_lib
from qoq_jax.plan import devices
from qoq_jax.plan.case import Case
from qoq_jax.train import config as config_lib


def nano_config(**changes):
    """A config of the nano model whose batches divide over eight devices; changes: dotted names
    with __ for the dots.
    """
    config = config_lib.default()
    config.data.media_rows = config.sft.rows = config.rl.questions = config.eval.rows = 8
    config.sft.samples, config.rl.rollouts = 16, 3
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = 1, 4, 2
    for name, value in changes.items():
        *sections, field = name.split("__")
        node = config
        for section in sections:
            node = node[section]
        node[field] = value
    return config_lib.parse(config)


def nano_case(stage: str = "rl", topology: str = "v5e:2x4", **changes) -> Case:
    """A stage of `nano_config` on a topology of eight devices."""
    return case_lib.make(nano_config(**changes), devices.parse(topology), stage)
