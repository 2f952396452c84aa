"""Token data beside the call, and the cost of importing the package."""

import subprocess
import sys
from dataclasses import fields
from threading import Thread

import pytest
import torch

import verl_ext
from verl_ext.context import (
    PROVIDERS,
    MissingTokenData,
    TokenContext,
    current_context,
    require,
    token_context,
)


def test_contexts_nest_and_end() -> None:
    assert current_context() == TokenContext()
    with token_context(TokenContext(vocab_size=1)) as outer:
        assert current_context() is outer
        with token_context(TokenContext(vocab_size=2)):
            assert current_context().vocab_size == 2
        assert current_context() is outer
    assert current_context() == TokenContext()


def test_an_exception_ends_the_context() -> None:
    def body() -> None:
        with token_context(TokenContext(vocab_size=2)):
            raise KeyError(current_context().vocab_size)

    with pytest.raises(KeyError, match="2"):
        body()
    assert current_context() == TokenContext()


def test_another_thread_does_not_see_the_context() -> None:
    seen: list[TokenContext] = []
    with token_context(TokenContext(vocab_size=7)):
        thread = Thread(target=lambda: seen.append(current_context()))
        thread.start()
        thread.join()
    assert seen == [TokenContext()]


def test_require_hands_over_what_is_there() -> None:
    entropy = torch.zeros(1, 2)
    context = TokenContext(old_entropy=entropy, vocab_size=5)
    assert require(context, "espo", "old_entropy", "vocab_size") == {"old_entropy": entropy, "vocab_size": 5}
    assert require(context, "espo") == {}


def test_require_names_every_missing_field_method_and_setting() -> None:
    with pytest.raises(MissingTokenData) as raised:
        require(TokenContext(vocab_size=5), "espo", "old_entropy", "entropy", "vocab_size")
    text = str(raised.value)
    assert isinstance(raised.value, ValueError)
    for word in ("`espo`", "old_entropy", "bypass_mode=true", "entropy", "calculate_entropy=True"):
        assert word in text
    assert "vocab_size" not in text


def test_every_field_says_what_provides_it() -> None:
    assert PROVIDERS.keys() == {field.name for field in fields(TokenContext)}


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, verl_ext as v; v.__version__; v.TokenContext; print({'torch', 'verl'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_looking_at_the_table_does_not_import_verl() -> None:
    code = "import sys; from verl_ext import plugin; plugin.POLICY_LOSSES['espo']; print('verl' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_public_names_resolve_and_others_do_not() -> None:
    for name in verl_ext.__all__:
        assert getattr(verl_ext, name) is not None
        assert name in dir(verl_ext)
    with pytest.raises(AttributeError, match="registre"):
        verl_ext.registre  # noqa: B018
