"""Speed and memory against verl's own losses: `make bench`, see docs/measured.md. No timed test runs in CI."""

import os

# torch's profiler announces each start and stop on the terminal otherwise. It is read when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
