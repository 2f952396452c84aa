"""What the probe's child process runs: a reward function is loaded and called as verl does it.

It imports nothing but the standard library, so that the child costs what the function costs.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import os
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import Any

ROUTER = "reward_router_address"


def probe(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Load the function, and call it for every answer.

    Args:
        asked: ``path`` and ``name`` of the function; ``fixed``, its keyword arguments (``reward_kwargs``), and ``row``,
            those of the row; ``answers``; ``own_thread``, whether verl calls it outside of a main thread; ``router``,
            whether a function that takes a router's address may be called.

    Returns:
        ``lost``, why it cannot be loaded; or ``router``; or ``results``, one for each answer, see `_outcome`.
    """
    try:
        function = load(asked["path"], asked["name"])
    except (Exception, SystemExit) as error:
        return {"lost": _told(error)}
    if not asked["router"] and ROUTER in _parameters(function):
        return {"router": True}
    with asyncio.Runner() as loop, ThreadPoolExecutor(1) as thread:

        def call(answer: str) -> Any:
            arguments = {**asked["row"], "solution_str": answer, **asked["fixed"]}
            if inspect.iscoroutinefunction(function):
                return loop.run(function(**arguments))
            return (
                thread.submit(lambda: function(**arguments)).result() if asked["own_thread"] else function(**arguments)
            )

        return {"results": [_outcome(call, answer) for answer in asked["answers"]]}


def load(path: str, name: str) -> Callable[..., Any]:
    """As ``verl.utils.import_utils.load_extern_object``, whose module takes seconds to import.

    Raises:
        FileNotFoundError, AttributeError: there is no such file, or nothing of that name in it; else whatever the
            module raises.
    """
    if path.startswith("pkg://"):
        module = importlib.import_module(path.removeprefix("pkg://").replace("/", "."))
    else:
        file = path.removeprefix("file://")
        if not os.path.exists(file):
            raise FileNotFoundError(f"there is no file {file}")
        spec = importlib.util.spec_from_file_location(f"custom_module_{hash(os.path.abspath(file))}", file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise AttributeError(f"{path} has no {name}")
    found: Callable[..., Any] = getattr(module, name)
    return found


def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _outcome(call: Callable[[str], Any], answer: str) -> dict[str, Any]:
    """``score`` and ``keys`` of a result that verl accepts, else ``raised`` or ``refused``, a sentence."""
    try:
        result = call(answer)
    except (Exception, SystemExit) as error:
        return {"raised": _told(error)}
    try:
        return _accepted(result)
    except TypeError as error:
        return {"refused": str(error)}


def _accepted(result: Any) -> dict[str, Any]:
    if isinstance(result, dict) and "score" not in result:
        raise TypeError(f"a dict without the key score ({', '.join(map(str, result)) or 'empty'})")
    score = result["score"] if isinstance(result, dict) else result
    what = "a dict whose score is " if isinstance(result, dict) else ""
    # Numbers of numpy and torch are no `Real`, but turn into one.
    number = score.item() if hasattr(score, "item") and getattr(score, "ndim", 0) == 0 else score
    if not isinstance(number, Real):
        raise TypeError(f"{what}{type(score).__name__} {score!r}"[:200])
    if not math.isfinite(number):
        raise TypeError(f"{what}{number}")
    return {"score": float(number), "keys": sorted(map(str, result)) if isinstance(result, dict) else []}


def _told(error: BaseException) -> str:
    """The error, and the last line of somebody's code: neither of this file nor of Python's own library."""
    library = os.path.dirname(os.__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__
        and (not frame.filename.startswith((library, "<frozen")) or "site-packages" in frame.filename)
    ]
    place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error)[:300]}{place}"
