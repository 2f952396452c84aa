"""End the main thread's work from another thread, even where it is blocked in Ray.

Inside `ray.get` a signal's handler is run about once a second, but of what it raises only KeyboardInterrupt gets
out; everything else is printed and dropped. So that is what is raised, and who catches it turns it into the error
that was meant (verl_ext.bridge.watchdog).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

SIGNAL = getattr(signal, "SIGRTMIN", 34) + 8


class Interrupter:
    """Raises KeyboardInterrupt in the main thread. Must be made there, or `raise_in_main` does nothing."""

    def __init__(self) -> None:
        self._armed = threading.current_thread() is threading.main_thread()
        if self._armed:
            signal.signal(SIGNAL, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def raise_in_main(self) -> bool:
        """Whether there was a way to do so."""
        if self._armed:
            signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL)
        return self._armed


def leave() -> None:
    """End this process at once: its main thread is not to be had."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
