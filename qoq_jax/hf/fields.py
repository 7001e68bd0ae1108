"""The fields of a config.json: brought into one form by transformers, then each used or refused.

transformers has written these files in many forms (flat or nested, text fields twice, rope_scaling
or rope_parameters). Its own config class reads them all, with its own precedence and defaults, so
what it makes of a file is read here, in the one form of transformers 5.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from qoq_jax.base.errors import ConfigError

# Fields that change no number here, and are copied from the source on export.
# max_position_embeddings limits nothing with plain rotary positions; sliding_window and
# max_window_layers are idle while use_sliding_window is false.
IDLE = (
    "max_position_embeddings",
    "initializer_range",
    "max_window_layers",
    "sliding_window",
    "bos_token_id",
    "use_cache",
    "vision_token_id",
)
# Book-keeping of transformers and of programs that save through it; auto_map names Python files,
# which are never run.
BOOKKEEPING = (
    "architectures",
    "model_type",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "auto_map",
    "_name_or_path",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "problem_type",
    "id2label",
    "label2id",
    "is_encoder_decoder",
    "chunk_size_feed_forward",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "unsloth_fixed",
    "unsloth_version",
    "time_series_max_length",
    "spatial_patch_size",
)
_STOPS = ("eos_token_id", "pad_token_id")
_MISSING = object()


def normalised(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as transformers 5 nests them: text_config with rope_parameters, and vision_config.

    Text fields that stand at the root beside a text_config are left out, since transformers takes
    those of text_config; fields that transformers does not know stay where they are.

    Args:
      fields: of a config.json whose model_type transformers knows.

    Raises:
      ConfigError: a value that transformers refuses.
    """
    # Slow to import (seconds), and needed for Hugging Face directories only. Configurations are
    # made without torch.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.utils import logging

    # It warns of token ids and rope fields that are checked here, or that change nothing.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = CONFIG_MAPPING[fields["model_type"]](**copy.deepcopy(dict(fields)))
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    finally:
        logging.set_verbosity(verbosity)
    made = config.to_dict()
    if fields.get("text_config"):
        own = {field.name for field in dataclasses.fields(config)} | set(BOOKKEEPING)
        # eos and pad are read from both places
        both = {*made["text_config"], "rope_scaling", "rope_theta"} - {*_STOPS, *own}
        made = {name: value for name, value in made.items() if name not in both}
    return made


class Section:
    """A JSON object of config.json that collects what is wrong with it, and the fields that nobody
    has used.
    """

    def __init__(self, fields: dict[str, Any], name: str = "", problems: list[str] | None = None):
        self.fields, self.name = fields, name
        self.problems: list[str] = [] if problems is None else problems
        self._unused = set(fields) - set(BOOKKEEPING) - set(IDLE)

    def take(self, field: str, default: Any, kind: type = int) -> Any:
        """The value, or `default` when it is missing or null; another type is a problem."""
        self._unused.discard(field)
        value = self.fields.get(field)
        if value is None:
            return default
        right = isinstance(value, (int, float) if kind is float else kind) and (
            kind is bool
        ) == isinstance(value, bool)
        if not right:
            self.problems.append(f"{self.name}{field} is {value!r}, not {kind.__name__}")
            return default
        return value

    def require(self, field: str, *allowed: Any, default: Any = _MISSING) -> None:
        """Only these values are supported; a missing or null field counts as `default`, else as
        allowed.
        """
        self._unused.discard(field)
        value = self.fields.get(field)
        value = (allowed[0] if default is _MISSING else default) if value is None else value
        if value not in allowed:
            wanted = " or ".join(repr(one) for one in allowed)
            self.problems.append(f"{self.name}{field} = {value!r} is not supported, only {wanted}")

    def ignore(self, *fields: str) -> None:
        """Fields that are read elsewhere, or that transformers does not read either."""
        self._unused -= set(fields)

    def section(self, field: str) -> Section | None:
        """A nested object, whose problems are this one's; None when it is missing."""
        fields = self.take(field, None, dict)
        return None if fields is None else Section(fields, f"{self.name}{field}.", self.problems)

    def finish(self) -> None:
        """Refuses the fields that were not used: their meaning is unknown, and may change what the
        model computes.
        """
        self.problems += [f"{self.name}{field} is not supported" for field in sorted(self._unused)]
