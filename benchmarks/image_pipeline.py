"""Pictures to patches on one core: this package against PIL and the Hugging Face image processor.

    pip install -e '.[benchmarks,fast]'
    python benchmarks/image_pipeline.py [--images 20] [--turns 5] [--backend torchvision]
    python benchmarks/image_pipeline.py --processes 2    # also ours in so many, on a core each

Writes JPEGs of 1024 x 1280 pixels, pins the process to one core, and turns each into patches in
both ways, in turns. The Hugging Face way is its processor on an RGB picture that PIL has opened; it
ends with float32 in the processor's order. Ours begins with the file name and ends with uint8
patches in the order of the vision tower (windows); the device normalises. The pixels are compared
before, and must be equal. Prints pictures per second of processor time and their ratio, our time by
stage, and the bound of any pipeline that decodes and resizes with Pillow.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import PIL
import torch
import transformers
from PIL import Image

from qoq_jax.data import images, readers

HEIGHT, WIDTH = 1024, 1280
LIMITS = {"min_pixels": 65_536, "max_pixels": 524_288}


def write_pictures(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Smooth shapes with noise, JPEG quality 90: about 370 kB each."""
    paths, rng = [], np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
        smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float64)
        noisy = smooth + rng.normal(0, 6, smooth.shape)
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def resized(image: np.ndarray) -> np.ndarray:
    return images.resize(image, *images.smart_resize(*image.shape[:2], **LIMITS))


def in_window_order(patches: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    order = images.window_order([grid])[0]
    return patches.reshape(len(order), 4, -1)[order].reshape(patches.shape)


def ours(path: pathlib.Path) -> np.ndarray:
    """uint8 [n, 1176], as data/sample.py makes them."""
    return in_window_order(*images.patchify(resized(readers.read_image(path))[None]))


def check_equal(path: pathlib.Path, processor: Callable) -> None:
    """Both ways have the same pixels; raises AssertionError."""
    image = resized(readers.read_image(path))
    mine, grid = images.patchify(image[None])
    theirs = processor(images=Image.open(path).convert("RGB"), return_tensors="np")
    assert tuple(theirs["image_grid_thw"][0]) == grid
    channels = theirs["pixel_values"].reshape(len(mine), 3, -1)
    back = (channels * images.IMAGE_STD[:, None] + images.IMAGE_MEAN[:, None]) * 255
    np.testing.assert_array_equal(np.rint(back).astype(np.uint8).reshape(mine.shape), mine)


def seconds(work: Callable[[pathlib.Path], object], paths: Sequence[pathlib.Path]) -> list[float]:
    found = []
    for path in paths:
        began = time.process_time()
        work(path)
        found.append(time.process_time() - began)
    return found


def stages(path: pathlib.Path, repeat: int = 20) -> dict[str, float]:
    """Median milliseconds of the parts of `ours`."""
    image = readers.read_image(path)
    small = resized(image)
    patches, grid = images.patchify(small[None])
    parts: dict[str, Callable[[], object]] = {
        "read and decode": lambda: readers.read_image(path),
        "resize": lambda: resized(image),
        "cut into patches": lambda: images.patchify(small[None]),
        "window order": lambda: in_window_order(patches, grid),
    }
    return {
        name: 1e3 * float(np.median(seconds(lambda _, work=work: work(), [path] * repeat)))
        for name, work in parts.items()
    }


def in_processes(paths: Sequence[pathlib.Path], processes: int, turns: int) -> float:
    """Pictures per second of time on the clock, of processes that each work through all paths."""
    cores = sorted(os.sched_getaffinity(0))[:processes]
    if len(cores) < processes:
        raise SystemExit(f"{processes} processes need as many cores, there are {len(cores)}")
    context = multiprocessing.get_context("spawn")
    barrier, ended = context.Barrier(processes + 1), context.Queue()
    workers = [
        context.Process(target=_work, args=(paths, turns, core, barrier, ended)) for core in cores
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    began = time.perf_counter()
    for _ in workers:
        ended.get()
    elapsed = time.perf_counter() - began
    for worker in workers:
        worker.join()
    return processes * turns * len(paths) / elapsed


def _work(
    paths: Sequence[pathlib.Path],
    turns: int,
    core: int,
    barrier: threading.Barrier,
    ended: multiprocessing.Queue,
) -> None:
    os.sched_setaffinity(0, {core})
    ours(paths[0])  # compiles
    barrier.wait()
    for _ in range(turns):
        for path in paths:
            ours(path)
    ended.put(core)


def pillow_alone(path: pathlib.Path) -> None:
    """The least of a pipeline that decodes and resizes with Pillow: no array, no patches."""
    height, width = images.smart_resize(HEIGHT, WIDTH, **LIMITS)
    picture = Image.open(path).convert("RGB")
    picture.resize((width, height), Image.Resampling.BICUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--backend", choices=("pil", "torchvision"), default="pil")
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    processor = transformers.AutoImageProcessor.from_pretrained(
        config_folder(), backend=args.backend
    )

    def theirs(path: pathlib.Path) -> object:
        return processor(images=Image.open(path).convert("RGB"), return_tensors="np")

    print(
        f"Pillow {PIL.__version__}, transformers {transformers.__version__} "
        f"({type(processor).__name__}), numpy {np.__version__}, one core; "
        f"{args.images} JPEGs of {HEIGHT} x {WIDTH}"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(pathlib.Path(folder), args.images)
        for path in paths[:3]:
            check_equal(path, processor)
        print("pixels are equal")
        ways = {"qoq_jax": ours, "Hugging Face": theirs, "Pillow: decode and resize": pillow_alone}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.turns):
            for name, work in ways.items():
                times[name] += seconds(work, paths)
        middle = {name: float(np.median(found)) for name, found in times.items()}
        for name, value in middle.items():
            ratio = middle["Hugging Face"] / value
            print(f"{name:26s} {1e3 * value:6.2f} ms  {1 / value:5.1f} images/s  {ratio:5.2f} x")
        if args.processes > 1:
            began = time.perf_counter()
            seconds(theirs, paths)
            plain = len(paths) / (time.perf_counter() - began)
            os.sched_setaffinity(0, cores)
            several = in_processes(paths, args.processes, args.turns)
            print(
                f"on the clock: Hugging Face in one process {plain:.1f} images/s, qoq_jax in "
                f"{args.processes} {several:.1f} images/s, {several / plain:.2f} x"
            )
            os.sched_setaffinity(0, {min(cores)})
        print("stages, ms:", {name: round(value, 2) for name, value in stages(paths[0]).items()})


def config_folder() -> str:
    """A folder with the processor's settings of Qwen2.5-VL and our limits."""
    folder = tempfile.mkdtemp()
    size = {"shortest_edge": LIMITS["min_pixels"], "longest_edge": LIMITS["max_pixels"]}
    transformers.Qwen2VLImageProcessorPil(size=size).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
