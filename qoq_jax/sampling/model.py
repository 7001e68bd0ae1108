"""A model to ask from scripts: weights with all that is needed to turn files into responses.

    model = qoq_jax.load("Qwen/Qwen2.5-VL-7B-Instruct", dtype="bfloat16")
    sample = {"prompt": "What is the finding?", "images": "scan.png"}
    logits = model.logits([sample])[0]                                    # float32 [T, V]
    responses = model.generate([sample], num_samples=4, temperature=0.7)[0]  # 4 Generations

Here are weights as they are given, of a Hugging Face directory, or random; train/load.py knows
training runs too, and decides what a source is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from qoq_jax.base.errors import ConfigError
from qoq_jax.data import chat
from qoq_jax.data import tokenizer as tokenizer_lib
from qoq_jax.data.sample import ProcessConfig
from qoq_jax.data.tokenizer import Tokenizer
from qoq_jax.models import sizes as variants
from qoq_jax.models import spec, vlm
from qoq_jax.models.sizes import Qwen3VisionConfig, VlmConfig
from qoq_jax.sampling import inputs
from qoq_jax.sampling.engine import Engine
from qoq_jax.sampling.schedule import Response, Settings
from qoq_jax.sampling.stream import TextStream

MAX_PROMPT_TOKENS = 32_768  # of models that are not from a training run
MAX_NEW_TOKENS = 1024


@dataclasses.dataclass(frozen=True)
class Generation:
    """One response.

    Attributes:
      token_ids: int32 [n], the end token included.
      text: without special tokens; ends before the stop string that ended it. "" for a model
        without a tokenizer.
      logprobs: float32 [n], log-probability of each token at the temperature (1 when greedy),
        before top-k, top-p and the ban of modality tokens.
      finish_reason: "eos", "stop" (a stop string) or "length".
    """

    token_ids: np.ndarray
    text: str
    logprobs: np.ndarray
    finish_reason: str


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of `Model.generate`.

    Attributes:
      temperature: 0 (the default) = greedy. top_p: 1 (the default) = off. top_k: 0 (the default) =
        off.
      num_samples: responses to each sample, 1 unless given; they share one prefill.
      rows: most responses that are sampled at the same time, 64 unless given, 0 = all; memory of
        the cache grows with it.
      prefill_tokens: 0 (the default) = prompts are prefilled whole; above 0: so many tokens at a
        time, and responses that run wait for no more than that.
      lookup: 0 (the default) = off; above 0: so many tokens are drafted in each step from the text
        so far, and checked at once; the responses are the same.
    """

    temperature: float
    top_p: float
    top_k: int
    num_samples: int
    rows: int
    prefill_tokens: int
    lookup: int


class Model:
    """Weights with all that is needed to ask them.

    Attributes:
      cfg: VlmConfig. params: nested dict of arrays (models/vlm.py `param_specs`).
      tokenizer: data.tokenizer.Tokenizer, or None: then samples must be processed already, and
        responses have no text.
      process: how files and prompts become arrays: pixel and token limits, frames, system text.
      mesh: the device mesh, or None for one device.
      source: what it was loaded from, in words.
    """

    def __init__(
        self,
        cfg: VlmConfig,
        params: Any,
        tokenizer: Tokenizer | None,
        *,
        process: ProcessConfig | None = None,
        mesh: jax.sharding.Mesh | None = None,
        source: str = "given weights",
    ):
        self.cfg, self.params, self.tokenizer, self.mesh, self.source = (
            cfg,
            params,
            tokenizer,
            mesh,
            source,
        )
        self.process = process or process_config(cfg)
        self._engine = Engine(params, cfg, mesh, self.banned_ids())

    def __repr__(self) -> str:
        count = sum(x.size for x in jax.tree.leaves(self.params))
        return f"Model({self.source}, {count:,} parameters)"

    def banned_ids(self) -> Sequence[int]:
        """Ids that are never sampled: modality tokens, other control tokens, and ids that stand for
        nothing.
        """
        pads = {self.cfg.image_token_id, self.cfg.video_token_id, self.cfg.ecg_token_id}
        known = (
            () if self.tokenizer is None else self.tokenizer.banned_ids(self.cfg.decoder.vocab_size)
        )
        return sorted((pads | set(known)) - set(self.cfg.eos_ids))

    def prepare(self, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The samples as arrays, checked; see sampling/inputs.py for their forms.

        Raises DataError.
        """
        return inputs.prepare(samples, self.cfg, self.process, self.tokenizer)

    def logits(self, samples: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
        """Float32 logits [T, V] of each sample: row t predicts token t + 1.

        Raises:
          DataError: a sample that is not as it should be, named, before any compute.
        """
        return self._engine.logits(self.prepare(samples))

    def generate(
        self,
        samples: Sequence[Mapping[str, Any]],
        max_new_tokens: int | None = None,
        *,
        seed: int | Sequence[int] = 0,
        stop: str | Sequence[str] = (),
        stream: Callable[[int, int, str], None] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[list[Generation]]:
        """Responses to each sample; modality tokens are never sampled.

        Args:
          samples: see sampling/inputs.py.
          max_new_tokens: most tokens of a response; None = the response limit of the run, or 1024.
          seed: one for all, from which each sample and response has its own by its index; or one
            for each sample, and then its place in the list changes nothing.
          stop: texts that end a response.
          stream: called as stream(index of the sample, number of its response, new text) while
            responses are sampled; the pieces of a response joined are its text.
          sampling: see `SamplingOptions`.

        Returns:
          For each sample, in order, the list of its `num_samples` responses.

        Raises:
          ConfigError: an argument out of range. DataError: a sample that is not as it should be.
            Both before any compute.
        """
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if max_new_tokens is None:
            max_new_tokens = self.process.max_response_tokens
        settings = Settings(max_new_tokens, **sampling)
        _check(settings, stop, stream is not None, self.tokenizer)
        seeds = _seeds(seed, len(samples))
        prepared = self.prepare(samples)
        if not prepared:
            return []
        streams = [
            [TextStream(self.tokenizer, stop) for _ in range(settings.num_samples)]
            for _ in prepared
        ]

        def watch(response: Response, tokens: np.ndarray, ended: bool) -> int | None:
            text = streams[response.prompt][response.sample]
            kept = text.add(tokens)
            if stream and (piece := text.fresh(ended)):
                stream(response.prompt, response.sample, piece)
            return kept

        responses = self._engine.generate(prepared, settings, seeds, watch)
        return [
            [
                Generation(
                    np.concatenate(response.tokens),
                    text.text,
                    np.concatenate(response.logprobs),
                    response.reason,
                )
                for response, text in zip(*group)
            ]
            for group in zip(responses, streams)
        ]


def _check(
    settings: Settings, stop: Sequence[str], streams: bool, tokenizer: Tokenizer | None
) -> None:
    for name, least in (
        ("max_new_tokens", 1),
        ("num_samples", 1),
        ("rows", 0),
        ("prefill_tokens", 0),
        ("lookup", 0),
    ):
        if getattr(settings, name) < least:
            raise ConfigError(f"{name}={getattr(settings, name)}", hint=f"use {least} or more")
    if not settings.temperature >= 0 or not 0 < settings.top_p <= 1 or settings.top_k < 0:
        raise ConfigError(
            f"temperature={settings.temperature}, top_p={settings.top_p}, top_k={settings.top_k}",
            hint="temperature is 0 or more, top_p above 0 and at most 1, top_k 0 (off) or more",
        )
    if "" in stop:
        raise ConfigError("an empty stop string", hint="leave it out")
    if tokenizer is None and (stop or streams):
        raise ConfigError(
            "stop strings and streaming need a tokenizer",
            hint="put tokenizer.json beside the weights",
        )


def _seeds(seed: int | Sequence[int], count: int) -> list[tuple[int, int]]:
    given = not isinstance(seed, (int, np.integer))
    seeds = [(int(s), 0) for s in seed] if given else [(int(seed), i) for i in range(count)]
    if len(seeds) != count or any(not 0 <= s < 2**32 for s, _ in seeds):
        raise ConfigError(
            f"seed={seed!r} for {count} samples",
            hint="give one number from 0 to 2^32 - 1, or one for each sample",
        )
    return seeds


# ------------------------------------------------------------------------------------------ loading


def process_config(cfg: VlmConfig, directory: str | None = None) -> ProcessConfig:
    """How a model that is not from a run is asked.

    The sizes of images are those of the directory's image processor, at most what the model takes;
    without one, those of QoQ-Med. The words around a question are those of its chat template;
    without one, those of the family: Qwen2.5-VL has a system turn of its own, Qwen3-VL none.
    """
    from qoq_jax.hf import config as hf_config
    from qoq_jax.hf import template

    room = cfg.vision.max_frame_patches * cfg.vision.patch_size**2
    low, high = (
        hf_config.pixel_limits(directory)
        if directory
        else (ProcessConfig.min_pixels, ProcessConfig.max_pixels)
    )
    high = min(high, room)
    words = template.read(directory) if directory else None
    system, opening = words or (
        "" if isinstance(cfg.vision, Qwen3VisionConfig) else chat.SYSTEM,
        "",
    )
    return ProcessConfig.for_model(
        cfg,
        min_pixels=min(low, high // 4),
        max_pixels=high,
        frame_max_pixels=min(ProcessConfig.frame_max_pixels, room),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        max_response_tokens=MAX_NEW_TOKENS,
        system=system,
        opening=opening,
    )


def of_published(name: str, mesh: jax.sharding.Mesh | None = None, dtype: Any = None) -> Model:
    """The model of a Hugging Face directory or hub id.

    Raises CheckpointError: weights that do not fit; ConfigError: a config that is not supported.
    """
    from qoq_jax import hf

    directory = hf.resolve(name)
    cfg, params = hf.load(directory, mesh, dtype)
    tokenizer = None
    if found := hf.find(directory, "tokenizer.json"):
        tokenizer = tokenizer_lib.load(found)
        tokenizer.check(process_config(cfg).token_ids())
    cfg = inference_config(cfg, dtype)
    return Model(
        cfg,
        params,
        tokenizer,
        process=process_config(cfg, directory),
        mesh=mesh,
        source=f"weights of {name}",
    )


def of_variant(name: str, mesh: jax.sharding.Mesh | None = None, dtype: Any = None) -> Model:
    """A variant of models/sizes.py with random weights, which it says on stderr."""
    cfg = inference_config(variants.get(name), dtype)
    specs = vlm.param_specs(cfg)

    def make() -> dict:
        return spec.init_params(specs, jax.random.key(0), jnp.dtype(dtype or cfg.compute_dtype))

    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
        params = jax.jit(
            make, out_shardings=None if mesh is None else spec.shardings(specs, mesh)
        )()
    print(f"qoq_jax: {name} has random weights: nothing was trained or loaded", file=sys.stderr)
    tokenizer = tokenizer_lib.load(name) if name == tokenizer_lib.NANO else None
    return Model(cfg, params, tokenizer, mesh=mesh, source=f"variant {name} with random weights")


def inference_config(cfg: VlmConfig, dtype: Any = None) -> VlmConfig:
    """Without rematerialisation, which only gradients need, and computing in `dtype` when it is
    given.
    """
    compute = cfg.compute_dtype if dtype is None else jnp.dtype(dtype).name
    return dataclasses.replace(cfg, remat="none", compute_dtype=compute)
