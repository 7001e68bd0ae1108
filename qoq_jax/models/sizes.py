"""The sizes of the model: frozen configurations and the published Qwen2.5-VL and Qwen3-VL numbers.

`get("7b")` is the model of Qwen/Qwen2.5-VL-7B-Instruct (config.json), `get("qwen3-8b")` that of
Qwen/Qwen3-VL-8B-Instruct (technical report arXiv 2511.21631), both plus the ECG encoder of ECG-JEPA
(arXiv 2410.08559); `get("nano")` has the parts of Qwen2.5-VL at a size that trains on two CPU
cores.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from qoq_jax.base.errors import ConfigError

# The 22 special tokens of the Qwen2.5 tokenizer in id order, then the token that QoQ-Med adds for
# an ECG.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<|time_series_pad|>",
)
QWEN_FIRST_SPECIAL = 151643
# The Qwen3 tokenizer has four tokens more (tool_response and think, opening and closing) where
# Qwen2.5's ends.
QWEN3_ECG_TOKEN_ID = QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|time_series_pad|>") + 4
# of models/attention.py; here, since sizes are read where there is no JAX
ATTENTION_KERNELS = ("einsum", "splash", "flash", "splash-interpret", "flash-interpret")
# of models/decode_attention.py
DECODE_KERNELS = ("einsum", "ragged", "ragged-interpret")
REMAT_POLICIES = ("none", "dots", "full", "offload")  # of models/layers.py
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # statistics of OpenAI CLIP
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NANO_VOCAB = 1024
NANO_FIRST_SPECIAL = NANO_VOCAB - len(SPECIAL_TOKENS)


@dataclasses.dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071, section 3): rotary frequencies of a decoder that was trained on
    `original_positions` positions, for `factor` times as many.

    attention_factor: of cosine and sine, so that logits are multiplied by its square.
    beta_fast, beta_slow: frequencies that turn more often than beta_fast times over the original
      positions stay as they are; those that turn less often than beta_slow times are divided by
      factor; between the two a ramp, whose ends are whole indices if `truncate`.
    """

    factor: float
    original_positions: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Qwen2.5 decoder; qkv_bias, qk_norm and mrope_interleaved make it a Qwen3 decoder."""

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    tied_embeddings: bool = False
    mrope_section: tuple[int, int, int] = (16, 24, 24)  # rotary frequencies for time, height, width
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False  # RMSNorm of each query and key head, before the rotation
    # axes take turns (t h w t h w ...) instead of one block of frequencies each
    mrope_interleaved: bool = False
    yarn: Yarn | None = None  # None: rotary frequencies as in training

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"{self.num_heads} heads do not divide into {self.num_kv_heads} kv heads"
            )
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ConfigError(
                f"mrope_section {self.mrope_section} must sum to half of head_dim={self.head_dim}"
            )
        places = [len(range(axis, self.head_dim // 2, 3)) for axis in (1, 2)]
        if self.mrope_interleaved and any(
            n > most for n, most in zip(self.mrope_section[1:], places)
        ):
            raise ConfigError(
                f"mrope_section {self.mrope_section} interleaved: height and width have every "
                f"third place, {places}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchTower:
    """What the two vision towers have in common; the merger gives the width of the decoder."""

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    max_frame_patches: int  # upper limit of patches in one frame (one temporal step of one image)
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2  # merge_size x merge_size patches become one token
    rope_theta: float = 1e4
    norm_eps: float = 1e-6
    pixel_mean: tuple[float, float, float] = CLIP_MEAN  # of pixels in 0..1, per colour channel
    pixel_std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self):
        if self.width % (4 * self.num_heads):
            raise ConfigError(
                f"vision width {self.width} must be a multiple of 4 * heads ({self.num_heads})"
            )

    @property
    def patch_dim(self) -> int:
        """Values in one flat patch: channels * frames * height * width."""
        return 3 * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_unit(self) -> int:
        """Patches that become one token."""
        return self.merge_size**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(PatchTower):
    """Qwen2.5-VL vision tower: RMSNorm, SwiGLU, attention in windows and in some blocks in whole
    frames.
    """

    window: int  # side of an attention window, pixels
    # they attend to the whole frame, the others to their window
    full_attention_blocks: tuple[int, ...]

    def __post_init__(self):
        super().__post_init__()
        every = self.depth // max(len(self.full_attention_blocks), 1)
        if self.full_attention_blocks != tuple(range(every - 1, self.depth, every)):
            raise ConfigError(
                f"full_attention_blocks {self.full_attention_blocks} must be the last of equal "
                "groups of the "
                f"{self.depth} blocks, since the forward pass scans over groups",
            )

    @property
    def window_patches(self) -> int:
        """Patches in one attention window."""
        return (self.window // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3VisionConfig(PatchTower):
    """Qwen3-VL vision tower: LayerNorm, gelu, learned positions, attention in whole frames,
    DeepStack.
    """

    # side of the square of learned position embeddings, stretched over each frame
    position_grid: int
    # the outputs of these blocks are added to the first decoder layers, in order
    deepstack_blocks: tuple[int, ...]
    patch_size: int = 16
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    window: ClassVar[int] = 0  # no windows

    def __post_init__(self):
        super().__post_init__()
        if list(self.deepstack_blocks) != sorted(
            set(self.deepstack_blocks) & set(range(self.depth))
        ):
            raise ConfigError(
                f"deepstack_blocks {self.deepstack_blocks} must be rising numbers of the "
                f"{self.depth} blocks"
            )


@dataclasses.dataclass(frozen=True)
class EcgConfig:
    """ECG-JEPA encoder and the predictor that only self-supervised pretraining uses."""

    width: int
    depth: int
    num_heads: int
    predictor_width: int
    predictor_depth: int
    predictor_heads: int
    mlp_ratio: int = 4
    leads: int = 8  # I, II, V1..V6
    patches: int = 50  # time steps per lead
    patch_size: int = 50  # samples per patch: 50 * 50 = 10 s at 250 Hz
    norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class VlmConfig:
    """The whole model. Token ids are those of the tokenizer that belongs to the variant."""

    decoder: DecoderConfig
    vision: VisionConfig | Qwen3VisionConfig
    ecg: EcgConfig | None  # None: no ECG encoder, as in the published Qwen checkpoints
    # of one ECG: 1 = their mean (released QoQ-Med), 50 = a time step, 400 = all
    ecg_tokens: int = 50
    image_token_id: int = QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|image_pad|>")
    video_token_id: int = QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|video_pad|>")
    vision_start_id: int = QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|vision_start|>")
    vision_end_id: int = QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|vision_end|>")
    ecg_token_id: int = QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|time_series_pad|>")
    pad_id: int = QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|endoftext|>")
    eos_ids: tuple[int, ...] = (
        QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|im_end|>"),
        QWEN_FIRST_SPECIAL + SPECIAL_TOKENS.index("<|endoftext|>"),
    )
    # M-RoPE time steps per second of video; Qwen3-VL writes the seconds as text instead
    tokens_per_second: int = 2
    compute_dtype: str = "bfloat16"
    remat: str = "full"
    attention: str = "einsum"  # a kernel of models/attention.py, one of ATTENTION_KERNELS
    decode_attention: str = "einsum"  # of models/decode_attention.py, one of DECODE_KERNELS
    kv_cache_dtype: str = "auto"  # of sampling: that of the products, or "int8" (models/cache.py)

    def __post_init__(self):
        if self.ecg and self.ecg_tokens not in (
            1,
            self.ecg.patches,
            self.ecg.leads * self.ecg.patches,
        ):
            raise ConfigError(
                f"ecg_tokens={self.ecg_tokens}",
                hint=f"use 1, {self.ecg.patches} or {self.ecg.leads * self.ecg.patches}",
            )
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ConfigError(
                f"compute_dtype={self.compute_dtype!r}", hint="use 'float32' or 'bfloat16'"
            )
        if self.remat not in REMAT_POLICIES:
            raise ConfigError(
                f"remat={self.remat!r}", hint=f"use one of {', '.join(REMAT_POLICIES)}"
            )
        if self.kv_cache_dtype not in ("auto", "int8"):
            raise ConfigError(
                f"kv_cache_dtype={self.kv_cache_dtype!r}", hint="use 'auto' or 'int8'"
            )
        if self.attention not in ATTENTION_KERNELS:
            raise ConfigError(
                f"attention={self.attention!r}", hint=f"use one of {', '.join(ATTENTION_KERNELS)}"
            )
        if self.decode_attention not in DECODE_KERNELS:
            raise ConfigError(
                f"decode_attention={self.decode_attention!r}",
                hint=f"use one of {', '.join(DECODE_KERNELS)}",
            )
        if (
            isinstance(self.vision, Qwen3VisionConfig)
            and len(self.vision.deepstack_blocks) > self.decoder.num_layers
        ):
            raise ConfigError(
                f"{len(self.vision.deepstack_blocks)} deepstack_blocks for "
                f"{self.decoder.num_layers} decoder layers"
            )


def _special_ids(first: int) -> dict[str, int | tuple[int, ...]]:
    """The token-id fields of VlmConfig when `<|endoftext|>` has id `first`."""
    ids = {token: first + i for i, token in enumerate(SPECIAL_TOKENS)}
    return dict(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_id=ids["<|vision_start|>"],
        vision_end_id=ids["<|vision_end|>"],
        ecg_token_id=ids["<|time_series_pad|>"],
        pad_id=ids["<|endoftext|>"],
        eos_ids=(ids["<|im_end|>"], ids["<|endoftext|>"]),
    )


def _nano() -> VlmConfig:
    return VlmConfig(
        decoder=DecoderConfig(
            vocab_size=NANO_VOCAB,
            width=96,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            head_dim=24,
            mlp_dim=256,
            tied_embeddings=True,
            mrope_section=(4, 4, 4),
        ),
        vision=VisionConfig(
            width=96,
            depth=2,
            num_heads=4,
            mlp_dim=256,
            window=56,
            full_attention_blocks=(1,),
            max_frame_patches=64,  # 112 x 112 pixels
        ),
        ecg=NANO_ECG,
        compute_dtype="float32",
        remat="none",
        **_special_ids(NANO_FIRST_SPECIAL),
    )


def _qwen(
    vocab: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    mlp: int,
    vision_mlp: int,
    tied: bool = False,
) -> VlmConfig:
    """Qwen2.5-VL as published; what all sizes share is written once here."""
    return VlmConfig(
        decoder=DecoderConfig(
            vocab_size=vocab,
            width=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=128,
            mlp_dim=mlp,
            tied_embeddings=tied,
        ),
        vision=VisionConfig(
            width=1280,
            depth=32,
            num_heads=16,
            mlp_dim=vision_mlp,
            window=112,
            full_attention_blocks=(7, 15, 23, 31),
            max_frame_patches=2688,  # 524,288 pixels / 14^2 = 2675, up to a multiple of 64
        ),
        ecg=BASE_ECG,
    )


def _qwen3(
    width: int, layers: int, heads: int, mlp: int, large_vision: bool, tied: bool = False
) -> VlmConfig:
    """Qwen3-VL (dense) as published, from config.json of Qwen/Qwen3-VL-{2B,4B,8B,32B}-Instruct."""
    vision = (
        dict(width=1152, depth=27, mlp_dim=4304, deepstack_blocks=(8, 16, 24))
        if large_vision
        else dict(width=1024, depth=24, mlp_dim=4096, deepstack_blocks=(5, 11, 17))
    )
    return VlmConfig(
        decoder=DecoderConfig(
            vocab_size=151936,
            width=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=8,
            head_dim=128,
            mlp_dim=mlp,
            tied_embeddings=tied,
            mrope_section=(24, 20, 20),
            rope_theta=5e6,
            qkv_bias=False,
            qk_norm=True,
            mrope_interleaved=True,
        ),
        vision=Qwen3VisionConfig(
            # 524,288 pixels / 16^2
            num_heads=16,
            position_grid=48,
            max_frame_patches=2048,
            **vision,
        ),
        ecg=BASE_ECG,
        ecg_token_id=QWEN3_ECG_TOKEN_ID,
    )


NANO_ECG = EcgConfig(
    width=64, depth=2, num_heads=4, predictor_width=32, predictor_depth=1, predictor_heads=2
)
BASE_ECG = EcgConfig(  # the published ECG-JEPA
    width=768, depth=12, num_heads=16, predictor_width=384, predictor_depth=6, predictor_heads=12
)
_VARIANTS = {
    "nano": _nano,
    "3b": lambda: _qwen(151936, 2048, 36, 16, 2, 11008, vision_mlp=3420, tied=True),
    "7b": lambda: _qwen(152064, 3584, 28, 28, 4, 18944, vision_mlp=3420),
    "32b": lambda: _qwen(152064, 5120, 64, 40, 8, 27648, vision_mlp=3456),
    "72b": lambda: _qwen(152064, 8192, 80, 64, 8, 29568, vision_mlp=3456),
    "qwen3-2b": lambda: _qwen3(2048, 28, 16, 6144, large_vision=False, tied=True),
    "qwen3-4b": lambda: _qwen3(2560, 36, 32, 9728, large_vision=False, tied=True),
    "qwen3-8b": lambda: _qwen3(4096, 36, 32, 12288, large_vision=True),
    "qwen3-32b": lambda: _qwen3(5120, 64, 64, 25600, large_vision=True),
}
NAMES = tuple(_VARIANTS)


def get(name: str) -> VlmConfig:
    """The configuration of a variant (one of NAMES); change fields with dataclasses.replace."""
    if name not in _VARIANTS:
        raise ConfigError(f"unknown model variant {name!r}", hint=f"one of {', '.join(NAMES)}")
    return _VARIANTS[name]()
