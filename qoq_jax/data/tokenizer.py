"""Text to token ids. Row text is untrusted: it can never become a special token.

Two `tokenizers.Tokenizer` are built from one tokenizer.json: `plain`, without special tokens,
encodes all text; the full one knows the special tokens by name and decodes. A question that
contains "<|image_pad|>" or "<|im_end|>" is therefore encoded as the characters that it shows, and
cannot forge a turn or claim an image. Added tokens that are not special are words: <think> of
Qwen3, and what add_tokens was given for a field of its own. Anyone may write them, the model too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import tokenizers

from qoq_jax.base import files, storage
from qoq_jax.base.errors import ConfigError, DataError
from qoq_jax.models.sizes import SPECIAL_TOKENS

NANO = "nano"
NANO_PATH = Path(__file__).parent / "assets" / "nano_tokenizer.json"
ECG_TOKEN = "<|time_series_pad|>"
END_OF_TURN = "<|im_end|>"
END_TOKENS = (END_OF_TURN, "<|endoftext|>")  # the only added tokens that a model may write
MAX_TEXT = 1 << 20  # characters; longer text is a mistake and slow to encode


class Special(str):
    """A part of a prompt that is one special token, written by this program and never by a row."""


class Tokenizer:
    """Encodes plain text and prompts; holds the special ids. Safe to share between threads."""

    def __init__(self, spec: Mapping):
        """Args: spec: the decoded tokenizer.json.

        `<|time_series_pad|>` is added when it is absent.
        """
        full = json.dumps(spec, sort_keys=True)
        self.fingerprint = hashlib.sha256(full.encode()).hexdigest()
        self._full = tokenizers.Tokenizer.from_str(full)
        if self._full.token_to_id(ECG_TOKEN) is None:
            self._full.add_special_tokens(
                [tokenizers.AddedToken(ECG_TOKEN, special=True, normalized=False)]
            )
        words = [token for token in spec.get("added_tokens") or [] if not _is_special(token)]
        self._plain = tokenizers.Tokenizer.from_str(
            json.dumps({**spec, "added_tokens": words, "post_processor": None})
        )
        # The library numbers added tokens from the end of the vocabulary on, whatever id they ask
        # for.
        self._words = {
            self._plain.token_to_id(word["content"]): self._full.token_to_id(word["content"])
            for word in words
        }
        for one in (self._full, self._plain):
            one.no_padding()
            one.no_truncation()
        added = self._full.get_added_tokens_decoder()
        self.special_ids: dict[str, int] = {
            token.content: index
            for index, token in sorted(added.items())
            if token.content not in {word["content"] for word in words}
        }
        clash = [name for name in self.special_ids if self._plain.token_to_id(name) is not None]
        if clash:
            raise ConfigError(
                f"special token {clash[0]!r} is also an ordinary token, so row text could forge it",
                hint="list special tokens under added_tokens only",
            )

    @property
    def size(self) -> int:
        """Ids run from 0 to size - 1; a model's vocabulary may be padded beyond."""
        return max(self._full.get_vocab_size(), *(index + 1 for index in self.special_ids.values()))

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return tuple(self.special_ids[name] for name in END_TOKENS if name in self.special_ids)

    def token_to_id(self, token: str) -> int:
        """The id of a token, special or not; ConfigError when there is none."""
        index = self._full.token_to_id(token)
        if index is None:
            raise ConfigError(
                f"the tokenizer has no token {token!r}",
                hint="use the tokenizer that belongs to the model",
            )
        return index

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; nothing in it is read as a special token."""
        if len(text) > MAX_TEXT:
            raise DataError(
                f"a text of {len(text)} characters is over the limit of {MAX_TEXT}",
                hint="shorten it",
            )
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair, or bytes that are not UTF-8
            raise DataError(
                f"character {error.start + 1} of a text is {text[error.start]!a}, which UTF-8 "
                "cannot hold",
                hint="write the text again as UTF-8",
            ) from error
        ids = self._plain.encode(text, add_special_tokens=False).ids
        return [self._words.get(index, index) for index in ids] if self._words else ids

    def encode_parts(self, parts: Iterable[str]) -> list[int]:
        """Ids of a prompt given as `Special` tokens and plain texts; adjoining texts are encoded as
        one.
        """
        ids: list[int] = []
        run: list[str] = []
        for part in parts:
            if not isinstance(part, Special):
                run.append(part)
                continue
            if run:
                ids += self.encode("".join(run))
                run = []
            ids.append(self.special_ids[part])
        return ids + self.encode("".join(run))

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids. Bytes that are not UTF-8 become U+FFFD; ids beyond the vocabulary are
        dropped.
        """
        return self._full.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def banned_ids(self, vocab_size: int | None = None) -> tuple[int, ...]:
        """Ids that a sampler must never draw: media and control tokens, and the padding of the
        vocabulary.

        A model that writes an image token breaks the next forward pass hours later (EasyR1 issue
        110).
        """
        named = {index for name, index in self.special_ids.items() if name not in END_TOKENS}
        known = set(self._full.get_vocab(with_added_tokens=True).values())
        return tuple(sorted(named | (set(range(max(vocab_size or 0, self.size))) - known)))

    def check(self, expected: Mapping[str, int]) -> None:
        """Raises ConfigError unless each named token has the id that the model's config says."""
        for token, index in expected.items():
            if (found := self.token_to_id(token)) != index:
                raise ConfigError(
                    f"token {token} has id {found} in the tokenizer and {index} in the model "
                    "config",
                    hint="use the tokenizer that belongs to the model",
                )


def _is_special(token: Mapping) -> bool:
    """Whether an added token is a control token.

    Some of the Qwen tokenizers' own (<tool_call>, <|fim_prefix|>) are not flagged as such.
    """
    return token["special"] or token["content"] in SPECIAL_TOKENS


def load(source: str | Path) -> Tokenizer:
    """The tokenizer "nano" of this package, or that of a Hugging Face model directory or
    tokenizer.json, or at the URL of one.
    """
    path = NANO_PATH if str(source) == NANO else source
    if storage.is_url(path):
        path = path if path.endswith(".json") else f"{path.rstrip('/')}/tokenizer.json"
    elif Path(path).is_dir():
        path = Path(path) / "tokenizer.json"
    try:
        spec = json.loads(files.read_bytes(path).decode())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the tokenizer ({type(error).__name__})",
            where=str(path),
            hint='give "nano" or a directory with a tokenizer.json',
        ) from error
    return Tokenizer(spec)
