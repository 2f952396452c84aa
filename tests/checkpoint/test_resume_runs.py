"""2k steps at once equal k steps, SIGKILL to every process, and k more; what cannot be resumed from ends the run."""

from __future__ import annotations

from typing import Any

import pytest

from tests.checkpoint import runs
from tests.checkpoint.comparison import differences, loaded
from tests.checkpoint.runs import Family, K

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_resumed_run_began_where_the_killed_one_had_saved(family: Family) -> None:
    assert family.resumed.returncode == 0, family.resumed.tail()
    assert [round(step["training/global_step"]) for step in family.resumed.steps] == [4, 5, 6]


def shards(family: Family, run: str, step: int, kind: str) -> Any:
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return loaded(family.checkpoint(run, step) / f"actor/{kind}_world_size_1_rank_0.pt")


@pytest.mark.parametrize("kind", ["model", "optim"])
def test_weights_and_optimizer_are_equal_to_the_last_bit(family: Family, kind: str) -> None:
    """Both moments of Adam and its step."""
    one, other = (shards(family, run, 2 * K, kind) for run in ("straight", "resumed"))
    assert len(one) > 0
    assert list(differences(one, other)) == []
    assert list(differences(shards(family, "resumed", K, kind), other)) != [], "nothing changed after the checkpoint"


def test_the_learning_rate_schedule_is_equal_and_the_workers_random_state_was_taken_over(family: Family) -> None:
    """Each run seeds its workers anew, and training draws nothing from them: what was saved must be there again."""
    one, other = (shards(family, run, 2 * K, "extra_state") for run in ("straight", "resumed"))
    assert list(differences(one["lr_scheduler"], other["lr_scheduler"])) == []
    assert list(differences(other["rng"], shards(family, "resumed", K, "extra_state")["rng"])) == []
    assert list(differences(one["rng"], other["rng"])) != [], "the runs were not told apart by their random state"


def test_data_order_is_equal_across_the_epoch_border(family: Family) -> None:
    """What each run drew by itself, each prompt as often as it has responses."""
    import torch

    drawn = {
        run: [torch.load(family.folder / run / "prompts" / f"prompts-{step}.pt") for step in steps]
        for run, steps in {"straight": range(1, 7), "killed": range(1, K + 1), "resumed": range(K + 1, 7)}.items()
    }
    assert drawn["straight"] == drawn["killed"] + drawn["resumed"]
    assert len({frozenset(batch) for batch in drawn["straight"]}) == 2 * K
    state = [loaded(family.checkpoint(run) / "data.pt") for run in ("straight", "resumed")]
    assert list(differences(*state)) == []


def test_what_verl_does_not_save_is_equal(family: Family) -> None:
    one, other, before = (
        loaded(family.checkpoint(run, step) / "verl_ext.json")
        for run, step in (("straight", 6), ("resumed", 6), ("resumed", 3))
    )
    assert one["plugin"] == other["plugin"]
    assert one["plugin"]["test_samples"] == {"number": 6}
    assert one["kl_coefficient"] == other["kl_coefficient"]
    assert before["kl_coefficient"] != one["kl_coefficient"] != 0.001


@pytest.mark.parametrize("run", ["straight", "resumed"])
def test_the_trainers_random_numbers_go_on_where_they_were(family: Family, run: str) -> None:
    """One draw of 64 bits, for the iterator of the third epoch, leads from step 3 to step 6, killed or not."""
    import torch

    before, after = (loaded(family.checkpoint(run, step) / "verl_ext.json")["random"] for step in (K, 2 * K))
    generator = torch.Generator()
    generator.set_state(torch.tensor(list(bytes.fromhex(before["torch"])), dtype=torch.uint8))
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    assert generator.get_state().numpy().tobytes().hex() == after["torch"]
    assert (before["python"], before["numpy"]) == (after["python"], after["numpy"])


def test_losses_and_metrics_are_equal(family: Family) -> None:
    one, other = family.straight.steps[K:], family.resumed.steps
    assert len(one) == len(other) == K
    for a, b in zip(one, other, strict=True):
        a, b = runs.figures(a), runs.figures(b)
        assert a.keys() == b.keys()
        assert {"actor/pg_loss", "actor/grad_norm", "actor/lr", "actor/reward_kl_penalty_coeff"} <= a.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], abs=1e-5, nan_ok=True), name
