"""The command `qoq` with the tiny model of the tests in the place of nano: `python -m
helpers.tiny_cli train --config=...`.
"""

from __future__ import annotations

import dataclasses

from helpers import compile_cache
from helpers.train import tiny_model
from qoq_jax.cli import main
from qoq_jax.train import setup as setup_lib
from qoq_jax.train import weights as weights_lib
from qoq_jax.train.config import Config


def _tiny(cfg: Config):
    return dataclasses.replace(tiny_model(), remat="none", compute_dtype=cfg.model.compute_dtype)


if __name__ == "__main__":
    compile_cache.every_process_writes()
    setup_lib.model_config = weights_lib.model_config = _tiny
    main.entry()
