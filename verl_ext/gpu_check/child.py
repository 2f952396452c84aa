"""One check in a process of its own: ``python -m verl_ext.gpu_check.child NAME DEVICE ANSWER``.

A check may end the process (an illegal memory access ends all of CUDA in it) or hang; neither may touch the others.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from verl_ext.gpu_check.outcome import FAILED, OK, SKIPPED, CheckError, SkipError
from verl_ext.gpu_check.table import CHECKS, Check


def run(check: Check, device: str) -> dict[str, Any]:
    """The check's outcome as plain data, without name and time."""
    try:
        return {"status": OK, "why": "", "figures": check.load()(device)}
    except SkipError as reason:
        return {"status": SKIPPED, "why": str(reason), "figures": {}}
    except CheckError as error:
        return {"status": FAILED, "why": str(error), "figures": {}}
    except Exception as error:  # a check may meet anything, and whatever it is is its outcome
        traceback.print_exc()
        return {"status": FAILED, "why": f"{type(error).__name__}: {error}", "figures": {}}


def main(name: str, device: str, answer: Path) -> None:
    found = run(CHECKS[name], device)
    # In one go: a file that is there is whole.
    part = answer.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.rename(answer)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
