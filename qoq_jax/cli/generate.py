"""`qoq generate`: ask a model about files on disk."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qoq_jax.base.errors import ConfigError
from qoq_jax.cli.parser import Commands, command

if TYPE_CHECKING:  # heavy: `qoq --help` answers at once
    import numpy as np

    from qoq_jax.data.meta import SampleMeta
    from qoq_jax.sampling.model import Generation


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    generate = command(
        commands, "generate", run, "Ask a model about files; the answer is streamed."
    )
    generate.add_argument(
        "source",
        help="the workdir of a run, a Hugging Face directory or hub id, or a variant (random "
        "weights)",
    )
    generate.add_argument("--ask", required=True, help="the question, allowed answers included")
    generate.add_argument(
        "--image", action="append", default=[], help="PNG, JPEG or DICOM; may be repeated"
    )
    generate.add_argument(
        "--volume",
        action="append",
        default=[],
        help="NIfTI, NRRD, multi-frame DICOM or NPZ, read as 4 frames",
    )
    generate.add_argument(
        "--video", action="append", default=[], help="MP4, AVI, MOV or MKV, read as 4 frames"
    )
    generate.add_argument(
        "--ecg", action="append", default=[], help="WFDB, DICOM, NPZ, HDF5, ... with 12 leads"
    )
    generate.add_argument("--samples", type=int, default=1, help="answers to draw")
    generate.add_argument(
        "--temperature", type=float, help="default: 0 (greedy) for one answer, 1 for several"
    )
    generate.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="draw from the most likely words of this probability",
    )
    generate.add_argument(
        "--top-k", type=int, default=0, help="draw from this many most likely words; 0 = all"
    )
    generate.add_argument(
        "--max-new-tokens", type=int, help="default: the response limit of the run, or 1024"
    )
    generate.add_argument(
        "--stop", action="append", default=[], help="a text that ends the answer; may be repeated"
    )
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of weights and compute; default: as stored",
    )
    generate.add_argument(
        "--picture", help="write the first image or frame with the predicted boxes to this PNG file"
    )
    generate.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )


def run(arguments: argparse.Namespace) -> int:
    """Streams the answer (or prints one JSON object); writes the picture with boxes when asked."""
    from qoq_jax.data import readers
    from qoq_jax.data.readers import files
    from qoq_jax.data.sample import naming
    from qoq_jax.train.load import load

    frames = [*arguments.image, *arguments.volume, *arguments.video]
    if arguments.picture and not frames:
        raise ConfigError("--picture needs an --image, a --volume or a --video")
    if arguments.picture:
        _check_writable(arguments.picture)
    # before a model is loaded for them, which takes a while when it is large
    for path in frames:
        files.check_file(path)
    for path in arguments.ecg:
        with naming("--ecg"):
            readers.read_ecg(path, length="repeat")
    if arguments.samples < 1:
        raise ConfigError(f"--samples {arguments.samples} must be at least 1")
    model = load(arguments.source, dtype=arguments.dtype)
    sample = {
        "prompt": arguments.ask,
        "images": arguments.image,
        "videos": arguments.video,
        "volumes": arguments.volume,
        "ecg": arguments.ecg,
    }
    meta = model.prepare([sample])[0]["meta"]
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
    results = [result(generation, meta) for generation in found]
    if arguments.json:
        print(json.dumps({"question": arguments.ask, "model": model.source, "answers": results}))
    else:
        print("" if live else "\n\n".join(one["text"] for one in results))
    if arguments.picture:
        shown = [readers.read_image(path) for path in arguments.image]
        shown = shown or [readers.read_frames(frames[0], model.process.frames)[0]]
        picture(arguments.picture, shown, meta.frame_sizes, results[0])
    return 0


def result(generation: Generation, meta: SampleMeta) -> dict[str, Any]:
    """A response for programs.

    Boxes are (x1, y1, x2, y2) in pixels of the resized picture that each is on, whose (w, h) are in
    `frame_sizes`; `frame_size` is the first picture's.
    """
    from qoq_jax.data import answer_format as answers

    answer = answers.parse(generation.text)
    answer = answers.in_pixels(answer, meta.frame_sizes, meta.box_coordinates)
    return {
        "text": generation.text,
        "answer": answer.boxed,
        "boxes": [list(box) for box in answer.boxes],
        "box_labels": list(answer.box_labels),
        "box_images": list(answer.box_images),
        "frame_size": meta.frame_size,
        "frame_sizes": list(meta.frame_sizes),
        "logprob": float(generation.logprobs.sum()),
        "tokens": len(generation.token_ids),
        "finish_reason": generation.finish_reason,
    }


def picture(
    path: str,
    frames: Sequence[np.ndarray],
    frame_sizes: Sequence[tuple[int, int]],
    found: Mapping[str, Any],
) -> None:
    """Writes the images, side by side, or the first frame, with the predicted boxes of `result`.

    Args:
      frames: uint8 [h, w, 3] each, at their own size. frame_sizes: (w, h) as the model saw them.
    """
    import numpy as np
    from PIL import Image

    from qoq_jax.report import figures

    drawn = []
    for i, (frame, (w, h)) in enumerate(zip(frames, frame_sizes, strict=False)):
        scale = np.array([frame.shape[1] / w, frame.shape[0] / h] * 2)
        pairs = zip(found["boxes"], found["box_images"], strict=True)
        drawn.append(
            figures.draw_boxes(frame, [], [np.array(b) * scale for b, on in pairs if on == i])
        )
    whole = Image.new("RGB", (sum(p.width for p in drawn), max(p.height for p in drawn)))
    left = 0
    for one in drawn:
        whole.paste(one, (left, 0))
        left += one.width
    whole.save(path)
    # Not among the answers on stdout, which with --json are for programs.
    count = len(found["boxes"])
    print(f"picture: {path} ({count or 'no'} box{'' if count == 1 else 'es'})", file=sys.stderr)


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
