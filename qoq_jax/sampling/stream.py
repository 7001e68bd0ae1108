"""Token ids to text while they come: whole characters only, and an end at a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from qoq_jax.data.tokenizer import Tokenizer

# ids after which bytes that make no character are shown as U+FFFD; a character has at most 4 bytes
UNFINISHED = 8


class TextStream:
    """The text of one response, piece by piece.

    Attributes:
      text: what the ids so far say; it ends before the first stop string.
      stopped: whether a stop string has come.
    """

    def __init__(self, tokenizer: Tokenizer | None, stop: Sequence[str] = ()):
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        # text of whole characters, ids after it, characters given out
        self._whole, self._ids, self._told = "", [], 0
        self.text, self.stopped = "", False

    def add(self, ids: Sequence[int]) -> int | None:
        """Takes further ids; returns None, or how many of them belong to the response when a stop
        string ends it.
        """
        if self._tokenizer is None:
            return None
        for count, token in enumerate(ids, 1):
            self._ids.append(int(token))
            piece = self._tokenizer.decode(self._ids)
            self.text = self._whole + piece
            if not piece.endswith("\ufffd") or len(self._ids) >= UNFINISHED:
                self._whole, self._ids = self.text, []
            # A stop string that ends here begins at most its own length and this piece before the
            # end.
            reach = max(map(len, self._stop), default=0) + len(piece)
            found = [
                at
                for stop in self._stop
                if (at := self.text.find(stop, max(len(self.text) - reach, 0))) >= 0
            ]
            if found:
                self.text, self.stopped = self.text[: min(found)], True
                return count
        return None

    def fresh(self, ended: bool = False) -> str:
        """Text not given out before; until the end it holds back what may yet change or begin a
        stop string.
        """
        end = len(self.text)
        if not ended and not self.stopped:
            end = len(self._whole)
            longest = max(map(len, self._stop), default=1) - 1
            for held in range(min(longest, end), 0, -1):
                if any(stop.startswith(self._whole[end - held : end]) for stop in self._stop):
                    end -= held
                    break
        piece, self._told = self.text[self._told : end], max(self._told, end)
        return piece
