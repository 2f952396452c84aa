"""The error of a configuration."""


class ConfigError(ValueError):
    """The configuration asks for something that cannot run; the message lists every fault found."""
