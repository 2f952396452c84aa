"""A run that makes no progress ends with a report instead of hanging for ever; see docs/watchdog.md."""
