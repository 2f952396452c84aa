"""transformers is quiet while a model is loaded, and only then."""

from __future__ import annotations

import pytest
from transformers.utils import logging

from verl_ext.quiet import quiet_transformers


def fail_quietly() -> None:
    with quiet_transformers():
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
        raise OSError("planted")


@pytest.mark.parametrize("bars", [True, False])
def test_what_was_set_before_is_set_afterwards(bars: bool) -> None:
    before, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_info()
        (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
        with pytest.raises(OSError, match="planted"):
            fail_quietly()
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.INFO, bars)
    finally:
        logging.set_verbosity(before)
        (logging.enable_progress_bar if had_bars else logging.disable_progress_bar)()
