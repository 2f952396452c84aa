"""What `verl-ext doctor entropies` does: the engine's log-probs and entropies against those of transformers."""

from __future__ import annotations

from rich.console import Console

from verl_ext.engine_failure import EngineError
from verl_ext.entropy_check import reference
from verl_ext.entropy_check.compare import compare
from verl_ext.entropy_check.engine import Answer, run_engine
from verl_ext.entropy_check.report import Report, as_json, show
from verl_ext.entropy_check.request import Prepared, Request, RequestError, cause, limits_for, prepare
from verl_ext.platform import cpu


def run(request: Request, console: Console) -> int:
    """Check, print, and return the exit status.

    Returns:
        0 if all differences are within the limits, 1 if not or if the engine answers without entropies, 2 if nothing
        could be compared.
    """
    errors = Console(stderr=True)
    # Where there is no accelerator this is what a run with +backend=cpu does, in this process and its children.
    cpu.choose_from_command_line(["backend=cpu"])
    try:
        prepared = prepare(request)
        with errors.status("the engine generates"):
            answer = run_engine(prepared.job)
        with errors.status("transformers computes the same tokens"):
            report = judge(request, prepared, answer)
    except (RequestError, EngineError) as error:
        untapped = isinstance(error, EngineError) and error.untapped
        what = "the engine answers without entropies" if untapped else "nothing could be compared"
        errors.print(f"entropy-check: {what}\n  {error}", markup=False, highlight=False, soft_wrap=True)
        return 1 if untapped else 2
    if request.as_json:
        print(as_json(report))
    else:
        show(report, console)
    return 0 if report.ok else 1


def judge(request: Request, prepared: Prepared, answer: Answer) -> Report:
    """The reference pass over what the engine generated, and the comparison."""
    job = prepared.job
    limits = limits_for(request, answer.dtype)
    try:
        model = reference.load(request.model, answer.dtype)
        rows = [
            compare(temperature, responses, list(model.values(job.prompts, responses, temperature)), limits)
            for temperature, responses in zip(job.temperatures, answer.responses, strict=True)
        ]
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise RequestError(f"transformers cannot load or compute {request.model}: {cause(error)}") from error
    return Report(job, answer, model.precision, model.parameters, prepared.tokenizer, prepared.vocabulary, rows)
