"""Flags of XLA that make compiling faster; the results' speed is none of the tests' business."""

import importlib.metadata

NO_OPTIMISATION = "--xla_backend_optimization_level=0"
# The fusion emitters take three quarters of a compilation. Later releases have no such flag, and
# XLA ends the process on one that it does not know.
OLD = importlib.metadata.version("jaxlib").startswith("0.10.")
OLD_EMITTERS = ["--xla_cpu_use_fusion_emitters=false"] if OLD else []
FASTER = [NO_OPTIMISATION, *OLD_EMITTERS]
