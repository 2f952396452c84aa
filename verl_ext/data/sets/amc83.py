"""AMC 12, 2022 (43) and 2023 (40), rewritten by AI-MO so that each answer is a whole number."""

from verl_ext.data.dataset import Dataset
from verl_ext.data.sources import Hub

SET = Dataset(
    "amc83",
    "AMC 12, 2022 (43) and 2023 (40), rewritten by AI-MO so that each answer is a whole number",
    "benchmark",
    "boxed",
    Hub("AI-MO/aimo-validation-amc", "69d78a4a2c840e82d69af6bc742bda09005f6316", ("data/train-*.parquet",)),
    problems=83,
    numeric=True,
    note="NuminaMath's AMC, which papers call AMC or AMC23; its half of 2023 is amc23.",
)
