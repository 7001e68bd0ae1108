"""Forward pass and generation against transformers on torch: same machine, same weights, same run.
Prints a table.

    python benchmarks/generation.py                       # the whole comparison
    python benchmarks/generation.py --prompts 2 --new 16  # a few minutes on 2 cores

Needs pip install -e '.[benchmarks]': torch.

The model has 0.3 B parameters: a vision tower with the widths, windows and heads of Qwen2.5-VL and
8 of its 32 blocks, a decoder of 6 layers. Each prompt is one 448 x 448 image and 24 text tokens,
and has 8 responses at temperature 1. Ours compiles in the first call, which is shown apart; its
times are of later calls. The two take turns at the forward pass, and the best of three counts.

A second table says what is possible: the products that a float32 program must at least compute
(vision once per image, the prompt once, a token once), the rate of a large matrix product in either
library, measured before and after, and so the share of it that is reached, and the largest ratio
that any program could show.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qoq_jax
from qoq_jax.models.logprobs import token_logprobs

VOCAB = 32_768
IMAGE, VIDEO, START, END = VOCAB - 4, VOCAB - 3, VOCAB - 2, VOCAB - 1


def hf_model() -> transformers.Qwen2_5_VLForConditionalGeneration:
    config = transformers.Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=VOCAB,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=6,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[8, 12, 12]),
        ),
        vision_config=dict(
            depth=8,
            hidden_size=1280,
            intermediate_size=3420,
            num_heads=16,
            window_size=112,
            fullatt_block_indexes=[7],
            out_hidden_size=896,
            tokens_per_second=2,
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return transformers.Qwen2_5_VLForConditionalGeneration(config).eval().float()


def prompts(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def text(length: int) -> list[int]:
        return rng.integers(0, VOCAB - 100, length).tolist()

    return [
        {
            "input_ids": np.array(text(12) + [START] + [IMAGE] * 256 + [END] + text(10)),
            "grid_thw": np.array([[1, 32, 32]]),
            "patches": rng.normal(size=(1024, 1176)).astype(np.float32),
        }
        for _ in range(count)
    ]


def torch_inputs(samples) -> dict[str, torch.Tensor]:
    ids = np.stack([sample["input_ids"] for sample in samples])
    return dict(
        input_ids=torch.tensor(ids),
        attention_mask=torch.ones(ids.shape, dtype=torch.long),
        mm_token_type_ids=torch.tensor((ids == IMAGE) * 1),
        pixel_values=torch.tensor(np.concatenate([sample["patches"] for sample in samples])),
        image_grid_thw=torch.tensor(np.concatenate([sample["grid_thw"] for sample in samples])),
    )


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


class Clock(transformers.StoppingCriteria):
    """When generation began, and when its first token had come; it stops nothing."""

    def __init__(self):
        self.start, self.first = time.perf_counter(), 0.0

    def __call__(self, input_ids, scores, **_):
        self.first = self.first or time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def least_flops(
    model: transformers.Qwen2_5_VLForConditionalGeneration, sample: dict[str, np.ndarray]
) -> dict[str, float]:
    """Multiplications and additions of products that a sample needs: image, prompt, head (one
    token), step (one token, no head).
    """
    vision, text = model.config.vision_config, model.config.text_config

    def matrices(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.ndim > 1)

    patches, tokens = len(sample["patches"]), len(sample["input_ids"])
    window = (vision.window_size // vision.patch_size) ** 2
    full = len(vision.fullatt_block_indexes)
    seen = full * patches + (vision.depth - full) * window  # keys of a patch, in all blocks
    towers = model.model.visual
    image = (
        2
        * patches
        * (matrices(towers.patch_embed) + matrices(towers.blocks) + matrices(towers.merger) / 4)
    )
    image += 4 * patches * seen * vision.hidden_size
    layers = 2 * matrices(model.model.language_model.layers)
    # scores and weighted values, for each key that a token sees
    a_key = 4 * text.hidden_size * text.num_hidden_layers
    return {
        "image": image,
        "prompt": tokens * layers + a_key * tokens**2 / 2,
        "head": 2 * text.vocab_size * text.hidden_size,
        "step": layers + a_key * tokens,
    }


def matmul_rate(size: int = 2048) -> float:
    """GFLOP/s of a float32 product of two square matrices, the better of torch and jax."""
    mine = jax.random.normal(jax.random.key(0), (size, size))
    other, product = torch.randn(size, size), jax.jit(jnp.matmul)
    product(mine, mine).block_until_ready()
    best = min(
        min(
            timed(lambda: product(mine, mine).block_until_ready())[0],
            timed(lambda: other @ other)[0],
        )
        for _ in range(6)
    )
    return 2 * size**3 / best / 1e9


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def logprob_memory(width: int = 2048) -> float:
    """GiB of temporaries of the log-probs of 4096 positions over 152,064 words, forward and
    backward (logits: 2.3 GiB).
    """
    head = {"embedding": jax.ShapeDtypeStruct((152_064, width), jnp.float32)}
    hidden, targets = (
        jax.ShapeDtypeStruct((1, 4096, width), jnp.float32),
        jax.ShapeDtypeStruct((1, 4096), jnp.int32),
    )

    def loss(params, hidden, targets):
        return token_logprobs(params, hidden, targets)[0].sum()

    memory = (
        jax.jit(jax.grad(loss, argnums=1)).lower(head, hidden, targets).compile().memory_analysis()
    )
    return memory.temp_size_in_bytes / 2**30


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new", type=int, default=32, help="tokens per response")
    options = parser.parse_args()
    theirs = hf_model()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = qoq_jax.load(folder, dtype="float32")
    samples = prompts(options.prompts)
    inputs = torch_inputs(samples)
    few, few_inputs = samples[:2], torch_inputs(samples[:2])

    peaks = [matmul_rate()]
    say("forward")
    first_forward, logits = timed(lambda: ours.logits(few))
    reference = theirs(**few_inputs).logits.numpy()
    difference = max(float(np.abs(a - b).max()) for a, b in zip(logits, reference))
    turns = [
        (timed(lambda: ours.logits(few))[0], timed(lambda: theirs(**few_inputs).logits)[0])
        for _ in range(3)
    ]
    our_forward, their_forward = (min(times) for times in zip(*turns))
    peaks.append(matmul_rate())

    ask = dict(max_new_tokens=options.new, temperature=1.0, num_samples=options.samples)
    say("generate, ours, with compilation")
    first, _ = timed(lambda: ours.generate(samples, **ask))
    say("generate, ours")
    our_time, responses = timed(lambda: ours.generate(samples, **ask))
    prefill, _ = timed(lambda: ours.generate(samples, **(ask | {"max_new_tokens": 1})))
    tokens = sum(len(response.token_ids) for group in responses for response in group)
    say("generate, theirs")
    came = Clock()
    their_time, out = timed(
        lambda: theirs.generate(
            **inputs,
            max_new_tokens=options.new,
            min_new_tokens=options.new,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=options.samples,
            stopping_criteria=transformers.StoppingCriteriaList([came]),
        )
    )
    peaks.append(matmul_rate())
    their_prefill = came.first - came.start
    assert tokens == out.shape[0] * (out.shape[1] - inputs["input_ids"].shape[1]), (
        "both must have written the same number"
    )
    times = Times(our_forward, their_forward, our_time, their_time, prefill, their_prefill, tokens)
    print_times(times, options, theirs)
    print(f"largest difference of logits: {difference:.1e}")
    print(f"first call with compilation: forward {first_forward:.0f} s, generate {first:.0f} s")
    print(
        "log-probs of 4096 positions x 152,064 words, forward and backward: "
        f"{logprob_memory():.2f} GiB of temporaries\n"
    )
    print_bounds(times, options, least_flops(theirs, samples[0]), samples, peaks)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of two prompts' forward pass, of the generation of all responses and of it up to the
    first token, ours and theirs; and the tokens generated.
    """

    our_forward: float
    their_forward: float
    our_time: float
    their_time: float
    prefill: float
    their_prefill: float
    tokens: int


def print_times(times: Times, options: argparse.Namespace, theirs: torch.nn.Module) -> None:
    """The table of times, and what they were measured on."""

    def rate(seconds: float) -> str:
        return f"{times.tokens / seconds:.1f} tokens/s"

    steps = max(options.new - 1, 1)
    rows = [
        (
            "forward, 2 prompts",
            f"{times.our_forward:.2f} s",
            f"{times.their_forward:.2f} s",
            times.their_forward / times.our_forward,
        ),
        (
            f"generate, {options.prompts} x {options.samples} responses of {options.new}",
            rate(times.our_time),
            rate(times.their_time),
            times.their_time / times.our_time,
        ),
        (
            "  of it up to the first token",
            f"{times.prefill:.1f} s",
            f"{times.their_prefill:.1f} s",
            times.their_prefill / times.prefill,
        ),
        (
            "  a further token of all responses",
            f"{(times.our_time - times.prefill) / steps * 1e3:.0f} ms",
            f"{(times.their_time - times.their_prefill) / steps * 1e3:.0f} ms",
            (times.their_time - times.their_prefill) / max(times.our_time - times.prefill, 1e-9),
        ),
    ]
    print(
        f"\n{sum(p.numel() for p in theirs.parameters()) / 1e6:.0f} M parameters, float32; "
        f"{len(os.sched_getaffinity(0))} CPU "
        f"cores ({platform.machine()}), python {platform.python_version()}, jax "
        f"{jax.__version__}, torch {torch.__version__} "
        f"({torch.get_num_threads()} threads), transformers {transformers.__version__}"
    )
    print("| | qoq_jax | transformers | ratio |\n|---|---|---|---|")
    for name, mine, other, ratio in rows:
        print(f"| {name} | {mine} | {other} | {ratio:.2f} |")


def print_bounds(
    times: Times,
    options: argparse.Namespace,
    work: dict[str, float],
    samples: list[dict],
    peaks: list[float],
) -> None:
    """What a float32 program must at least compute, and how near the times come to it.

    Args:
      times, options: of the run.
      work: least_flops of one sample.
      samples: the prompts.
      peaks: rates of a matrix product, GFLOP/s.
    """
    count = options.prompts * options.samples
    forward_work = 2 * (
        work["image"] + work["prompt"] + len(samples[0]["input_ids"]) * work["head"]
    )
    token_work = count * (options.new * work["head"] + (options.new - 1) * work["step"])
    generate_work = options.prompts * (work["image"] + work["prompt"]) + token_work
    repeated = count * work["prompt"] + token_work
    print(
        "\nbest product of 2048 x 2048 float32 matrices at the start, after the forward passes "
        "and at the end: "
        f"{', '.join(f'{peak:.0f}' for peak in peaks)} GFLOP/s"
    )
    print(
        "\n| | least work | at the best rate | qoq_jax reaches | largest possible ratio "
        "|\n|---|---|---|---|---|"
    )
    for name, flops, mine, other in (
        ("forward", forward_work, times.our_forward, times.their_forward),
        ("generate", generate_work, times.our_time, times.their_time),
    ):
        least = flops / max(peaks) / 1e9
        print(
            f"| {name} | {flops / 1e9:.0f} GFLOP | {least:.1f} s | {least / mine:.0%} | "
            f"{other / least:.2f} |"
        )
    once, each = (repeated + images * work["image"] for images in (options.prompts, count))
    print(
        f"\nWork if each response had a prefill of its own: {once / 1e9:.0f} GFLOP with an image "
        "encoded once, "
        f"{each / 1e9:.0f} GFLOP with an image encoded for each response"
    )


if __name__ == "__main__":
    main()
