"""The training sets as Hydra's choices ``data=<name>``, made when Hydra asks: a set's file is all that it needs."""

from __future__ import annotations

from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from verl_ext.data.dataset import Dataset

GROUP = "data"
FOLDER = "${oc.env:VERL_EXT_DATA,outputs/data}"


def choices() -> dict[str, Dataset]:
    """The sets that can be trained on, by name."""
    from verl_ext.data.registry import datasets

    return {name: dataset for name, dataset in datasets().items() if dataset.kind != "benchmark"}


def data_config(dataset: Dataset) -> DictConfig:
    """The set's own template to train on and to validate on, and the reward function that reads its answers.

    Another template: ``data.train_files=.../<name>/<template>.parquet``, and the same for ``data.val_files``.

    Example:
        >>> from verl_ext.data.registry import dataset
        >>> OmegaConf.to_container(data_config(dataset("dapo_math_17k")))["data"]["val_files"]
        '${oc.env:VERL_EXT_DATA,outputs/data}/aime24/dapo.parquet'
    """
    train = f"{dataset.template}.train" if dataset.kind == "both" else dataset.template
    # A training set with no benchmark of its own is validated on itself: verl wants a file.
    other = dataset.validation or dataset.name
    return OmegaConf.create(
        {
            "data": {
                "train_files": f"{FOLDER}/{dataset.name}/{train}.parquet",
                "val_files": f"{FOLDER}/{other}/{dataset.template}.parquet",
            },
            "reward": {
                "custom_reward_function": {"path": "pkg://verl_ext.rewards.math", "name": "compute_score"},
            },
        }
    )


class DataSource(ConfigSource):
    """Serves `choices`."""

    @staticmethod
    def scheme() -> str:
        return "verl-ext-data"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ("", GROUP)

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return group == GROUP and name in choices()

    def load_config(self, config_path: str) -> ConfigResult:
        if not self.is_config(config_path):
            raise ConfigLoadError(f"Config not found : {config_path}")
        dataset = choices()[config_path.removesuffix(".yaml").rpartition("/")[2]]
        where = f"{self.scheme()}://{self.path}"
        return ConfigResult(self.provider, where, data_config(dataset), {"package": "_global_"})

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if results_filter is not ObjectType.CONFIG and not config_path.strip("/"):
            return [GROUP]
        wanted = results_filter is not ObjectType.GROUP and config_path.strip("/") == GROUP
        return sorted(choices()) if wanted else []
