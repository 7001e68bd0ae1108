"""`qoq generate`: ask a trained model about files on disk."""

from __future__ import annotations

import json
import os

import jax
import numpy as np

from qoq_jax.data import readers, schema
from qoq_jax.data.packing import Budget, pack
from qoq_jax.data.transforms import process
from qoq_jax.errors import ConfigError
from qoq_jax.evaluation import figures
from qoq_jax.rl import answers
from qoq_jax.train import loop
from qoq_jax.train import step as steps


def run(arguments) -> int:
    """Prints the answers (or one JSON object); writes the picture with boxes when asked."""
    if arguments.samples < 1:
        raise ConfigError(f"--samples {arguments.samples} must be at least 1")
    setup, params, _ = loop.restore_run(arguments.workdir, prepare=False)
    sample = process(question(arguments), "/", setup.tokenizer, setup.process)
    batch, placed = pack([sample], one_row(setup, sample))
    temperature = arguments.temperature if arguments.samples > 1 else 0.0
    sampler = steps.make_sampler(setup.model, arguments.samples, setup.config.data.max_response_tokens, temperature, 1.0)
    with jax.set_mesh(setup.mesh):
        drawn = sampler(params, setup.put(batch), jax.random.key(arguments.seed), setup.banned)
    tokens, mask, logprobs = (np.asarray(x[0]) for x in (drawn.tokens, drawn.mask, drawn.logprobs))
    results = []
    for i in range(arguments.samples):
        length = int(mask[i].sum())
        text = setup.tokenizer.decode(tokens[i, :length])
        answer = answers.parse(text)
        results.append({"text": text, "answer": answer.boxed, "boxes": [list(box) for box in answer.boxes],
                        "box_labels": list(answer.box_labels), "frame_size": placed[0].meta.frame_size,
                        "logprob": float(logprobs[i, :length].sum())})
    if arguments.json:
        print(json.dumps({"question": arguments.ask, "answers": results}))
    else:
        print("\n\n".join(result["text"] for result in results))
    if arguments.picture:
        picture(arguments, placed[0].meta, results[0]["boxes"])
    return 0


def question(arguments) -> schema.Row:
    """The command line as a row without a gold answer; paths become relative to the root folder."""
    paths = lambda files: [os.path.relpath(os.path.realpath(f), "/") for f in files]
    kinds = [k for k in ("image", "volume", "ecg") if getattr(arguments, k)]
    domain = "multimodal" if len(kinds) > 1 else {"image": "chest_xray", "volume": "ct", "ecg": "ecg"}.get(
        kinds[0] if kinds else "", "multimodal")
    return schema.validate_row(
        {"id": "question", "dataset": "question", "domain": domain, "problem": arguments.ask, "answer": "unknown", "labels": ["unknown"],
         "images": paths(arguments.image), "videos": paths(arguments.volume), "time-series": paths(arguments.ecg)},
        "command line")


def one_row(setup, sample) -> Budget:
    """The smallest shapes that hold the sample, on a mesh of any size."""
    rows = setup.mesh.shape["data"] * setup.mesh.shape["fsdp"]
    return Budget(rows=rows, tokens=setup.config.data.max_prompt_tokens, media_rows=rows,
                  patches=len(sample["patches"]), ecgs=len(sample["ecg"]), max_per_row=1, ecg_tokens=setup.model.ecg_tokens,
                  pad_id=setup.model.pad_id, patch_dim=setup.model.vision.patch_dim)


def picture(arguments, meta, boxes) -> None:
    """Writes the first image or frame, as the model sees it, with the predicted boxes."""
    if arguments.image:
        frame = readers.read_image(arguments.image[0])
    elif arguments.volume:
        frame = readers.read_frames(arguments.volume[0])[1]
    else:
        raise ConfigError("--picture needs an --image or a --volume")
    scale = np.array([frame.shape[1] / meta.frame_size[0], frame.shape[0] / meta.frame_size[1]] * 2)
    figures.draw_boxes(frame, [], [tuple(np.array(box) * scale) for box in boxes]).save(arguments.picture)
    print(f"picture: {arguments.picture}")
