"""Processes on a pseudo-terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time


class Screen:
    """A process whose output is a terminal, and all that it has written there."""

    def __init__(self, script, *arguments, term="xterm", columns=100):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            # the size is the terminal's, not that which variables say
            env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
            | {"TERM": term},
            start_new_session=True,
        )
        os.close(theirs)
        self._terminal, self.written = ours, ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while content := os.read(self._terminal, 4096):
                self.written += content.decode(errors="replace")
        except OSError:  # the other side is closed
            pass
        os.close(self._terminal)

    def wait_for(self, text):
        until = time.monotonic() + 30
        while text not in self.written:
            assert time.monotonic() < until, self.written
            time.sleep(0.02)

    def end(self):
        """The exit code, and what was written without control sequences."""
        code = self.process.wait(60)
        self._reader.join(10)
        text = self.written.replace("\r", "").replace("\x1b[2K", "\n")  # a line is wiped
        return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
