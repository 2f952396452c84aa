"""What is known of each data set: where it comes from, how many problems it has, what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from verl_ext.data.exemptions import EXEMPTIONS
from verl_ext.data.problems import Exemption
from verl_ext.data.sources import Hub

DEMO_TRAIN, DEMO_VALIDATION = 4096, 512
"""Numbers of problems, as the demo has them."""
STEER = "data folder of zz-haooo/STEER (arXiv 2510.10150)"


@dataclass(frozen=True)
class Known:
    """Contents that were seen and checked: their hash (see `verl_ext.data.text.content_hash`), and whose they are."""

    origin: str
    content_sha256: str


@dataclass(frozen=True)
class Dataset:
    """A data set.

    Attributes:
        name: of the folder and of the configuration's choice.
        title: for people.
        kind: what it is used for.
        template: that is used where none is asked for.
        hub: where it is downloaded; None for what is made here.
        rows: of the hub's files, as the literature has it; None where not known.
        problems: how many different problems it has; None where not known.
        train_problems: how many it has to train on, if these are others.
        numeric: whether every answer is a number. A version with choices A to E is another benchmark.
        solutions: where the problems stand with their solutions; None if nobody trains on those.
        known: contents that were verified. Any other is marked unverified in its manifest.
        note: what one should know before use.
    """

    name: str
    title: str
    kind: Literal["train", "benchmark", "both"]
    template: str
    hub: Hub | None = None
    rows: int | None = None
    problems: int | None = None
    train_problems: int | None = None
    numeric: bool = False
    solutions: Hub | None = None
    known: tuple[Known, ...] = ()
    note: str = ""

    @property
    def verified(self) -> bool:
        return bool(self.known) or self.hub is None

    @property
    def exemptions(self) -> tuple[Exemption, ...]:
        return EXEMPTIONS.get(self.name, ())


_ALL = (
    Dataset(
        "math_l3to5",
        "MATH, levels 3 to 5, as Dr. GRPO trains on",
        "train",
        "qwen_math",
        Hub("hkust-nlp/SimpleRL-Zoo-Data", None, ("simplelr_qwen_level3to5/train.parquet",)),
        rows=8523,
        solutions=Hub(
            "EleutherAI/hendrycks_math",
            "21a5633873b6a120296cce3e2df9d5550074f4a3",
            ("*/train-*.parquet", "*/test-*.parquet"),
        ),
        note=(
            "Dr. GRPO (arXiv 2503.20783) keeps the same problems in datasets/train/math_lvl3to5_8k of its repository, "
            "which --from reads too. Two of them are said to come without an answer: name them in --exemptions."
        ),
    ),
    Dataset(
        "dapo_math_17k",
        "DAPO-Math-17k",
        "train",
        "dapo",
        Hub("BytedTsinghua-SIA/DAPO-Math-17k", None, ("data/dapo-math-17k.parquet",)),
        problems=17_188,
        known=(
            Known(
                f"{STEER}, DAPO-Math-17k.parquet, 17,398 rows",
                "aa4ffc285acd640f33d1e11be4f34ecf71165e1676afb12976a72dd3964717b5",
            ),
        ),
        note="The hub's file repeats every row about a hundred times; a fifth of the problems is in Chinese.",
    ),
    Dataset(
        "aime24",
        "AIME 2024, I and II",
        "benchmark",
        "boxed",
        Hub("HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", ("data/train-*.parquet",)),
        problems=30,
        known=(Known(f"{STEER}, aime24.parquet", "36d023538e1225d1ea6cb6d4fefc30236590bc0069c59b2d92bee85e80f112a6"),),
    ),
    Dataset(
        "aime25",
        "AIME 2025, I and II",
        "benchmark",
        "boxed",
        Hub("opencompass/AIME2025", "a6ad95f611d72cf628a80b58bd0432ef6638f958", ("aime2025-*.jsonl",)),
        problems=30,
        known=(Known(f"{STEER}, aime25.parquet", "159306ee3175c0b9aa228b33842cd02510b2dbef15b2453f903a1d48ada33fe6"),),
    ),
    Dataset(
        "amc23",
        "AMC 12, 2023, the 40 problems with a numerical answer",
        "benchmark",
        "boxed",
        Hub("zwhe99/amc23", None, ("*test*.parquet", "*test*.jsonl")),
        problems=40,
        numeric=True,
        known=(Known(f"{STEER}, amc23.parquet", "4eb91a7eda4fc6dfe38e0042512d6b38ddeef3afee2f7cce2d8c8a4c38b5809d"),),
        note="The half of amc83 that is of 2023.",
    ),
    Dataset(
        "amc83",
        "AMC 12, 2022 (43) and 2023 (40), rewritten by AI-MO so that each answer is a whole number",
        "benchmark",
        "boxed",
        Hub("AI-MO/aimo-validation-amc", "69d78a4a2c840e82d69af6bc742bda09005f6316", ("data/train-*.parquet",)),
        problems=83,
        numeric=True,
        note="NuminaMath's AMC, which papers call AMC or AMC23; its half of 2023 is amc23.",
    ),
    Dataset(
        "math500",
        "MATH-500",
        "benchmark",
        "boxed",
        Hub("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", ("test.jsonl",)),
        problems=500,
        known=(Known(f"{STEER}, math500.parquet", "f512fb14159dac481800915277fa1746e8b5342fdf7b8204a55d675022c7c5de"),),
    ),
    Dataset(
        "minerva",
        "Minerva's problems from MIT courses",
        "benchmark",
        "boxed",
        Hub("zwhe99/simplerl-minerva-math", None, ("*test*.parquet", "*test*.jsonl")),
        problems=272,
        known=(
            Known(f"{STEER}, minerva_math.parquet", "7d4396ae3d641075d6ed4cb8b821a23a75bb148abe3dc2a4a7adceafd9b5790f"),
        ),
    ),
    Dataset(
        "olympiadbench",
        "OlympiadBench, English text-only problems of mathematics",
        "benchmark",
        "boxed",
        Hub("zwhe99/simplerl-OlympiadBench", None, ("*test*.parquet", "*test*.jsonl")),
        problems=675,
        known=(
            Known(
                f"{STEER}, olympiadbench.parquet", "91c7b90188f1d5665c19b72db7e8ebfd94da59c3d5f68091f591fc17ed323f13"
            ),
        ),
    ),
    Dataset(
        "omni_math",
        "Omni-MATH",
        "benchmark",
        "boxed",
        Hub("KbsdJames/Omni-MATH", "40ba231d8f16e29ecd40e6407e2c8640145a8f62", ("data/test-*.parquet",)),
        rows=4428,
        note="Its answers are judged by a language model in its own paper; many are sentences that no rule can verify.",
    ),
    Dataset(
        "hmmt25",
        "HMMT February 2025",
        "benchmark",
        "boxed",
        Hub("MathArena/hmmt_feb_2025", "6fdc4277120810ff75aa22d2d5489b91f7a262a1", ("data/train-*.parquet",)),
        problems=30,
    ),
    Dataset(
        "demo_arithmetic",
        f"the demo's arithmetic: {DEMO_VALIDATION} problems to evaluate on, and {DEMO_TRAIN:,} to train on in a file",
        "both",
        "demo",
        problems=DEMO_VALIDATION,
        train_problems=DEMO_TRAIN,
        note="Made here, from verl_ext.demo.task; the demo's models read no template but demo and plain.",
    ),
)
DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in _ALL}


def dataset(name: str) -> Dataset:
    """A data set by name.

    Raises:
        ValueError: there is none of that name; with the nearest one, or all of them.
    """
    if name not in DATASETS:
        from verl_ext.bridge.driver import nearest

        raise ValueError(f"no data set {name!r}{nearest(name, DATASETS)}")
    return DATASETS[name]
