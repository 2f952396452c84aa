"""`make mutants`: put each mutant into a copy of the tree, one at a time, and see whether its tests fail.

Exit status 1 if a mutant survives or fits no place, 2 if the tests fail without any.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mutants import MUTANTS, Mutant, apply  # beside this file

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "outputs", "checkpoints", ".*_cache", ".hypothesis")
EVERYTHING = ("tests", "-m", "not ray and not slow")
# pytest's exit status where tests ran and one failed.
FAILED = 1


def run_tests(tree: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """pytest in a copy of the tree, whose package comes before the installed one."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


def verdict(tree: Path, mutant: Mutant) -> str:
    """`killed`, `SURVIVED`, or why the mutant could not be tried."""
    try:
        path, source = apply(mutant, tree)
    except LookupError as error:
        return f"DOES NOT APPLY: {error}"
    try:
        status = run_tests(tree, mutant.tests or EVERYTHING).returncode
    finally:
        path.write_text(source, encoding="utf-8")
    return {0: "SURVIVED", FAILED: "killed"}.get(status, f"NOT TRIED: pytest ended with {status}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants; those whose symbol contains a word that was given, if any was."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants whose symbol contains one of these")
    words = parser.parse_args(arguments).words
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.symbol for word in words)]
    if not chosen:
        parser.error(f"no mutant's symbol contains {' or '.join(words)}")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(shutil.copytree(ROOT, Path(folder) / "tree", ignore=LEFT_OUT))
        named = sorted({test for mutant in chosen for test in mutant.tests})
        sound = run_tests(tree, named if all(mutant.tests for mutant in chosen) else EVERYTHING)
        if sound.returncode:
            print(sound.stdout[-4000:], sound.stderr, "the tests fail without any mutant", sep="\n")
            return 2
        found = []
        for mutant in chosen:
            found.append(verdict(tree, mutant))
            print(f"{found[-1]:8}  {mutant}", flush=True)
    print(f"{found.count('killed')} of {len(found)} mutants killed")
    return int(found.count("killed") < len(found))


if __name__ == "__main__":
    sys.exit(main())
