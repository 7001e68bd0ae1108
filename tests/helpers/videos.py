"""OpenCV's reader of videos, made up."""

from __future__ import annotations

import types

import numpy as np


class Capture:
    """As cv2.VideoCapture: 100 frames of 25 a second; BGR pictures that hold their number."""

    rate, off = 25.0, 0

    def __init__(self, name):
        self.at, self.sought = -1, 0

    def get(self, what):
        return {"count": 100.0, "w": 5.0, "h": 4.0, "fps": self.rate, "pos": self.sought}[what]

    def set(self, what, value):
        assert what == "pos"
        self.sought, self.at = value + self.off, value + self.off - 1

    def grab(self):
        self.at += 1
        return self.at < 100

    def retrieve(self):
        return True, np.full((4, 5, 3), (1, 2, self.at), np.uint8)

    def release(self):
        pass


def fake_cv2() -> types.SimpleNamespace:
    """What the reader of videos needs of OpenCV."""
    names = {"FRAME_COUNT": "count", "FRAME_WIDTH": "w", "FRAME_HEIGHT": "h", "FPS": "fps"}
    names |= {"POS_FRAMES": "pos"}
    return types.SimpleNamespace(
        VideoCapture=Capture, **{f"CAP_PROP_{name}": value for name, value in names.items()}
    )
