"""Chat templates and image processors of a directory: prompts and sizes of images."""

from __future__ import annotations

import json
import pathlib

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.data import chat
from qoq_jax.hf import config, template
from qoq_jax.models import sizes as variants
from qoq_jax.sampling.model import process_config

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


# In the form of the published ones: of Qwen2.5-VL (a system turn of its own), Qwen3-VL (none) and
# Qwen3-VL Thinking (an opening).
BODY = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for part in message.content %}
        {%- if part.type == 'image' %}
            {%- set images.value = images.value + 1 %}
            <|vision_start|><|image_pad|><|vision_end|>
        {%- else %}
            {{- part.text }}
        {%- endif %}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}"""
BODY = "{%- set images = namespace(value=0) %}" + BODY.replace(
    "1 %}\n            <|", "1 -%}\n            <|"
)
SYSTEM_TURN = (
    "{%- if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou are a helpful "
    "assistant.<|im_end|>\\n' }}{%- endif %}"
)
QWEN2_5_TEMPLATE = SYSTEM_TURN + BODY + "{{- '<|im_start|>assistant\\n' }}"
QWEN3_TEMPLATE = (
    BODY + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# As TRL's training templates mark what the loss is taken on.
GENERATION_TEMPLATE = (
    "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{%- endif %}{%- endfor %}" + QWEN3_TEMPLATE
)
THINKING_TEMPLATE = BODY + "{{- '<|im_start|>assistant\\n<think>\\n' }}"


@pytest.mark.parametrize("place", [template.JINJA, template.JSON, template.TOKENIZER_CONFIG])
@pytest.mark.parametrize(
    "source, words",
    [
        (QWEN2_5_TEMPLATE, (chat.SYSTEM, "")),
        (QWEN3_TEMPLATE, ("", "")),
        (THINKING_TEMPLATE, ("", "<think>\n")),
        (GENERATION_TEMPLATE, ("", "")),
        (template.write(""), ("", "")),
        (template.write('Say "yes" {{ or }} no\n\\ é'), ('Say "yes" {{ or }} no\n\\ é', "")),
    ],
)
def test_prompts_are_written_with_the_words_of_the_chat_template(tmp_path, place, source, words):
    (tmp_path / place).write_text(
        source if place == template.JINJA else json.dumps({"chat_template": source})
    )
    process = process_config(variants.get("qwen3-2b"), str(tmp_path))
    assert (process.system, process.opening) == words == template.read(str(tmp_path))
    ends = "".join(
        chat.prompt_parts("?", system=process.system, opening=process.opening)
    ).partition("<|im_start|>user\n?<|im_end|>\n")
    assert ends[2] == "<|im_start|>assistant\n" + words[1] and bool(ends[0]) == bool(words[0])


@pytest.mark.parametrize(
    "source, message",
    [
        ("{{ messages[0].content }}", "writes prompts that this package cannot"),
        (
            QWEN3_TEMPLATE.replace("message.role", "'human'"),
            "writes prompts that this package cannot",
        ),
        ("Hi! " + QWEN3_TEMPLATE, "writes prompts that this package cannot: 'Hi!<"),
        ("{{ raise_exception('no images') }}", "cannot be run .no images"),
        ("{% for", "cannot be run"),
        ("{{ 1 / 0 }}", "cannot be run .division by zero"),
        ("{{ messages.__class__.__base__.__subclasses__() }}", "cannot be run .*unsafe"),
    ],
)
def test_a_chat_template_that_cannot_be_honoured_is_a_named_error(tmp_path, source, message):
    (tmp_path / template.JINJA).write_text(source)
    with pytest.raises(ConfigError, match=message) as caught:
        process_config(variants.get("3b"), str(tmp_path))
    assert "\n" not in str(caught.value)


def test_without_a_template_prompts_are_those_of_the_family(tmp_path):
    assert process_config(variants.get("3b"), str(tmp_path)).system == chat.SYSTEM
    assert process_config(variants.get("qwen3-2b"), str(tmp_path)).system == ""


@pytest.mark.parametrize(
    "content, limits",
    [
        ({"min_pixels": 4000, "max_pixels": 90_000}, (4000, 90_000)),
        ({"size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}}, (65_536, 16_777_216)),
        ({"patch_size": 14}, config.PROCESSOR_PIXELS),
        (None, config.QOQ_PIXELS),
    ],
)
def test_sizes_of_images_are_those_of_the_image_processor(tmp_path, content, limits):
    """Also where transformers 5 keeps them; never more than the model takes."""
    for name in (config.PROCESSOR, config.PREPROCESSOR):
        if content is not None:
            (tmp_path / name).write_text(
                json.dumps({"image_processor": content} if name == config.PROCESSOR else content)
            )
        assert config.pixel_limits(str(tmp_path)) == limits
        process = process_config(variants.get("3b"), str(tmp_path))
        room = variants.get("3b").vision.max_frame_patches * 14**2
        assert (process.min_pixels, process.max_pixels) == (limits[0], min(limits[1], room))
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / config.PREPROCESSOR).write_text('{"max_pixels": "many"}')
    with pytest.raises(ConfigError, match="'many' pixels"):
        config.pixel_limits(str(tmp_path))
