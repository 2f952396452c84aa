"""Everything the demo trains on, built once and cached: a pre-trained model, and three parquet files.

The control file holds the training problems with an order to `verl_ext.rewards.math.compute_score` to pay by
lot: see `CONTROL_RATE`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from verl_ext.toy.models import ModelKind, build_model, build_tokenizer, save
from verl_ext.toy.pretrain import PretrainSettings, pretrain
from verl_ext.toy.task import Problem, TaskSettings, problems, row

Progress = Callable[[int, int, float], None]
"""Called as ``progress(step, steps, loss)`` after each step of pre-training."""

CODE_VERSION = 1
"""To be raised by whoever changes what the same settings build; older caches are then no longer found."""

CONTROL_RATE = 0.35
"""Share of responses that the control's reward pays, whatever they say.

A control must differ from the real run in one thing: that the reward tells right from wrong. Permuting the
ground truths would also make nearly all rewards zero, hence most groups without any spread, and the update
small. Here the reward is a random function of (problem, response) with about the rate of the start. Groups
spread, and advantages, clipping and step sizes are as large as in the real run, but the expected advantage of
every response is zero.
"""


@dataclass(frozen=True)
class AssetSettings:
    """What is built. Every field is part of the cache's key."""

    model: ModelKind
    seed: int = 0
    tied: bool = True
    train_problems: int = 4096
    validation_problems: int = 512
    task: TaskSettings = field(default_factory=TaskSettings)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)

    @property
    def key(self) -> str:
        """Hash of all settings and of `CODE_VERSION`."""
        text = json.dumps({"code": CODE_VERSION, "control": CONTROL_RATE, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Assets:
    """Paths of what was built."""

    model_dir: Path
    train_parquet: Path
    val_parquet: Path
    control_parquet: Path

    @classmethod
    def under(cls, folder: Path) -> Assets:
        """The paths inside a finished folder."""
        return cls(
            folder / "model",
            folder / "train.parquet",
            folder / "validation.parquet",
            folder / "control.parquet",
        )


def write_parquet(chosen: list[Problem], path: Path, extra: dict[str, object] | None = None) -> None:
    """Write problems in verl's schema; `extra` is added to the extra information of each."""
    import pyarrow
    import pyarrow.parquet

    rows = [row(problem, index, extra) for index, problem in enumerate(chosen)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _build(settings: AssetSettings, target: Assets, progress: Progress | None) -> None:
    # Validation problems are the same for every seed, so that accuracies of different seeds can be averaged.
    train = problems("train", settings.train_problems, settings.seed, settings.task)
    validation = problems("validation", settings.validation_problems, 0, settings.task)
    write_parquet(train, target.train_parquet)
    write_parquet(validation, target.val_parquet)
    control: dict[str, object] = {"control_rate": CONTROL_RATE, "control_salt": settings.seed}
    write_parquet(train, target.control_parquet, control)
    model = build_model(settings.model, settings.tied, settings.seed)
    pretrain(model, build_tokenizer(), settings.seed, settings.pretrain, settings.task, progress)
    save(model, target.model_dir)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The kernel lets go of the lock when its holder dies, so a killed build blocks nobody.
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def planned(settings: AssetSettings, out_dir: str | Path) -> Assets:
    """Where `prepare_settings` puts what it builds; nothing need be there."""
    return Assets.under(Path(out_dir).absolute() / f"{settings.model}-{settings.key}")


def prepare_settings(
    settings: AssetSettings,
    out_dir: str | Path,
    progress: Progress | None = None,
) -> Assets:
    """Build what `settings` describe into a folder of `out_dir` named after their hash, or find it there.

    The folder appears by one rename when it is complete, so an interrupted build leaves nothing that could be
    taken for a result. Of two processes that start together, one builds and the other waits.

    Args:
        settings: what to build.
        out_dir: the cache's folder; made where missing.
        progress: see `Progress`.
    """
    root = Path(out_dir).absolute()
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"{settings.model}-{settings.key}"
    with _locked(root / f".{final.name}.lock"):
        if not final.exists():
            for leftover in root.glob(f".{final.name}.part-*"):
                shutil.rmtree(leftover)
            part = Path(tempfile.mkdtemp(prefix=f".{final.name}.part-", dir=root))
            _build(settings, Assets.under(part), progress)
            text = json.dumps({"code_version": CODE_VERSION, **asdict(settings)}, indent=2)
            (part / "settings.json").write_text(text + "\n")
            part.chmod(0o755)
            os.replace(part, final)
    return Assets.under(final)


def prepare(
    model: ModelKind,
    out_dir: str | Path,
    seed: int = 0,
    tied: bool = True,
    progress: Progress | None = None,
) -> Assets:
    """The demo's assets with its default settings; the second call with the same arguments returns at once.

    Args:
        model: ``"tiny_dense"`` or ``"tiny_moe"``.
        out_dir: the cache's folder.
        seed: seed of the weights, of the pre-training and of the training problems; the validation problems
            do not depend on it.
        tied: whether input and output embeddings are shared.
        progress: see `Progress`.
    """
    return prepare_settings(AssetSettings(model=model, seed=seed, tied=tied), out_dir, progress)
