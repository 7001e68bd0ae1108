"""What a program must compute and what a device can do: the roofline of pod_programs.py.

FLOPs are counted from shapes (XLA's own count sees the body of a loop once). A product of N weights
and a token is 2 N; attention is 4 x channels of all heads for each pair of query and key that the
mask lets through. Backward is twice forward; layers computed again (remat full) cost one forward
more, which the hardware does and the model does not ask for.
"""

from __future__ import annotations

import dataclasses
import math

from qoq_jax.models import spec, vlm
from qoq_jax.models.sizes import VlmConfig


@dataclasses.dataclass(frozen=True)
class Device:
    """Peaks of one device.

    Attributes:
      memory: usable GiB.
      flops: bf16 FLOP/s. hbm: bytes/s. links: bytes/s between devices, one way, all links together.
    """

    memory: float
    flops: float
    hbm: float
    links: float


# cloud.google.com/tpu/docs: v5e, v5p, v6e; memory as the compiler of libtpu reports it. A link
# sends and receives at the same time, and the docs give both together.
DEVICES = {
    "v5e": Device(15.75, 197e12, 819e9, 100e9),
    "v5p": Device(95.74, 459e12, 2765e9, 300e9),
    "v6e": Device(31.25, 918e12, 1640e9, 224e9),
    # H100 SXM, within a node of 8 (NVIDIA's data sheet)
    "h100": Device(79.1, 989e12, 3352e9, 450e9),
}


@dataclasses.dataclass(frozen=True)
class Load:
    """Rows of one call.

    Attributes:
      rows: prompts. prompt, response: tokens of a prompt and of each response. responses: of a
        prompt. patches, ecgs: of a row.
    """

    rows: int
    prompt: int
    response: int
    responses: int
    patches: int
    ecgs: int


def forward_flops(model: VlmConfig, load: Load, program: str) -> float:
    """FLOPs of one forward pass over all rows; for "decode" of one token of every response."""
    decoder, vision = model.decoder, model.vision
    specs = vlm.param_specs(model)
    head = decoder.vocab_size * decoder.width
    dense = spec.count(specs["decoder"]["layers"])
    channels = 4 * decoder.num_layers * decoder.num_heads * decoder.head_dim
    length, branches = load.response, load.responses
    if program == "decode":
        keys = load.prompt + length  # the cache is full
        return load.rows * branches * (2 * (dense + head) + channels * keys)
    if program == "prefill":
        tokens, scored, pairs = load.prompt, 1, load.prompt**2 / 2
    elif program == "sft":
        tokens = scored = load.prompt + length
        pairs = tokens**2 / 2
    else:
        tokens, scored = load.prompt + branches * length, branches * length
        pairs = load.prompt**2 / 2 + branches * length * (load.prompt + length / 2)
    text = 2 * dense * tokens + channels * pairs + 2 * head * scored
    towers = 2 * spec.count(specs["vision"]["blocks"]) * load.patches
    windows = getattr(vision, "window_patches", load.patches)
    full = len(getattr(vision, "full_attention_blocks", range(vision.depth)))
    seen = full * load.patches + (vision.depth - full) * windows
    towers += 4 * vision.width * load.patches * seen
    merged = load.patches // vision.merge_unit
    towers += 2 * spec.count(specs["vision"]["merger"]) * merged
    if model.ecg is not None:
        tokens_of_ecg = model.ecg.leads * model.ecg.patches
        towers += 2 * spec.count(specs["ecg"]["blocks"]) * tokens_of_ecg * load.ecgs
    return load.rows * (text + towers)


def model_and_hardware_flops(
    model: VlmConfig, load: Load, program: str, remat: bool = True
) -> tuple[float, float]:
    """(what the mathematics asks for, what the program does), FLOPs of a call."""
    forward = forward_flops(model, load, program)
    if program in ("sft", "policy"):
        return 3 * forward, (4 if remat else 3) * forward
    return forward, forward


def decode_bytes(model: VlmConfig, load: Load, tensor: int, data: int) -> float:
    """Least HBM bytes of one decode step on a device: its part of the weights and of the cache."""
    decoder = model.decoder
    weights = spec.count(vlm.param_specs(model)["decoder"]["layers"])
    weights += decoder.vocab_size * decoder.width
    places = load.prompt + load.responses * load.response
    heads = math.ceil(decoder.num_kv_heads / tensor)
    cache = 2 * decoder.num_layers * heads * decoder.head_dim * places * load.rows / data
    return 2 * (weights / tensor + cache)
