"""Our contract tests, run against another release in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from drift import ROOT
from drift.releases import Release, environment

# The convention: a test of what upstream is like is named test_contract_..., or stands in a file test_contract.py.
NAMED = re.compile(r"(?m)^\s*(async )?def test_contract")
# Tests with other names that are contracts too: our configurations compose with verl's, and name no key that it lacks.
ALSO = {
    "tests/bridge/test_driver.py": "test_every_preset_runs_its_own_method",
}
# What says something about us, or about a vLLM beside the one in question.
NOT = "other or test_only_a_silent_index or test_both_supported_versions"
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Outcome:
    """How one contract test ended, and the sentence with which it failed or was left out."""

    test: str
    outcome: str
    message: str = ""


def files(root: Path = ROOT) -> list[str]:
    """Test files with contracts, below the project's root."""
    found = [path for path in (root / "tests").rglob("test_*.py") if NAMED.search(path.read_text())]
    found += (root / "tests").rglob("test_contract.py")
    return sorted({path.relative_to(root).as_posix() for path in found} | set(ALSO))


def run(release: Release, limit_s: float = 1800) -> list[Outcome]:
    """Every contract test, with `release` in the place of the installed one.

    Raises:
        RuntimeError: pytest itself could not run; with its last lines.
        subprocess.TimeoutExpired: after `limit_s` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="verl-ext-drift-") as folder:
        python, results = environment(release, Path(folder) / "venv"), Path(folder) / "results.xml"
        chosen = f"({' or '.join(['test_contract', *ALSO.values()])}) and not ({NOT})"
        command = [str(python), "-m", "pytest", "-p", "drift.stand_in", "-k", chosen, f"--junitxml={results}"]
        command += ["--continue-on-collection-errors", "-o", f"cache_dir={ROOT / '.pytest_cache'}", *files()]
        done = subprocess.run(
            command, cwd=ROOT, env=settings(), capture_output=True, text=True, timeout=limit_s, check=False
        )
        if done.returncode not in (0, 1, 2) or not results.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return read(results)


def settings() -> dict[str, str]:
    """This environment without what would put other packages in front."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1", "HF_HUB_OFFLINE": "1"}


def read(results: Path) -> list[Outcome]:
    """The outcomes in pytest's XML report; a file that cannot be imported is one failure."""
    found = []
    for case in ET.parse(results).getroot().iter("testcase"):
        name = "::".join(part for part in (case.get("classname", "").replace(".", "/"), case.get("name", "")) if part)
        troubles = [child for child in case if child.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if troubles:
            found.append(Outcome(name, FAILED, sentence(troubles[0].get("message", ""), troubles[0].text or "")))
        elif skipped is not None:
            reason = re.search(r"Skipped: (.*?)['\"]?\)?$", skipped.text or "")
            found.append(Outcome(name, SKIPPED, reason[1] if reason else skipped.get("message", "")))
        else:
            found.append(Outcome(name, PASSED))
    return found


def sentence(message: str, trace: str) -> str:
    """What went wrong in one line: of the last exception of a program that the test started, if it tells of one."""
    raised = re.findall(r"(?m)^(?:E +)?([\w.]*(?:Error|Exception)\b: .+)$", message) or re.findall(
        r"(?m)^E +([\w.]*(?:Error|Exception)\b: .+)$", trace
    )
    lines = [raised[-1]] if raised else message.strip().splitlines()[:1]
    return lines[0][:300] if lines else "failed"
