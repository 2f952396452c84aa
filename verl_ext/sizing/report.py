"""A plan for people, and as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from verl_ext.sizing import cost
from verl_ext.sizing.gpus import GIB
from verl_ext.sizing.knobs import MOST_TOGETHER, Knob, together
from verl_ext.sizing.planning import Plan
from verl_ext.sizing.states import trained

MIB = 2**20


def as_data(plan: Plan, gpu: str, knobs: Sequence[Knob]) -> dict[str, Any]:
    """The plan as JSON can hold it; memory in bytes, times in seconds."""
    return {
        "gpu": {"name": gpu, "memory": plan.gpu.memory, "gpus": plan.settings.gpus, "note": plan.gpu.note},
        "model": {
            "name": plan.model.name,
            "source": plan.model.source,
            "unverified": plan.model.unverified,
            "parameters": plan.model.total,
            "active_parameters": plan.model.active,
            "trained_parameters": trained(plan.model, plan.settings),
        },
        "fits": plan.fits,
        "tight": plan.tight,
        "missing": plan.missing,
        "phases": {phase.name: {**phase.parts, "total": phase.total} for phase in plan.phases},
        "host_per_node": {**plan.host, "total": sum(plan.host.values())},
        "rollout": {
            "engines": plan.engine.replicas,
            "cache_tokens": max(0.0, plan.engine.cache) / plan.engine.longest * plan.settings.model_length,
            "longest_sequences_at_once": plan.engine.together,
        },
        "step": {
            "tokens": plan.cost.tokens,
            "operations": plan.cost.operations,
            "seconds": {part: _finite(seconds) for part, seconds in plan.cost.seconds.items()},
            "total_seconds": _finite(plan.cost.total_seconds),
            "gpu_hours": _finite(plan.gpu_hours),
        },
        "knobs": [
            {"setting": knob.setting, "saved": knob.saved, "fits": knob.fits, "price": knob.price} for knob in knobs
        ],
    }


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def show(plan: Plan, gpu: str, knobs: Sequence[Knob], console: Console) -> None:
    """Model, memory of each phase, rollouts, time, and what helps where the memory is scarce."""
    _show_model(plan, gpu, console)
    console.print(_memory(plan))
    _show_rollouts(plan, console)
    _show_step(plan, console)
    host = ", ".join(f"{name} {size / GIB:.1f}" for name, size in plan.host.items() if size)
    console.print(f"host      {host} GiB a node, without the interpreters")
    if plan.fits and not plan.tight:
        console.print("fits")
        return
    for sentence in plan.missing or [f"fits, but {plan.fullest.name} is within 7% of the GPU's memory"]:
        console.print(sentence if plan.fits else f"does not fit: {sentence}")
    _show_knobs(plan, knobs, console)


def _show_model(plan: Plan, gpu: str, console: Console) -> None:
    model, settings = plan.model, plan.settings
    used = f", {model.active:,} for a token" if model.active != model.total else ""
    adapted = f"; LoRA trains {trained(model, settings):,}" if settings.lora_rank else ""
    console.print(f"model     {model.name}: {model.total:,} parameters{used}{adapted}")
    doubt = "; nobody has compared them with the hub's" if model.unverified else ""
    console.print(f"          sizes from {model.source}{doubt}")
    unit = "process(es)" if settings.cpu else f"x {gpu}"
    note = f" ({plan.gpu.note})" if plan.gpu.note else ""
    console.print(f"machines  {settings.gpus} {unit}, {plan.gpu.memory / GIB:.1f} GiB each{note}")


def _memory(plan: Plan) -> Table:
    unit = MIB if plan.settings.cpu else GIB
    title = "MiB of a process" if plan.settings.cpu else "GiB of one GPU"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for phase in plan.phases:
        table.add_column(phase.name, justify="right")
    names = dict.fromkeys(name for phase in plan.phases for name, size in phase.parts.items() if size)
    for name in names:
        table.add_row(name, *(_cell(phase.parts.get(name, 0.0) / unit) for phase in plan.phases))
    table.add_section()
    table.add_row("total", *(f"{phase.total / unit:.2f}" for phase in plan.phases))
    return table


def _cell(size: float) -> str:
    return f"{size:.2f}" if size else ""


def _show_rollouts(plan: Plan, console: Console) -> None:
    one, settings = plan.engine, plan.settings
    console.print(
        f"rollouts  {one.replicas} engine(s); the cache holds "
        f"{max(0.0, one.cache) / one.longest * settings.model_length:,.0f} tokens, "
        f"{one.together:.0f} sequences of {settings.model_length}"
    )


def _show_step(plan: Plan, console: Console) -> None:
    spent = plan.cost
    parts = ", ".join(f"{part} {seconds:.3g}" for part, seconds in spent.seconds.items() if seconds)
    time = f"about {spent.total_seconds:.3g} s ({parts}), {plan.gpu_hours:.3g} GPU-hours"
    if not math.isfinite(spent.total_seconds):
        time = "no time, because no sequence fits into the cache"
    console.print(f"step      {spent.tokens:,.0f} tokens, {sum(spent.operations.values()):.3g} operations; {time}")
    console.print(
        f"          at prompts of {cost.PROMPT_TOKENS} tokens, responses of {cost.RESPONSE_SHARE:.0%} of the longest "
        f"and {cost.TRAIN_EFFICIENCY:.0%} of the peak; take it as the order of magnitude"
    )


def _show_knobs(plan: Plan, knobs: Sequence[Knob], console: Console) -> None:
    if knobs:
        console.print(f"what helps, each alone, on {plan.fullest.name} at {plan.fullest.total / GIB:.1f} GiB:")
    for knob in knobs:
        verdict = "fits" if knob.fits else "not yet enough"
        console.print(f"  - {knob.setting}: {knob.saved / GIB:.1f} GiB less, {verdict}; price: {knob.price}")
    if plan.fits or any(knob.fits for knob in knobs):
        return
    several = together(plan)
    if not several:
        console.print(f"up to {MOST_TOGETHER} settings together do not suffice either: a smaller model, or more GPUs")
        return
    console.print("these together fit:", *(f"  - {knob.setting}; price: {knob.price}" for knob in several), sep="\n")
