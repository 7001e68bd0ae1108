"""How fast an evaluation was, beside the roofline of decoding that `qoq plan` knows: a decode step
reads the weights and the caches of all running responses once, so it takes at least their bytes
over the memory's bandwidth.
"""

from __future__ import annotations

import json
import os

from qoq_jax.base import append
from qoq_jax.evaluation.sharded import Speed, Work
from qoq_jax.parallel import hosts
from qoq_jax.plan import devices, flops
from qoq_jax.sampling.schedule import shards
from qoq_jax.train.setup import Setup

FILE = "speed.jsonl"
# What JAX calls the devices of plan/devices.json.
_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
    "TPU7x": "tpu7x",
    "NVIDIA A100": "a100",
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
    "NVIDIA B200": "b200",
}


def note(out: str, name: str, setup: Setup, work: Work, speed: Speed) -> str:
    """Appends the speed of an evaluation to OUT/speed.jsonl, on process 0; returns it as text."""
    seconds, moved = max(speed.seconds, 1e-9), bytes_per_token(setup, work)
    device = device_of(setup.mesh.devices.flat[0].device_kind)  # None of a CPU
    most = None if device is None else device.hbm / moved
    row = {
        "evaluation": name,
        "devices": setup.mesh.size,
        "kind": setup.mesh.devices.flat[0].device_kind,
        "processes": hosts.process_count(),
        "rows": speed.rows,
        "tokens": speed.tokens,
        "seconds": speed.seconds,
        "rows_per_second": speed.rows / seconds,
        "tokens_per_second": speed.tokens / seconds,
        "bytes_per_token": moved,
        "roofline_tokens_per_second": most,
    }
    if hosts.is_main():
        append.Lines(os.path.join(out, FILE)).write(json.dumps(row) + "\n")
    share = f", {speed.tokens / seconds / most:.1%} of the decode roofline" if most else ""
    return (
        f"{speed.rows} rows in {speed.seconds:.1f} s, {speed.rows / seconds:.2f} rows/s, "
        f"{speed.tokens / seconds:.0f} tokens/s{share}"
    )


def bytes_per_token(setup: Setup, work: Work) -> float:
    """What a device moves to and from its memory for each token that all devices decode together,
    at the least: all rows at work, caches full, weights in two bytes.
    """
    settings, ways = work.settings, shards(setup.mesh)
    budget = work.asked.budget
    slots, width = settings.slots(budget.rows, ways)
    load = flops.Load(
        rows=slots,
        prompt=budget.tokens,
        response=settings.max_new_tokens,
        responses=width,
        media_rows=0,
        patches=0,
        ecgs=0,
    )
    return flops.decode_bytes(setup.model, load, setup.mesh.shape["tensor"], ways) / (slots * width)


def device_of(kind: str) -> devices.Device | None:
    """The row of devices.json for what JAX calls a device."""
    # The longest one: "TPU v5 lite" begins with "TPU v5".
    start = max((start for start in _KINDS if kind.startswith(start)), key=len, default="")
    return devices.table()[_KINDS[start]] if start else None
