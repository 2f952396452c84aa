"""In the workers: say that micro-batches are being done, so that a long update is not taken for a stalled one.

From the trainer an update is one wait that may take an hour. The first rank counts its micro-batches; ranks work in
step with each other, so that it stops when any of them does. The count goes to Ray's control store from a thread of
its own, at most every few seconds, so that training never waits for it.
"""

from __future__ import annotations

import os
import threading
import time

SEND_S = 5.0


class Beat:
    """Counts, and sends the count on while it grows."""

    def __init__(self) -> None:
        self.count = 0
        self._started = False

    def tick(self) -> None:
        """One more micro-batch is done."""
        self.count += 1
        if not self._started and os.environ.get("RANK", "0") == "0":
            self._started = True
            threading.Thread(target=self._send, daemon=True, name="verl_ext-beats").start()

    def _send(self) -> None:
        from verl_ext.run.watchdog import actors

        sent = 0
        while True:
            if self.count > sent:
                sent = self.count
                actors.put_beat(os.getpid(), sent)
            time.sleep(SEND_S)


BEAT = Beat()
