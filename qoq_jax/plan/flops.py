"""FLOPs, from shapes (XLA's own count sees the body of a loop once).

A product of N weights and a token is 2 N; attention is 4 x channels of all heads for each pair of
query and key that the mask lets through. Backward is twice forward; layers computed again (remat)
cost one forward more, which the hardware does and the model does not ask for. What is small is left
out: attention of ECGs, patch embedding, norms.
"""

from __future__ import annotations

import dataclasses
import math

from qoq_jax.models import spec, vlm
from qoq_jax.models.sizes import VlmConfig

UPDATES = ("sft", "policy")


@dataclasses.dataclass(frozen=True)
class Load:
    """What one call of a program works on, on all devices together.

    Attributes:
      rows: text rows. prompt: tokens of a row before its responses; of a row of stage sft, all.
        response, responses: tokens of each response, and how many a row has.
      media_rows: rows of media. patches, ecgs: of each of them.
    """

    rows: int
    prompt: int
    response: int
    responses: int
    media_rows: int
    patches: int
    ecgs: int

    @property
    def tokens(self) -> int:
        """Tokens of a row in training: the prompt and all its responses."""
        return self.prompt + self.response * self.responses


def forward(model: VlmConfig, load: Load, program: str) -> dict[str, float]:
    """FLOPs of one forward pass over all rows, by part of the model: decoder, vision, ecg.

    program: sft, policy, scorer; prefill; embed, the towers alone; or decode, one token of every
      response with a full cache.
    """
    decoder, vision = model.decoder, model.vision
    specs = vlm.param_specs(model)
    head = decoder.vocab_size * decoder.width
    dense = spec.count(specs["decoder"]["layers"])
    channels = 4 * decoder.num_layers * decoder.num_heads * decoder.head_dim
    length, branches = load.response, load.responses
    if program == "decode":
        keys = load.prompt + length
        return {"decoder": load.rows * branches * (2 * (dense + head) + channels * keys)}
    if program == "embed":
        tokens = scored = pairs = 0
    elif program == "prefill":
        tokens, scored, pairs = load.prompt, 1, load.prompt**2 / 2
    elif program == "sft":
        tokens = scored = load.prompt
        pairs = tokens**2 / 2
    else:
        tokens, scored = load.tokens, branches * length
        pairs = load.prompt**2 / 2 + branches * length * (load.prompt + length / 2)
    found = {
        "decoder": load.rows * (2 * dense * tokens + channels * pairs + 2 * head * scored),
        "vision": 2.0 * spec.count(specs["vision"]["blocks"]) * load.patches,
    }
    windows = getattr(vision, "window_patches", load.patches)
    full = len(getattr(vision, "full_attention_blocks", range(vision.depth)))
    seen = full * load.patches + (vision.depth - full) * windows
    found["vision"] += 4 * vision.width * load.patches * seen
    merged = load.patches // vision.merge_unit
    found["vision"] += 2 * spec.count(specs["vision"]["merger"]) * merged
    found["vision"] *= load.media_rows
    if model.ecg is not None:
        tokens = model.ecg.leads * model.ecg.patches * load.ecgs * load.media_rows
        found["ecg"] = 2.0 * spec.count(specs["ecg"]["blocks"]) * tokens
    return found


def model_and_hardware(
    model: VlmConfig, load: Load, program: str, frozen: tuple[str, ...] = ()
) -> tuple[float, float]:
    """(what the mathematics asks for, what the program does), FLOPs of a call on all devices.

    frozen: parts whose weights get no gradient; a tower in front of the decoder is then only run
    forward.
    """
    parts = forward(model, load, program)
    if program not in UPDATES:
        return sum(parts.values()), sum(parts.values())
    again = 0 if model.remat == "none" else 1
    wanted = done = 0.0
    for name, flops in parts.items():
        trained = name == "decoder" or name not in frozen
        wanted += flops * (3 if trained else 1)
        done += flops * (3 + again if trained else 1)
    return wanted, done


def decode_bytes(
    model: VlmConfig, load: Load, tensor: int, data: int, weights_in: str = "auto"
) -> float:
    """Least HBM bytes of one decode step on a device: its part of the weights and of the cache.

    weights_in: rl.rollout_weights.
    """
    decoder = model.decoder
    weights = spec.count(vlm.param_specs(model)["decoder"]["layers"])
    weights *= 1 if weights_in == "int8" else 2
    weights += 2 * decoder.vocab_size * decoder.width
    places = load.prompt + load.responses * load.response
    heads = math.ceil(decoder.num_kv_heads / tensor)
    of_head = decoder.head_dim + 4 if model.kv_cache_dtype == "int8" else 2 * decoder.head_dim
    cache = 2 * decoder.num_layers * heads * of_head * places * load.rows / data
    return weights / tensor + cache
