"""`qoq generate`: ask a model about files on disk."""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from qoq_jax.base.errors import ConfigError
from qoq_jax.data import answer_format as answers
from qoq_jax.data import readers
from qoq_jax.data.readers import files
from qoq_jax.report import figures
from qoq_jax.sampling import model as models


def run(arguments) -> int:
    """Streams the answer (or prints one JSON object); writes the picture with boxes when asked."""
    frames = [*arguments.image, *arguments.volume, *arguments.video]
    if arguments.picture and not frames:
        raise ConfigError("--picture needs an --image, a --volume or a --video")
    if arguments.picture:
        _check_writable(arguments.picture)
    for path in (*frames, *arguments.ecg):
        # before a model is loaded for it, which takes a while when it is large
        files.check_file(path)
    if arguments.samples < 1:
        raise ConfigError(f"--samples {arguments.samples} must be at least 1")
    model = models.load(arguments.source, dtype=arguments.dtype)
    sample = {
        "prompt": arguments.ask,
        "images": arguments.image,
        "videos": arguments.video,
        "volumes": arguments.volume,
        "ecg": arguments.ecg,
    }
    frame_size = model.prepare([sample])[0]["meta"].frame_size
    temperature = arguments.temperature
    if temperature is None:
        temperature = 1.0 if arguments.samples > 1 else 0.0
    # several answers grow at once, so they are printed when done
    live = not arguments.json and arguments.samples == 1
    found = model.generate(
        [sample],
        arguments.max_new_tokens,
        temperature=temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        num_samples=arguments.samples,
        seed=arguments.seed,
        stop=arguments.stop,
        stream=(lambda _, __, piece: print(piece, end="", flush=True)) if live else None,
    )[0]
    results = [result(generation, frame_size) for generation in found]
    if arguments.json:
        print(json.dumps({"question": arguments.ask, "model": model.source, "answers": results}))
    else:
        print("" if live else "\n\n".join(one["text"] for one in results))
    if arguments.picture:
        first = (
            readers.read_image(frames[0])
            if arguments.image
            else readers.read_frames(frames[0], model.process.frames)[0]
        )
        picture(arguments.picture, first, frame_size, results[0]["boxes"])
    return 0


def result(generation: models.Generation, frame_size: tuple[int, int] | None) -> dict:
    """An answer for programs; boxes are (x1, y1, x2, y2) in pixels of a frame of `frame_size` (w,
    h).
    """
    answer = answers.parse(generation.text)
    return {
        "text": generation.text,
        "answer": answer.boxed,
        "boxes": [list(box) for box in answer.boxes],
        "box_labels": list(answer.box_labels),
        "frame_size": frame_size,
        "logprob": float(generation.logprobs.sum()),
        "tokens": len(generation.token_ids),
        "finish_reason": generation.finish_reason,
    }


def picture(path: str, frame: np.ndarray, frame_size: tuple[int, int], boxes) -> None:
    """Writes the first image or frame with the predicted boxes."""
    scale = np.array([frame.shape[1] / frame_size[0], frame.shape[0] / frame_size[1]] * 2)
    figures.draw_boxes(frame, [], [tuple(np.array(box) * scale) for box in boxes]).save(path)
    # Not among the answers on stdout, which with --json are for programs.
    print(
        f"picture: {path} ({len(boxes) or 'no'} box{'' if len(boxes) == 1 else 'es'})",
        file=sys.stderr,
    )


def _check_writable(path: str) -> None:
    """The folder of the picture and its type, before a model is loaded for it."""
    if os.path.splitext(path)[1].lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(
            f"--picture {path}: unknown type of picture", hint="name a .png or .jpg file"
        )
    if not os.path.isdir(folder := os.path.dirname(path) or "."):
        raise ConfigError(
            f"--picture {path}: no such folder {folder}", hint="make it, or name another"
        )
