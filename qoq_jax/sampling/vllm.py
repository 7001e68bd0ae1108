"""Responses from a vLLM server: the second engine of rollouts and evaluation.

The server is asked by chat messages, since that is how vLLM takes images: text and pictures are
taken back out of the packed prompt. vLLM returns the ids that it made of them, and they must be
those that the trainer will score; so a chat template, a tokenizer or a size of pictures that
differs is an error and not a bias. Weights go by a folder that both can read, as `qoq convert`
writes it, which the workers of the server load in place. docs/vllm.md has the requests and where
vLLM documents them.
"""

from __future__ import annotations

import base64
import concurrent.futures
import dataclasses
import functools
import io
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from qoq_jax import hf
from qoq_jax.base import interrupt, progress, storage
from qoq_jax.base.errors import DataError, QoqError
from qoq_jax.data import unpacking
from qoq_jax.data.packing import Budget, Placed
from qoq_jax.data.tokenizer import END_OF_TURN, Tokenizer
from qoq_jax.models import vlm
from qoq_jax.models.sizes import VlmConfig
from qoq_jax.parallel import hosts, messages
from qoq_jax.sampling.config import RolloutConfig
from qoq_jax.sampling.schedule import Response, Settings
from qoq_jax.sampling.vllm_client import Client

# What vLLM keeps of earlier requests and must forget with their weights.
CACHES = ("reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache")
BAN = -100  # the lowest bias of a logit that the API takes
# vLLM takes what a request leaves out from the model's generation_config.json: all is said, as off.
OFF = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class Server:
    """A vLLM server that samples with the weights it was given last.

    Args:
      cfg: the model.
      tokenizer: of the prompts.
      config: section rollout.
      workdir: of the run, for the weights where the config names no folder.
    """

    def __init__(self, cfg: VlmConfig, tokenizer: Tokenizer, config: RolloutConfig, workdir: str):
        self._cfg, self._tokenizer, self._config = cfg, tokenizer, config
        self._client = Client(config)
        self._url = self._client.url
        self._folder = config.folder or os.path.join(os.path.abspath(workdir), "rollout_weights")
        self._paths: list[str] = []  # of weights that were written and are still there
        self._name = ""
        banned = tokenizer.banned_ids(cfg.decoder.vocab_size)
        self._bias = {str(i): BAN for i in banned if i < cfg.decoder.vocab_size}

    def load(self, params: Mapping[str, Any]) -> None:
        """Writes the weights, all processes together, and has the server load them.

        Raises:
          QoqError: the server refuses. RetryError: it cannot be reached.
        """
        # The ECG encoder stays here: vLLM refuses names of weights that it does not know.
        cfg = dataclasses.replace(self._cfg, ecg=None)
        params = {name: params[name] for name in vlm.param_specs(cfg)}
        # A name of its own each time: vLLM may keep what it read, and another server of this run,
        # or another run, may write into the same folder.
        token = messages.from_main("rollout weights", lambda: secrets.token_hex(8))
        path = os.path.join(self._folder, token)
        self._paths.append(path)
        with jax.transfer_guard("allow"):  # a training loop forbids what it does not ask for
            hf.save(path, cfg, params, dtype=cfg.compute_dtype)
        if hosts.is_main():
            how = {"method": "reload_weights", "kwargs": {"weights_path": path}}
            self._client.post("collective_rpc", how)
            progress.beat()
            for cache in CACHES:
                self._client.post(cache, None)
            self._remove(self._paths[:-1])
        self._paths = [path]
        hosts.barrier("rollout weights loaded")

    def close(self) -> None:
        """Deletes the last weights, which the server holds in its memory, and ends the
        connections.
        """
        if hosts.is_main():
            self._remove(self._paths)
        self._paths = []
        self._client.close()

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            storage.remove_tree(path)

    def ask(
        self, samples: Sequence[Mapping[str, Any]], settings: Settings, seed: int
    ) -> list[list[Response]]:
        """Responses to each sample; their log-probabilities are the server's own.

        Args:
          samples: of data/unpacking.py. Each must be text and images.
          seed: response g to sample i has the seed `seed + i * settings.num_samples + g`: vLLM adds
            g. The same seed gives the same response as far as vLLM's batches allow.

        Raises:
          DataError: a sample with an ECG or a video. QoqError: the server refuses, or answers in
            another form or to another prompt. RetryError: it cannot be reached, or is overloaded.
        """
        if not self._name:
            self._name = self._served()
        count = settings.num_samples
        bodies = [self._request(one, settings, seed + i * count) for i, one in enumerate(samples)]
        with concurrent.futures.ThreadPoolExecutor(
            self._config.connections, initializer=interrupt.block
        ) as pool:
            post = functools.partial(self._client.post, "v1/chat/completions")
            found = [pool.submit(post, body) for body in bodies]
            try:
                for answer in concurrent.futures.as_completed(found):
                    answer.result()
                    progress.beat()  # here: those of other threads count for nothing
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [
            self._responses(i, one, answer.result(), settings)
            for i, (one, answer) in enumerate(zip(samples, found, strict=True))
        ]

    def rollout(
        self,
        prompts: Mapping[str, np.ndarray],
        samples: Sequence[Placed],
        budget: Budget,
        settings: Settings,
        seed: int,
        share: hosts.Share,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens, mask, log-probabilities), each [Q, G, S], of the responses to a packed batch, as
        in rollout.Rollout.

        Args:
          prompts, samples: this process's rows, as data/packing.py packed them within `budget`.
          settings, seed: see `ask`; the seed of all processes.
          share: which rows these are of those of all processes; each response to them has a seed of
            its own.
        """
        seed += share.index * len(prompts["tokens"]) * settings.num_samples
        shape = (len(prompts["tokens"]), settings.num_samples, settings.max_new_tokens)
        tokens = np.full(shape, self._cfg.pad_id, np.int32)
        mask, logprobs = np.zeros((2, *shape), np.float32)
        unpacked = [unpacking.unpack(prompts, placed, budget) for placed in samples]
        for placed, group in zip(samples, self.ask(unpacked, settings, seed), strict=True):
            for response in group:
                at = (placed.row, response.sample, slice(response.length))
                tokens[at] = response.token_ids
                mask[at] = 1
                logprobs[at] = np.concatenate(response.logprobs)
        return tokens, mask, logprobs

    def _served(self) -> str:
        """The name under which the server has its model."""
        found = self._client.get("v1/models")
        try:
            return str(found["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise QoqError(
                "the server names no model",
                where=f"{self._url}/v1/models",
                hint="is this address that of vLLM?",
            ) from None

    def _request(self, sample: Mapping[str, Any], settings: Settings, seed: int) -> dict[str, Any]:
        ids, where = np.asarray(sample["input_ids"]), f"row {sample['meta'].id!r}"
        for token, what in (
            (self._cfg.ecg_token_id, "an ECG"),
            (self._cfg.video_token_id, "a video or volume"),
        ):
            if (ids == token).any():
                raise DataError(
                    f"{what}, which rollout.engine=vllm cannot pass on",
                    where=where,
                    hint="leave out its data sets, or use rollout.engine=jax",
                )
        vision = self._cfg.vision
        pictures = unpacking.pictures(sample, vision.patch_size)
        turns = to_messages(self._tokenizer, self._cfg, ids, pictures)
        opened = turns[-1]["role"] == "assistant"
        body = {
            "model": self._name,
            "messages": turns,
            "add_generation_prompt": not opened,
            "continue_final_message": opened,
            "n": settings.num_samples,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            **OFF,
            "seed": seed,
            "logprobs": True,
            "top_logprobs": 0,
            "logit_bias": self._bias,
            "stop_token_ids": list(self._cfg.eos_ids),
            "skip_special_tokens": False,
            "return_token_ids": True,
        }
        if pictures:  # they have their size already
            side = vision.patch_size
            limits = (side * side * vision.merge_unit, side * side * vision.max_frame_patches)
            body["mm_processor_kwargs"] = dict(zip(("min_pixels", "max_pixels"), limits))
        return body

    def _responses(
        self, number: int, sample: Mapping[str, Any], answer: Any, settings: Settings
    ) -> list[Response]:
        """The choices of an answer in the order of their seeds; checks that they are to this
        prompt.
        """
        try:
            seen, choices = answer.get("prompt_token_ids"), list(answer["choices"])
            indices = [int(choice["index"]) for choice in choices]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise self._malformed() from None
        sent = list(map(int, sample["input_ids"]))
        if seen is None:
            raise QoqError(
                "the server returns no token ids", where=self._url, hint="use vLLM 0.16 or later"
            )
        if sent != seen:
            at = next((i for i, (x, y) in enumerate(zip(sent, seen)) if x != y), len(sent))
            raise QoqError(
                f"the server answers to another prompt: {len(seen)} tokens in the place of "
                f"{len(sent)}, the first difference at token {at}",
                where=f"row {sample['meta'].id!r}, {self._url}",
                hint="serve the model that is trained, with its own tokenizer, chat template and "
                "image processor",
            )
        if sorted(indices) != list(range(settings.num_samples)):
            raise QoqError(
                f"{len(choices)} responses, of indices {sorted(indices)[:8]}, where "
                f"{settings.num_samples} were asked for",
                where=self._url,
            )
        choices = [choices[indices.index(g)] for g in range(len(choices))]
        return [self._response(number, g, one, settings) for g, one in enumerate(choices)]

    def _response(self, number: int, g: int, choice: Any, settings: Settings) -> Response:
        """One choice, checked: it ended by itself, or is as long as it may be."""
        try:
            reason, tokens = choice["finish_reason"], np.asarray(choice["token_ids"], np.int32)
            logprobs = np.asarray(
                [one["logprob"] for one in choice["logprobs"]["content"]], np.float32
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._malformed() from None
        most, count = settings.max_new_tokens, len(tokens)
        what = hint = None
        if reason not in ("stop", "length"):
            known = isinstance(reason, str) and reason.isidentifier() and len(reason) <= 40
            what = f"a response ended by {reason if known else 'an unknown reason'}"
            hint = "the log of the server says why"
        elif count != len(logprobs) or not count:
            what = f"{count} token ids with {len(logprobs)} log-probabilities"
        elif not np.isfinite(logprobs).all():
            what = "a log-probability is not a finite number"
        elif count > most:
            what = f"a response of {count} tokens, where at most {most} were asked for"
        elif reason == "stop" and int(tokens[-1]) not in self._cfg.eos_ids:
            what = "a response stopped at a token that does not end a turn of this model"
            hint = "start the server with --generation-config vllm, and without stop words"
        elif reason == "length" and count < most and int(tokens[-1]) not in self._cfg.eos_ids:
            what = f"a response was cut at {count} tokens, where {most} may be sampled"
            hint = "raise --max-model-len of the server"
        if what:
            raise QoqError(what, where=self._url, hint=hint)
        ended = "eos" if int(tokens[-1]) in self._cfg.eos_ids else "length"
        response = Response(number, g, reason=ended)
        response.extend(tokens, logprobs)
        return response

    def _malformed(self) -> QoqError:
        return QoqError(
            "an answer of another form than vLLM's chat completions",
            where=self._url,
            hint="use vLLM 0.16 or later",
        )


def of_config(config: Any, cfg: VlmConfig, tokenizer: Tokenizer) -> Server | None:
    """The server of a run's config, with its sections workdir and rollout; None with another
    engine.
    """
    if config.rollout.engine != "vllm":
        return None
    return Server(cfg, tokenizer, config.rollout, config.workdir)


def to_messages(
    tokenizer: Tokenizer, cfg: VlmConfig, ids: np.ndarray, pictures: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """A prompt as messages of the chat API, images as PNG in place.

    Args:
      ids: int32 [n], a prompt of data/chat.py: turns, the last one the assistant's opening.
      pictures: uint8 [h, w, 3] of its images.
    """
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id(END_OF_TURN)
    waiting, turns = list(pictures), []
    for begin, until in zip(begins := np.flatnonzero(ids == start), [*begins[1:], len(ids)]):
        turn = ids[begin + 1 : until]
        if (ends := np.flatnonzero(turn == end)).size:
            turn = turn[: ends[0]]
        parts: list[dict[str, Any]] = []
        # Text, and from one vision_start to its vision_end an image.
        edges = np.flatnonzero((turn == cfg.vision_start_id) | (turn == cfg.vision_end_id))
        for i, piece in enumerate(np.split(turn, edges)):
            if i % 2:
                parts.append({"type": "image_url", "image_url": {"url": _png(waiting.pop(0))}})
            else:
                piece = piece[1:] if i else piece  # without vision_end
                parts.append({"type": "text", "text": tokenizer.decode(piece, skip_special=False)})
        role, _, text = parts[0]["text"].partition("\n")
        parts[0]["text"] = text
        parts = [part for part in parts if part.get("text") != ""]
        if parts or role != "assistant":
            alone = len(parts) == 1 and parts[0]["type"] == "text"
            turns.append({"role": role, "content": parts[0]["text"] if alone else parts})
    return turns


def _png(picture: np.ndarray) -> str:
    """A picture as a data URL, every pixel kept."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
