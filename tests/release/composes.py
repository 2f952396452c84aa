"""Run as a program in an installed wheel's environment: every choice of every config group composes.

Prints RESULT and, for each choice, the fault; and where the package was found.
"""

from __future__ import annotations

import json

import verl  # noqa: F401  (loads the plugin by its entry point)

import verl_ext
from verl_ext.config_groups import config_dir
from verl_ext.recipe_files.recipe import Table, all_tables
from verl_ext.train import compose

GROUPS = ("backend", "cluster", "model", "data", "algo")


def choices() -> list[list[str]]:
    """Lists of choices in which every file of every group stands once or more, and a row of each paper's table."""
    files = {group: sorted(file.stem for file in (config_dir() / group).glob("*.yaml")) for group in GROUPS}
    assert all(files.values()), files
    longest = max(map(len, files.values()))
    found = [[f"{group}={names[i % len(names)]}" for group, names in files.items()] for i in range(longest)]
    rows = [next(row for row in table.rows if row.kind == "train") for table in all_tables() if has_training(table)]
    return found + [[f"experiment={row.reference}"] for row in rows]


def has_training(table: Table) -> bool:
    return any(row.kind == "train" for row in table.rows)


def main() -> None:
    tried, faults = 0, []
    for arguments in choices():
        tried += 1
        try:
            compose(arguments)
        except Exception as error:  # all of them in one list, which the test shows
            faults.append(f"{arguments}: {type(error).__name__}: {error}")
    print("RESULT " + json.dumps({"file": verl_ext.__file__, "tried": tried, "faults": faults}))


if __name__ == "__main__":
    main()
