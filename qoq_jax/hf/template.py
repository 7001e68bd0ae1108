"""The chat template of a Hugging Face directory: what it writes around a question, and one that
writes what data/chat.py does.

A template is a program in Jinja. transformers runs it, in Jinja's sandbox, once, on a question that
is known, and the words around that question are what prompts are made with: the system turn, and
the words that open the answer (<think> in Qwen3-VL Thinking).
"""

from __future__ import annotations

import json

from qoq_jax.base.errors import ConfigError
from qoq_jax.data import chat
from qoq_jax.hf import adapter

JINJA, JSON, TOKENIZER_CONFIG = "chat_template.jinja", "chat_template.json", "tokenizer_config.json"
_QUESTION = "Is it normal?"
# What data/chat.py writes, for engines that build the prompt themselves; {system} is the turn of a
# chat that brings none.
_TEMPLATE = (
    "{%- if messages[0].role != 'system' %}{{ SYSTEM }}{%- endif %}"
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{ message.content }}{%- else %}{%- for part in "
    "message.content %}"
    "{%- if part.type == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'ecg' %}{{ '<|time_series_pad|>' }}{%- else %}{{ part.text }}{%- "
    "endif %}"
    "{%- endfor %}{%- endif %}{{ '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


def write(system: str) -> str:
    """A template whose prompts are those of data/chat.py with this system text."""
    turn = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    # a JSON string is a Jinja string
    return _TEMPLATE.replace("SYSTEM", json.dumps(turn, ensure_ascii=False))


def read(directory: str) -> tuple[str, str] | None:
    """(system text, words that open the answer) of a directory's template; None when it has none.

    Raises:
      ConfigError: a template that cannot be run, or that writes something else than data/chat.py
        can.
    """
    if (found := _find(directory)) is None:
        return None
    path, source = found
    content = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    # Slow to import (seconds). It runs templates in Jinja's sandbox, as they are written for.
    from transformers.utils.chat_template_utils import render_jinja_template

    turn = {"role": "user", "content": content}
    try:
        (text,), _ = render_jinja_template(
            [[turn]], chat_template=source, add_generation_prompt=True
        )
    except Exception as error:  # whatever a program of somebody else may raise
        raise ConfigError(
            f"the chat template cannot be run ({' '.join(str(error).split())})",
            where=path,
            hint="correct it, or take it out of the directory",
        ) from error
    body = chat.prompt_text(_QUESTION, images=1, system="")
    before, found_body, opening = text.partition(body)
    head, tail = "<|im_start|>system\n", "<|im_end|>\n"
    system = before.removeprefix(head).removesuffix(tail)
    if (
        not found_body
        or before != (head + system + tail if before else "")
        or "<|" in system + opening
    ):
        raise ConfigError(
            f"the chat template writes prompts that this package cannot: {text!r}",
            where=path,
            hint="take it out of the directory to have the prompts of the family's own models",
        )
    return system, opening


def _find(directory: str) -> tuple[str, str] | None:
    """(path, source) of the template, found in the order in which transformers' processors look."""
    path = adapter.find(directory, JINJA)
    try:
        if path:
            with open(path, encoding="utf-8") as file:
                return path, file.read()
        for path in (adapter.find(directory, name) for name in (JSON, TOKENIZER_CONFIG)):
            if path:
                with open(path, encoding="utf-8") as file:
                    content = json.load(file)
                source = content.get("chat_template") if isinstance(content, dict) else None
                if isinstance(source, str):
                    return path, source
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot be read ({type(error).__name__})", where=path, hint="fetch the file again"
        ) from error
    return None
