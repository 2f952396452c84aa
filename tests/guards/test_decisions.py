"""When a guard fires, and what it decides: numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from verl_ext.run.guards import entropy, nonfinite, verifier
from verl_ext.run.guards.entropy import EntropyWatch, checkpoints_needed
from verl_ext.run.guards.settings import GuardSettings
from verl_ext.run.guards.verifier import Judged, SessionFailures

NAN, INF = math.nan, math.inf
ROWS = ("a_0_0", "a_1_0", "b_0_0")


# --- values that are not finite


def scan(name: str = "advantages") -> list[nonfinite.Finding]:
    """Row 0: NaN at a masked token only. Row 1: sound. Row 2: NaN masked at 0, then -inf and NaN that count."""
    values = torch.tensor([[1.0, NAN, 2.0], [0.0, 0.0, 0.0], [NAN, -INF, NAN]])
    mask = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1]])
    return nonfinite.scan(name, values, mask, ROWS)


def test_values_at_masked_tokens_are_told_apart() -> None:
    first, second = scan()
    assert (first.row, first.counted, first.masked, first.token) == ("a_0_0", 0, 1, 1)
    assert (second.row, second.counted, second.masked, second.token, second.value) == ("b_0_0", 2, 1, 1, -INF)


def test_rewards_count_whatever_the_mask_says() -> None:
    assert [(finding.row, finding.counted, finding.masked) for finding in scan("rm_scores")] == [
        ("a_0_0", 1, 0),
        ("b_0_0", 3, 0),
    ]


def test_a_sound_batch_is_silent() -> None:
    assert nonfinite.scan("advantages", torch.zeros(2, 3), torch.ones(2, 3), ROWS[:2]) == []
    assert nonfinite.in_batch([scan()[0]], GuardSettings(), 1, 0) is None  # masked only


def test_field_rows_and_first_value_are_named() -> None:
    found = nonfinite.in_batch(scan("rm_scores"), GuardSettings(), step=7, skipped=0)
    assert found is not None
    assert (found.guard, found.step, found.action, list(found.rows)) == ("nonfinite", 7, "stop", ["a_0_0", "b_0_0"])
    expected = "rm_scores: 4 values in 2 rows (a_0_0, b_0_0); the first is nan at token 1 of a_0_0"
    assert expected in found.message


def test_more_than_five_rows_are_counted_not_listed() -> None:
    rows = [f"r{row}_0_0" for row in range(7)]
    found = nonfinite.scan("rm_scores", torch.full((7, 1), NAN), torch.ones(7, 1), rows)
    assert "7 values in 7 rows (r0_0_0, r1_0_0, r2_0_0, r3_0_0, r4_0_0 and 2 more)" in nonfinite.explain(found)


@pytest.mark.parametrize(("skipped", "action"), [(0, "skip"), (1, "skip"), (2, "stop")])
def test_skipping_ends_after_the_allowed_number(skipped: int, action: str) -> None:
    settings = GuardSettings(nonfinite_action="skip", nonfinite_max_skipped=2)
    found = nonfinite.in_batch(scan(), settings, 1, skipped)
    assert found is not None
    assert found.action == action
    assert ("2 updates have been skipped already" in found.message) == (action == "stop")


def test_what_an_update_reports_is_looked_at_by_role() -> None:
    metrics = {"actor/loss": 0.5, "actor/grad_norm": NAN, "critic/loss": INF, "perf/mfu/actor": NAN}
    assert list(nonfinite.reported(metrics, "actor", scaled=False)) == ["actor/grad_norm"]
    assert nonfinite.reported(metrics, "critic", scaled=False) == {"critic/loss": INF}
    # In float16 an infinite gradient is how the scale is searched for; a NaN loss is a fault all the same.
    assert nonfinite.reported(metrics, "actor", scaled=True) == {}
    assert nonfinite.reported({"actor/loss": NAN}, "actor", scaled=True).keys() == {"actor/loss"}


def test_an_update_with_nan_points_at_masked_values() -> None:
    found = nonfinite.in_update({"actor/grad_norm": NAN}, [scan()[0]], GuardSettings(), 2, 0)
    assert found is not None
    assert "the update reported actor/grad_norm=nan" in found.message
    assert "there are 1 of advantages: a loss may still read them" in found.message
    assert nonfinite.in_update({}, [], GuardSettings(), 2, 0) is None


# --- entropy

SETTINGS = GuardSettings(entropy_floor=1.0, entropy_steps=2, entropy_action="rollback", entropy_max_rollbacks=1)


def walk(means: dict[int, float], disk: set[int], settings: GuardSettings = SETTINGS) -> tuple[EntropyWatch, list]:
    """Observe the steps in order; rollbacks are carried out."""
    watch = EntropyWatch(settings.entropy_floor or 0, settings.entropy_steps)
    fired = []
    for step, mean in means.items():
        found = entropy.incident(watch, settings, step, mean, disk.__contains__)
        if found is not None:
            fired.append(found)
            if found.action == "rollback":
                watch.rolled_back()
    return watch, fired


def test_the_last_good_checkpoint_is_the_one_measured_in_the_step_after_it() -> None:
    """Saved at every step. Low at 4 and 5: checkpoint 3 is the policy measured at 4, so 2 is the last good one."""
    _, (found,) = walk({1: 3.0, 2: 2.0, 3: 1.0, 4: 0.9, 5: 0.5}, disk={1, 2, 3, 4})
    assert (found.step, found.action, found.figures["checkpoint"], found.figures["began"]) == (5, "rollback", 2, 4)
    assert found.figures["good"] == [1, 2]
    assert "0.5 nats, and has been below 1 since step 4" in found.message
    assert "goes back to checkpoint 2, rollback 1" in found.message


def test_a_checkpoint_of_an_earlier_dip_is_not_good() -> None:
    """Step 3 alone is low: checkpoint 2 is that policy. Steps 5 and 6 complete a streak; 3 is good, 2 never was."""
    watch, (found,) = walk({2: 2.0, 3: 0.5, 4: 2.0, 5: 0.5, 6: 0.5}, disk={1, 2, 3, 4, 5})
    assert found.figures["good"] == [1, 3]
    assert found.figures["checkpoint"] == 3
    assert watch.streak == 0


def test_a_checkpoint_that_was_removed_is_passed_over() -> None:
    disk = {1, 2, 3}
    watch, _ = walk({2: 2.0, 3: 2.0, 4: 2.0}, disk)
    assert watch.good == [1, 2, 3]
    disk.remove(3)
    assert watch.last_good(disk.__contains__) == 2
    assert watch.last_good(lambda step: False) is None


def test_without_a_good_checkpoint_the_run_stops_and_says_so() -> None:
    _, (found,) = walk({1: 0.5, 2: 0.4}, disk={1})
    assert (found.action, found.figures["checkpoint"]) == ("stop", None)
    assert "no checkpoint to go back to" in found.message


def test_after_the_allowed_rollbacks_the_run_stops() -> None:
    _, fired = walk({2: 2.0, 3: 0.5, 4: 0.5, 5: 2.0, 6: 0.5, 7: 0.5}, disk={1, 2, 3, 4, 5, 6})
    assert [(found.step, found.action) for found in fired] == [(4, "rollback"), (7, "stop")]
    assert "1 rollbacks have been made, all that entropy_max_rollbacks allows" in fired[1].message


def test_a_warning_is_given_once_a_streak_and_the_floor_itself_is_not_low() -> None:
    settings = GuardSettings(entropy_floor=1.0, entropy_steps=2)
    _, fired = walk({1: 1.0, 2: 0.9, 3: 0.9, 4: 0.9, 5: 1.0, 6: 0.9, 7: NAN}, set(), settings)
    assert [(found.step, found.action) for found in fired] == [(3, "warn"), (7, "warn")]  # NaN is low


def test_the_watch_goes_on_where_it_was_after_a_resume() -> None:
    means = {1: 2.0, 2: 2.0, 3: 0.5}
    watch, _ = walk(means, {1, 2})
    again = EntropyWatch(1.0, 2)
    again.load_state_dict(watch.state_dict())
    assert again == watch
    assert again.observe(4, 0.5, {1, 2}.__contains__)
    assert again.last_good({1, 2}.__contains__) == 1


@pytest.mark.parametrize(("steps", "save_freq", "needed"), [(1, 1, 2), (3, 1, 4), (3, 2, 3), (4, 2, 3), (5, 10, 2)])
def test_checkpoints_that_must_be_kept(steps: int, save_freq: int, needed: int) -> None:
    """3 low steps 5, 6, 7, saved at each: 4, 5, 6 are not good, so 3 is the 4th from the end."""
    assert checkpoints_needed(steps, save_freq) == needed


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("save_freq", [1, 2, 3, 4])
def test_as_many_checkpoints_as_needed_always_leave_a_good_one(steps: int, save_freq: int) -> None:
    """By trying every step at which the streak can begin, keeping only the newest `needed` checkpoints."""
    settings = GuardSettings(entropy_floor=1.0, entropy_steps=steps, entropy_action="rollback")
    needed, too_few = checkpoints_needed(steps, save_freq), False
    for began in range(3 * save_freq + 2, 3 * save_freq + 2 + 4 * save_freq):
        watch, saved = EntropyWatch(1.0, steps), []
        for step in range(1, began + steps):
            found = entropy.incident(watch, settings, step, 2.0 if step < began else 0.5, saved[-needed:].__contains__)
            if found is None and step % save_freq == 0:
                saved.append(step)
        assert found is not None
        assert found.action == "rollback"
        assert found.figures["checkpoint"] <= began - 2
        too_few |= not [step for step in saved[-(needed - 1) :] if step <= began - 2]
    assert too_few, "one fewer would do: the refusal is too strict"


# --- verifier


def test_failed_sessions_errors_and_timeouts_are_counted_together() -> None:
    """Asked for 8. a: 4 sessions came back, b: 2; so 2 failed. 1 error and 1 timeout: (2 + 1 + 1) / 8 = 0.5."""
    keys = ["a_0_0", "a_1_0", "a_2_0", "a_3_0", "b_0_0", "b_1_0"]
    outcomes = ["correct", "wrong", "error", "correct", "timeout", "unparsable"]
    verdicts = [{"outcome": outcome, "detail": f"saw {outcome}"} for outcome in outcomes]
    judged = verifier.judge(keys, verdicts, expected=8)
    assert (judged.failed, judged.unjudged, judged.share) == (2, 4, 0.5)
    assert list(judged.concerned) == ["a_2_0", "b_0_0"]
    assert not verifier.over(judged, 0.5)
    assert verifier.over(judged, 0.49)
    text = judged.explain(["KeyError: 'x'", "KeyError: 'x'"])
    assert "4 of 8 sessions have no judgement (2 failed, 1 error, 1 timeout)" in text
    assert text.splitlines()[1] == "  - 2 x KeyError: 'x'"


def test_a_session_of_several_rows_is_one_session() -> None:
    verdicts = [{"outcome": "error"}, {"outcome": "error"}, {"outcome": "correct"}]
    judged = verifier.judge(["a_0_0", "a_0_1", "a_1_0"], verdicts, 2)
    assert (judged.failed, judged.unjudged, judged.share) == (0, 1, 0.5)


def test_a_reward_function_without_outcomes_counts_failed_sessions_only() -> None:
    judged = verifier.judge(["a_0_0"], [{"acc": 1.0}], 4)
    assert (judged.failed, judged.unjudged, judged.share) == (3, 3, 0.75)


def test_more_rows_than_asked_for_are_no_negative_failures() -> None:
    judged = verifier.judge(["a_0_0", "a_1_0"], [{}, {}], 1)
    assert (judged.expected, judged.failed, judged.share) == (2, 0, 0)


@pytest.mark.parametrize(
    ("failed", "action", "streak", "expected"),
    [
        (4, "warn", 1, None),
        (5, "warn", 1, "warn"),
        (5, "warn", 2, None),
        (5, "stop", 2, "stop"),
        (8, "warn", 3, "stop"),
    ],
)
def test_actions_of_the_verifier_guard(failed: int, action: str, streak: int, expected: str | None) -> None:
    """Of 8 sessions, limit 0.5: 4 are at it, 5 over it, and 8 are all there are, which always stops."""
    settings = GuardSettings(verifier_action=action)
    found = verifier.incident(Judged(8, failed, {}), ["KeyError: 'x'"], settings, 3, streak, "score of r.py")
    assert (found.action if found else None) == expected
    if found:
        assert "KeyError: 'x'" in found.message
        assert "score of r.py" in found.message


def test_a_limit_of_one_still_stops_where_nobody_judged_anything() -> None:
    settings = GuardSettings(verifier_error_share=1)
    assert verifier.incident(Judged(8, 7, {}), [], settings, 3, 1, "r") is None
    found = verifier.incident(Judged(8, 8, {}), [], settings, 3, 1, "r")
    assert found is not None
    assert found.action == "stop"


def test_no_limit_no_incident() -> None:
    settings = GuardSettings(verifier_error_share=None)
    assert verifier.incident(Judged(8, 8, {}), [], settings, 3, 1, "r") is None


# --- groups that fail one after the other


def failing(*uids: str) -> dict[str, list[str]]:
    return {uid: [f"ValueError: {uid}"] for uid in uids}


def test_groups_that_fail_in_a_row_stop_the_run_and_refilled_ones_are_counted_once() -> None:
    watch = SessionFailures(3, "score of r.py")
    watch.observe(failing("a"), [], 2, validation=False)
    watch.observe(failing("a", "b"), [], 2, validation=False)  # a is still there
    assert watch.observe({}, [], 2, validation=False) is None  # both were replaced
    message = watch.observe(failing("c"), [], 1, validation=False)
    assert message is not None
    assert "3 groups in a row" in message
    assert "1 x ValueError: a" in message
    assert "score of r.py" in message


def test_a_group_that_comes_back_starts_the_count_again() -> None:
    """Also where the groups that failed before it are still to be seen, as they are without a refill."""
    watch = SessionFailures(3, "r")
    assert watch.observe(failing("a", "b"), [], 2, validation=False) is None
    assert watch.observe(failing("a", "b"), ["c"], 1, validation=False) is None
    assert watch.observe(failing("a", "b", "d", "e"), ["c"], 1, validation=False) is None  # d and e
    assert watch.observe(failing("f"), ["g"], 1, validation=False) is None  # g is new: none
    assert watch.observe(failing("h", "i"), ["g"], 1, validation=False) is None
    assert watch.observe(failing("j"), ["g"], 1, validation=False)  # h, i and j


def test_a_group_of_which_a_part_came_back_has_not_failed() -> None:
    watch = SessionFailures(1, "r")
    assert watch.observe(failing("a"), ["a"], 0, validation=False) is None
    assert watch.take() == ["ValueError: a"]
    assert watch.take() == []


def test_in_validation_one_sound_group_is_enough() -> None:
    watch = SessionFailures(1, "r")
    assert watch.observe(failing("a", "b"), ["c"], 0, validation=True) is None
    assert watch.observe(failing("a", "b"), [], 1, validation=True) is None
    assert "2 groups of validation" in (watch.observe(failing("a", "b"), [], 0, validation=True) or "")
    assert watch.take() == []
