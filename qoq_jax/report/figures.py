"""Pictures of one case: an image or a strip of frames with its boxes, and an ECG on paper.

`boxes_svg` and `draw_ecg` return standalone SVG text: write it to a .svg file, show it in a
notebook, or put it in HTML. `draw_boxes` paints the boxes into the pixels, for a PNG.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from qoq_jax.base.errors import DataError
from qoq_jax.report.charts import svg, text

GOLD, PREDICTED = "#1fa454", "#f5820b"
LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
MAX_SIDE = 512  # pixels of an embedded picture; larger ones are reduced
ECG_RATE = 250  # samples per second


def draw_boxes(
    image: np.ndarray,
    gold: Sequence[Sequence[float]] = (),
    predicted: Sequence[Sequence[float]] = (),
) -> Image.Image:
    """The picture uint8 [h, w(, 3)] with gold boxes (green) and predicted boxes (orange) painted
    in.
    """
    picture = Image.fromarray(_checked(image, axes=(2, 3))).convert("RGB")
    pen = ImageDraw.Draw(picture)
    width = max(round(min(picture.size) / 200), 1)
    for boxes, colour in ((gold, GOLD), (predicted, PREDICTED)):
        for box in boxes:
            x1, y1, x2, y2 = _clipped(box, picture.width, picture.height)
            pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour, width=width)
    return picture


def boxes_svg(
    image: np.ndarray,
    gold: Sequence[Sequence[float]] = (),
    predicted: Sequence[Sequence[float]] = (),
    frame_size: tuple[int, int] | None = None,
) -> str:
    """A picture or a strip of frames under its boxes, gold in green and predicted in dashed orange.

    Args:
      image: uint8 [h, w] or [h, w, 3]; or [n, h, w(, 3)]: a strip of n frames with the boxes on
        each.
      gold, predicted: (x1, y1, x2, y2) boxes.
      frame_size: (w, h) of the pixel frame that the boxes are in; the image's own size by default.
    """
    image = _checked(image, axes=(2, 3, 4))
    frames = image if image.ndim == 4 or (image.ndim == 3 and image.shape[-1] != 3) else image[None]
    width, height = frame_size or (frames.shape[2], frames.shape[1])
    gap = 0.02 * width
    body = []
    for i, frame in enumerate(frames):
        x = i * (width + gap)
        body.append(
            f'<image x="{x:.1f}" y="0" width="{width}" height="{height}" '
            'preserveAspectRatio="none" '
            f'href="{data_url(frame)}"/>'
        )
        for boxes, colour, dash in (
            (gold, GOLD, ""),
            (predicted, PREDICTED, 'stroke-dasharray="9 3"'),
        ):
            for box in boxes:
                x1, y1, x2, y2 = _clipped(box, width, height)
                place = (
                    f'x="{x + x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
                )
                shape = f'<rect {place} fill="none" vector-effect="non-scaling-stroke"'
                # A dark edge under the colour keeps a box visible on any picture.
                body.append(f'{shape} stroke="#000" stroke-opacity="0.4" stroke-width="4"/>')
                body.append(f'{shape} stroke="{colour}" stroke-width="2.2" {dash}/>')
    label = f"{len(frames)} picture(s), {len(gold)} gold and {len(predicted)} predicted boxes"
    return svg(len(frames) * (width + gap) - gap, height, body, label)


def draw_ecg(signal: np.ndarray, leads: Sequence[str] = LEADS) -> str:
    """An ECG on paper: 25 mm/s, 10 mm/mV, squares of 1 and 5 mm, and a pulse of 1 mV before each
    lead.

    Args:
      signal: float [8, n] mV at 250 Hz (I, II, V1 to V6); the pen stops at 2.5 mV.
    """
    signal = np.asarray(signal, float)
    if signal.ndim != 2 or len(signal) != len(leads):
        raise DataError(f"an ECG must be [{len(leads)}, samples], not {list(signal.shape)}")
    row, left, top = 20, 20, 5  # mm
    width, height = left + 25 * signal.shape[1] / ECG_RATE + 5, top + row * len(leads) + 5
    width = 5 * np.ceil(width / 5)
    body = [
        '<defs><pattern id="mm" width="1" height="1" patternUnits="userSpaceOnUse">'
        '<path d="M1 0H0V1" fill="none" stroke="#f3cfcc" stroke-width="0.12"/></pattern>'
        '<pattern id="cm" width="5" height="5" patternUnits="userSpaceOnUse">'
        '<rect width="5" height="5" fill="url(#mm)"/>'
        '<path d="M5 0H0V5" fill="none" stroke="#e8a7a2" stroke-width="0.25"/></pattern></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#fffafa"/>',
        f'<rect width="{width:g}" height="{height:g}" fill="url(#cm)"/>',
    ]
    for i, (name, lead) in enumerate(zip(leads, signal, strict=True)):
        base = top + row * (i + 0.5) + 3
        # In tenths of a millimetre: one sample is one unit, 0.01 mV is one unit.
        steps = np.rint(np.clip(np.nan_to_num(lead), -2.5, 2.5) * -100).astype(int)
        moves = "".join(f"l1 {d}" if d else "h1" for d in np.diff(steps))
        pulse = f"M{left * 10 - 120} 0h20v-100h50v100h20"
        body.append(
            f'<path transform="translate(0 {base:g}) scale(0.1)" d="{pulse}M{left * 10} '
            f'{steps[0]}{moves}" '
            'fill="none" stroke="#18202a" stroke-width="2.6" stroke-linejoin="round"/>'
        )
        body.append(text(left + 1, base - 7, name, 4, "#18202a", extra='font-weight="700"'))
    body.append(text(width - 3, height - 2, "25 mm/s   10 mm/mV", 3.2, "#7a4b48", "end"))
    return svg(width, height, body, f"ECG of {len(leads)} leads, {signal.shape[1] / ECG_RATE:g} s")


def data_url(image: np.ndarray) -> str:
    """The picture, re-encoded: PNG when small (sharp pixels), JPEG when large; never the bytes of a
    file.
    """
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    small = picture.width * picture.height <= 160 * 160
    out = io.BytesIO()
    picture.save(out, "PNG" if small else "JPEG", **({} if small else {"quality": 86}))
    kind, encoded = "png" if small else "jpeg", base64.b64encode(out.getvalue()).decode()
    return f"data:image/{kind};base64,{encoded}"


def _checked(image: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in axes:
        raise DataError(
            f"an image must be uint8 [h, w] or [h, w, 3], not {image.dtype} {list(image.shape)}"
        )
    return image


def _clipped(box: Sequence[float], width: float, height: float) -> list[float]:
    """The box inside of the frame, corners in order: what can be drawn of it."""
    x, y = (
        np.clip(sorted(map(float, box[i::2])), 0, limit) for i, limit in ((0, width), (1, height))
    )
    return [float(x[0]), float(y[0]), float(x[1]), float(y[1])]
