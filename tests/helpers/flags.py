"""Flags of XLA that make compiling faster; the results' speed is none of the tests' business."""

import importlib.metadata

NO_OPTIMISATION = "--xla_backend_optimization_level=0"
# The fusion emitters take three quarters of a compilation. Later releases have no such flag, and
# XLA ends the process on one that it does not know.
OLD = importlib.metadata.version("jaxlib").startswith("0.10.")
OLD_EMITTERS = ["--xla_cpu_use_fusion_emitters=false"] if OLD else []
# Programs are cut into pieces, which are compiled side by side, and inlined before: a quarter of
# what is left, without a gain in time where both cores are busy.
WHOLE = [
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_llvm_force_inline_before_split=false",
]
FASTER = [NO_OPTIMISATION, *OLD_EMITTERS, *(WHOLE if OLD else [])]
