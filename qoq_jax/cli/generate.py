"""`qoq generate`: ask a model about files on disk."""

from __future__ import annotations

import argparse
import json
import os

from qoq_jax.base.errors import ConfigError
from qoq_jax.cli.parser import Commands, command


def add(commands: Commands) -> None:
    """Adds the command to the parser of `qoq`."""
    generate = command(
        commands, "generate", run, "Ask a model about files; the response is streamed."
    )
    generate.add_argument(
        "source",
        help="the workdir of a run, a Hugging Face directory or hub id, or a model size "
        "such as nano (random weights)",
    )
    generate.add_argument("--ask", required=True, help="the question, with the allowed answers")
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
    generate.add_argument("--samples", type=int, default=1, help="responses to sample")
    generate.add_argument(
        "--temperature", type=float, help="default: 0 (greedy) for one response, 1 for several"
    )
    generate.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="sample from the most likely tokens with this total probability",
    )
    generate.add_argument(
        "--top-k", type=int, default=0, help="sample from this many most likely tokens; 0 = all"
    )
    generate.add_argument(
        "--max-new-tokens", type=int, help="default: the response limit of the run, or 1024"
    )
    generate.add_argument(
        "--stop", action="append", default=[], help="a text that ends the response; may be repeated"
    )
    generate.add_argument("--seed", type=int, default=0, help="of the sampling; default: 0")
    generate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of weights and computation; default: as stored",
    )
    generate.add_argument(
        "--picture", help="write the first image or frame with the predicted boxes to this PNG file"
    )
    generate.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )


def run(arguments: argparse.Namespace) -> int:
    """Streams the response, or prints one JSON object; draws the boxes on a picture when asked."""
    from qoq_jax.cli.response import draw, result
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
    # several responses are sampled at once, so they are printed when done
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
        draw(arguments.picture, shown, meta.frame_sizes, results[0])
    return 0


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
