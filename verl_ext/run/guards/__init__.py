"""Guards: a run that has gone wrong says so, keeps the batch at fault for replay, and stops, skips or rolls back.

See docs/guards.md. What is here knows nothing of verl; `verl_ext.bridge.guards` binds it to verl's trainers.
"""

from verl_ext.run.guards.incident import GuardError

__all__ = ["GuardError"]
