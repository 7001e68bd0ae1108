"""Section model of a config."""

from __future__ import annotations

import dataclasses
from typing import Literal

from qoq_jax.base.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which model, and how it computes."""

    # random weights: a name of models/sizes.py, nano, 3b, 7b, 32b, 72b, qwen3-2b, -4b, -8b,
    # -32b; published architecture, tokenizer and weights: a Hugging Face directory, or a hub id
    # like Qwen/Qwen2.5-VL-3B-Instruct
    variant: str = "nano"
    # "nano", or a Hugging Face directory that holds tokenizer.json; "" = the model's own
    tokenizer: str = ""
    # tokens per ECG: 1 (pooled), 50 (one per time step), 400 (one per lead and time step);
    # 0 = no ECG encoder
    ecg_tokens: Literal[0, 1, 50, 400] = 1
    # float32 or bfloat16; master weights are always float32
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    # what the backward pass computes again of decoder and vision blocks: none, dots (all but
    # products with weights), full (all, from the input of each layer), offload (as full, with those
    # inputs in the host's memory)
    remat: Literal["none", "dots", "full", "offload"] = "none"
    # kernel of the attention: einsum, splash (TPU), flash (GPU); auto = splash on a TPU, else
    # einsum
    attention: Literal["auto", "einsum", "splash", "flash"] = "auto"
    # kernel of the attention while sampling: einsum (reads all places of the cache), ragged (TPU;
    # reads the filled blocks of each response); auto = einsum
    decode_attention: Literal["auto", "einsum", "ragged"] = "auto"
    # ECG-JEPA safetensors file that the ECG encoder starts from; "climb-mini" = the one that comes
    # with the package, for variant nano; "" = random weights
    ecg_weights: str = ""
    # how boxes are written: pixels (of the resized picture) or relative_1000 (0 to 1000 of its
    # sides); "" = as the model family does: Qwen2.5-VL pixels, published Qwen3-VL relative_1000
    box_coordinates: Literal["", "pixels", "relative_1000"] = ""

    def check(self) -> None:
        """Raises ConfigError when fields contradict each other."""
        if self.ecg_weights and not self.ecg_tokens:
            raise ConfigError(
                "model.ecg_weights for a model without an ECG encoder",
                hint="set model.ecg_tokens to 1, 50 or 400",
            )
