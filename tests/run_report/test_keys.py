"""No key in what verl prints: the environment stays out of it, and a key in the configuration is found."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.utils.config import validate_config

from verl_ext.composing.errors import ConfigError
from verl_ext.run import keys
from verl_ext.train import compose

KEY = "0123456789abcdef0123456789abcdef01234567"
ENTRY = "ray_kwargs.ray_init.runtime_env.env_vars"


class Stop(Exception):
    pass


def printed(config: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What verl prints of a configuration: `run_ppo` up to `ray.init`, and the runner up to its trainer.

    Both are verl's own functions; Ray and the trainer are stand-ins that do nothing.
    """
    import transfer_queue
    from verl.trainer import main_ppo

    def stop(*args: Any, **kwargs: Any) -> None:
        raise Stop

    given: list[Any] = []
    stub = SimpleNamespace(is_initialized=lambda: False, init=lambda **kw: given.append(kw), get=stop)
    monkeypatch.setattr(main_ppo, "ray", stub)
    runner = SimpleNamespace(run=SimpleNamespace(remote=lambda config: None))
    with pytest.raises(Stop):
        main_ppo.run_ppo(config, SimpleNamespace(remote=lambda: runner))
    assert given, "ray.init was not reached"
    monkeypatch.setattr(transfer_queue, "init", stop)
    task = main_ppo.TaskRunnerV1.__ray_metadata__.modified_class
    with pytest.raises(Stop):
        task().run(config)
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def config() -> Any:
    return compose(["backend=cpu", "algo=espo", "trainer.logger=[console,wandb]"]).config


def writable(config: Any) -> Any:
    return OmegaConf.create(OmegaConf.to_container(config, resolve=False))


def test_a_key_of_the_environment_is_not_printed(
    config: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    text = printed(writable(config), capsys, monkeypatch)
    assert "ray init kwargs:" in text
    assert "'loss_mode': 'espo'" in text
    assert KEY not in text


def test_a_key_of_the_configuration_would_be_printed_and_is_found_first(
    config: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If verl ceases to print it, this fails, and docs/metrics.md has to be read again."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    bad = writable(config)
    OmegaConf.update(bad, f"{ENTRY}.WANDB_API_KEY", KEY, force_add=True)
    (fault,) = keys.faults(bad)
    assert fault.startswith(f"{ENTRY}.WANDB_API_KEY holds a key: ")
    assert KEY not in fault
    assert printed(bad, capsys, monkeypatch).count(KEY) == 2


def test_a_reference_to_the_environment_is_resolved_when_printed(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${oc.env:...}` hides nothing: verl resolves before it prints."""
    monkeypatch.setenv("MY_TOKEN", KEY)
    bad = writable(config)
    OmegaConf.update(bad, "trainer.note", "token ${oc.env:MY_TOKEN}", force_add=True)
    (fault,) = keys.faults(bad)
    assert fault.startswith("trainer.note holds the value of MY_TOKEN: ")


@pytest.mark.parametrize(
    ("value", "whose"),
    [
        ("${oc.env:NOT_SET_TOKEN}", "the value of NOT_SET_TOKEN"),  # another machine may have it
        ("${oc.env:NOT_SET_TOKEN,null}", "the value of NOT_SET_TOKEN"),
        ("https://${oc.env:NOT_SET}/u?key=" + KEY, "the value of MY_TOKEN"),  # as it is written
        ("${trainer.nothing}", None),
        ("${no_such_resolver:1}", None),
        ("${oc.env:A_PLACE_KEY}", None),
        ("???", None),
    ],
)
def test_what_cannot_be_resolved_is_looked_at_as_it_is_written(
    config: Any, monkeypatch: pytest.MonkeyPatch, value: str, whose: str | None
) -> None:
    monkeypatch.setenv("MY_TOKEN", KEY)
    monkeypatch.setenv("A_PLACE_KEY", "/etc/ssl/private.pem")
    monkeypatch.delenv("NOT_SET_TOKEN", raising=False)
    bad = writable(config)
    OmegaConf.update(bad, "trainer.note", value, force_add=True)
    OmegaConf.update(bad, "trainer.plain", KEY, force_add=True)  # the others are found nevertheless
    found = keys.faults(bad)
    assert [fault.partition(": ")[0] for fault in found] == [
        *([f"trainer.note holds {whose}"] if whose else []),
        "trainer.plain holds the value of MY_TOKEN",
    ]
    assert KEY not in "".join(found)


@pytest.mark.parametrize(
    ("value", "faulty"),
    [("${trainer.nothing}", True), ("${trainer.device}", True), ("${trainer.note}", False), ("EMPTY", False)],
)
def test_under_a_keys_name_a_reference_counts_as_what_it_gives(config: Any, value: str, faulty: bool) -> None:
    bad = writable(config)
    OmegaConf.update(bad, "trainer.note", "none", force_add=True)
    OmegaConf.update(bad, "judge.api_key", value, force_add=True)
    found = [fault.partition(": ")[0] for fault in keys.faults(bad, {})]
    assert found == ["judge.api_key holds a key"] * faulty


def test_the_driver_refuses_a_key_before_ray_starts(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the other faults, and with a value in the configuration that cannot be resolved here."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    bad = writable(config)
    OmegaConf.update(bad, f"{ENTRY}.WANDB_API_KEY", KEY, force_add=True)
    OmegaConf.update(bad, "trainer.note", "${oc.env:NOT_SET_HERE}", force_add=True)
    OmegaConf.update(bad, "algorithm.adv_estimator", "epso")
    with pytest.raises(ConfigError) as caught:
        validate_config(config=bad, use_reference_policy=False, use_critic=False)
    assert f"\n  - {ENTRY}.WANDB_API_KEY holds a key: verl prints its configuration" in str(caught.value)
    assert "did you mean 'espo'?" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("algo", ["espo", "grpo"])
@pytest.mark.parametrize("backend", ["cpu", "fsdp"])
def test_configurations_as_they_are_hold_no_key(algo: str, backend: str) -> None:
    assert keys.faults(compose([f"backend={backend}", f"algo={algo}"]).config, {}) == []


@pytest.mark.parametrize(
    ("found", "environment", "paths"),
    [
        ({"env_vars": {"HF_TOKEN": "x"}}, {}, ["env_vars.HF_TOKEN"]),
        ({"env_vars": {"TOKENIZERS_PARALLELISM": "true"}}, {}, []),
        ({"a": [{"api_key": "x"}, {"api_key": ""}, {"api_key": None}]}, {}, ["a.0.api_key"]),
        ({"prompt_key": "prompt", "max_token_len": 5, "tokenizer": "t", "pad_token": "<pad>"}, {}, []),
        ({"url": "https://u:s3cretvalue99@h"}, {"X_PASSWORD": "s3cretvalue99"}, ["url"]),
        ({"url": "short"}, {"X_TOKEN": "short"}, []),
        ({"proxy": "http://me:s3cret@proxy:3128", "other": "http://proxy:3128/me@here"}, {}, ["proxy"]),
        ({"text": "see abc/def+0123456789=="}, {"AWS_SECRET_ACCESS_KEY": "abc/def+0123456789=="}, ["text"]),
        ({"endpoint": "https://login.example/token"}, {"TOKEN_URL": "https://login.example/token"}, []),
        ({"env": {"MAX_TOKEN_LEN": 4096, "HF_TOKEN": "EMPTY"}}, {}, []),
        ({"db": {"password": [12345678]}}, {}, ["db.password.0"]),
        ({"path": "/etc/ssl/private.pem"}, {"SSL_KEY": "/etc/ssl/private.pem"}, []),
        ({"a": "value-of-home-dir"}, {"HOME": "value-of-home-dir"}, []),
    ],
)
def test_what_counts_as_a_key(found: Any, environment: dict[str, str], paths: list[str]) -> None:
    faults = keys.faults(found, environment)
    assert [fault.partition(" ")[0] for fault in faults] == paths


def test_verl_prints_its_configuration_where_we_say() -> None:
    """The three places of docs/metrics.md, in verl's source."""
    spec = find_spec("verl")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations))) / "trainer"
    source = (folder / "main_ppo.py").read_text()
    prints = re.findall(r"^\s*(p?print\(.*)$", source, re.MULTILINE)
    assert prints == [
        'print(f"ray init kwargs: {ray_init_kwargs}")',
        "pprint(OmegaConf.to_container(config, resolve=True))",
    ]
    assert "config=OmegaConf.to_container(self.config, resolve=True)" in (folder / "ppo/v1/trainer_base.py").read_text()
