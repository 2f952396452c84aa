"""Losses and estimators for the battery: a correct one of each, and copies of it with one planted fault."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MODES = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean")


class CorrectLoss:
    """PPO's clipped term, with every care that the battery asks for; a fault overrides one method."""

    def __call__(
        self,
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: Any = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        mask = response_mask.bool()
        self.check(loss_agg_mode)
        with self.precision():
            new, old = self.keep(log_prob, mask), self.keep(old_log_prob, mask).detach()
            adv = self.keep_advantages(advantages, mask)
            d = self.bounded(self.distorted(new - old, mask))
            self.lower, self.upper = 1 - config.clip_ratio_low, 1 + config.clip_ratio_high
            term = self.term(d.exp(), adv)
            if rollout_is_weights is not None:
                term = term * self.weights(self.keep(rollout_is_weights, mask).detach())
            loss = self.aggregated(term, mask, loss_agg_mode, dict(config.global_batch_info))
            return loss, self.metrics({"kl": -(new - old).detach().clamp(-20, 20).sum(), "adv": adv.detach().sum()})

    def check(self, mode: str) -> None:
        assert mode in MODES

    def precision(self) -> Any:
        return torch.autocast("cpu", enabled=False)

    def keep(self, values: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, values.float(), 0.0)

    def keep_advantages(self, values: Tensor, mask: Tensor) -> Tensor:
        return self.keep(values, mask).detach()

    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        """A place for faults that vanish on-policy: d + c d^2."""
        return d

    def bounded(self, d: Tensor) -> Tensor:
        return d.clamp(-20, 20)

    def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
        return torch.minimum(ratio * adv, ratio.clamp(self.lower, self.upper) * adv)

    def weights(self, weights: Tensor) -> Tensor:
        return weights

    def row_sums(self, values: Tensor) -> Tensor:
        return values.sum(dim=-1)

    def aggregated(self, term: Tensor, mask: Tensor, mode: str, info: dict[str, Any]) -> Tensor:
        rows = self.row_sums(term)
        if mode == "seq-mean-token-mean":
            rows = rows / mask.sum(dim=-1).clamp(min=1)
        divisor = {
            "token-mean": max(info["batch_num_tokens"], 1),
            "token-sum": 1,
            "seq-mean-token-sum": info["global_batch_size"],
            "seq-mean-token-sum-norm": info["global_batch_size"] * info["loss_scale_factor"],
            "seq-mean-token-mean": info["global_batch_size"],
        }[mode]
        return -rows.sum() / divisor * info["dp_size"]

    def metrics(self, found: dict[str, Tensor]) -> Any:
        return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))


# Columns that compare with the declared clip form; what changes the objective off-policy fails them too.
DECLARED = ("off_policy", "clipping")
FAULTS: dict[str, tuple[type[CorrectLoss], set[str]]] = {}


def fault(*columns: str) -> Callable[[type[CorrectLoss]], type[CorrectLoss]]:
    """A faulty loss and the columns that have to fail: these, and no other."""

    def add(loss: type[CorrectLoss]) -> type[CorrectLoss]:
        FAULTS[loss.__name__] = (loss, set(columns))
        return loss

    return add


@fault("micro_batches", *DECLARED)
class DependsOnTheNumberOfRows(CorrectLoss):
    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        return d + 0.02 * mask.any(dim=-1).sum() * d.square()


@fault("micro_batches", *DECLARED)
class AddsToTheValueWithTheRows(CorrectLoss):
    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        self.extra = 0.2 * mask.any(dim=-1).sum() * d.detach().clamp(-20, 20).square()
        return d

    def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
        return super().term(ratio, adv) + self.extra


@fault("micro_batches", *DECLARED)
class CentresTheRatiosOverTheCall(CorrectLoss):
    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, d - d.detach().clamp(-20, 20).sum() / mask.sum().clamp(min=1), 0.0)


@fault("padding", *DECLARED)
class DependsOnTheWidth(CorrectLoss):
    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        return d + 0.02 * mask.shape[-1] * d.square()


# What does not change when a batch is cut into single rows cannot depend on their order; hence two columns.
@fault("micro_batches", "row_order", *DECLARED)
class DependsOnTheRowNumber(CorrectLoss):
    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        return d + 0.02 * torch.arange(len(d)).unsqueeze(-1) * d.square()


@fault("masked_tokens")
class MultipliesByTheMask(CorrectLoss):
    def keep_advantages(self, values: Tensor, mask: Tensor) -> Tensor:
        return values.float().detach() * mask


@fault("masked_tokens", "extreme_values")
class MultipliesLogProbsByTheMask(CorrectLoss):
    def keep(self, values: Tensor, mask: Tensor) -> Tensor:
        return values.float() * mask


@fault("masked_tokens")
class CountsMaskedTokensInItsMetrics(CorrectLoss):
    def keep_advantages(self, values: Tensor, mask: Tensor) -> Tensor:
        self.everything = values.float()
        return super().keep_advantages(values, mask)

    def metrics(self, found: dict[str, Tensor]) -> Any:
        return super().metrics({**found, "adv": self.everything.detach().sum()})


@fault("masked_tokens")
class LetsGreatNumbersIn(CorrectLoss):
    def keep(self, values: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask | (values >= 1e6) | values.isinf(), values.float(), 0.0)

    def bounded(self, d: Tensor) -> Tensor:
        return d.nan_to_num(0, 0, 0).clamp(-20, 20)


@fault("empty_rows")
class DividesByNoTokens(CorrectLoss):
    def aggregated(self, term: Tensor, mask: Tensor, mode: str, info: dict[str, Any]) -> Tensor:
        guarded = super().aggregated(term, mask, mode, info)
        return guarded * info["batch_num_tokens"] / torch.tensor(info["batch_num_tokens"])


@fault("empty_rows", "host_syncs")
class ReturnsAConstantForNoTokens(CorrectLoss):
    def aggregated(self, term: Tensor, mask: Tensor, mode: str, info: dict[str, Any]) -> Tensor:
        return super().aggregated(term, mask, mode, info) if mask.any() else torch.zeros(())


@fault("extreme_values", *DECLARED)
class Overflows(CorrectLoss):
    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        return d + d.square()

    def bounded(self, d: Tensor) -> Tensor:
        return d


@fault("on_policy", *DECLARED)
class DetachesHalfOfTheRatio(CorrectLoss):
    def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
        return super().term((ratio + ratio.detach()) / 2, adv)


@fault("on_policy", *DECLARED)
class AddsAConstant(CorrectLoss):
    def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
        return super().term(ratio, adv) + adv


@fault("on_policy", "sign", *DECLARED)
class Descends(CorrectLoss):
    def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
        return super().term(ratio, -adv)


@fault("on_policy", "sign", *DECLARED)
class LearnsNothing(CorrectLoss):
    def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
        return super().term(ratio.detach() + 0 * ratio, adv)


def planted(term: Callable[[Tensor, Tensor, float, float], Tensor]) -> type[CorrectLoss]:
    """The loss with another term; `term(ratio, adv, lower, upper)`."""

    class Planted(CorrectLoss):
        def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
            return term(ratio, adv, self.lower, self.upper)

    Planted.__name__ = term.__name__
    return fault("clipping")(Planted)


@planted
def takes_the_maximum(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    return torch.maximum(ratio * adv, ratio.clamp(lower, upper) * adv)


@planted
def takes_the_maximum_where_the_advantage_is_negative(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    bounded = ratio.clamp(lower, upper) * adv
    return torch.where(adv < 0, torch.maximum(ratio * adv, bounded), torch.minimum(ratio * adv, bounded))


@planted
def ignores_the_sign(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    return ratio.clamp(lower, upper) * adv


@planted
def clips_the_upper_side_of_both_signs(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    return torch.minimum(ratio, ratio.clamp(lower, upper)) * adv


@planted
def swaps_the_widths(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    return torch.minimum(ratio * adv, ratio.clamp(2 - upper, 2 - lower) * adv)


@planted
def has_no_lower_bound(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    return torch.minimum(ratio * adv, ratio.clamp(max=upper) * adv)


@planted
def clips_the_value_alone(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    value = torch.minimum(ratio * adv, ratio.clamp(lower, upper) * adv)
    return value.detach() + (ratio - ratio.detach()) * adv


@planted
def clips_the_gradient_alone(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    gradient = torch.minimum(ratio * adv, ratio.clamp(lower, upper) * adv)
    return (ratio * adv).detach() + gradient - gradient.detach()


@planted
def clips_not_at_all(ratio: Tensor, adv: Tensor, lower: float, upper: float) -> Tensor:
    return ratio * adv


@fault("off_policy")
class LeavesTheRatioOutOfTheGradient(CorrectLoss):
    """Within the bounds the gradient is A in place of r A; the value is right, and so is everything beyond."""

    def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
        inside = (ratio >= self.lower) & (ratio <= self.upper)
        return super().term(torch.where(inside, ratio.detach() + ratio.log() - ratio.log().detach(), ratio), adv)


@fault("constants")
class PassesGradientToAdvantages(CorrectLoss):
    def keep_advantages(self, values: Tensor, mask: Tensor) -> Tensor:
        return self.keep(values, mask)


@fault("low_precision")
class ComputesInTheInputsFormat(CorrectLoss):
    def keep(self, values: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, values, 0.0)


@fault("low_precision")
class SumsByMatmulUnderAutocast(CorrectLoss):
    def precision(self) -> Any:
        return torch.enable_grad()

    def row_sums(self, values: Tensor) -> Tensor:
        return (values @ torch.ones(values.shape[-1], 1)).squeeze(-1)


@fault("determinism", *DECLARED)
class DrawsRandomNumbers(CorrectLoss):
    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        return d + 0.2 * torch.rand(()) * d.square()


@fault("determinism")
class CountsItsCalls(CorrectLoss):
    calls = 0

    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        self.calls += 1
        return d + 1e-6 * (self.calls % 2) * d.square()  # far below what other columns see


@fault("determinism")
class ChangesItsInputs(CorrectLoss):
    def keep_advantages(self, values: Tensor, mask: Tensor) -> Tensor:
        kept = self.keep(values, mask).detach()
        values.detach()[mask.cumsum(dim=-1) > 3] = 0.0
        return kept


@fault("determinism")
class CleansItsInputs(CorrectLoss):
    def keep_advantages(self, values: Tensor, mask: Tensor) -> Tensor:
        values.detach()[~mask] = 0.0
        return super().keep_advantages(values, mask)


@fault("metrics")
class ReturnsTensors(CorrectLoss):
    def metrics(self, found: dict[str, Tensor]) -> Any:
        return found


@fault("metrics")
class LeavesKeysOut(CorrectLoss):
    def metrics(self, found: dict[str, Tensor]) -> Any:
        return {key: value for key, value in super().metrics(found).items() if value != 0}


@fault("metrics")
class ReturnsNaN(CorrectLoss):
    def metrics(self, found: dict[str, Tensor]) -> Any:
        return super().metrics({**found, "share": found["kl"] / found["kl"]})


@fault("rollout_weights")
class IgnoresWeights(CorrectLoss):
    def weights(self, weights: Tensor) -> Tensor:
        return torch.ones_like(weights)


@fault("rollout_weights")
class SquaresWeights(CorrectLoss):
    def weights(self, weights: Tensor) -> Tensor:
        return weights.square()


@fault("aggregation")
class IgnoresTheMode(CorrectLoss):
    def aggregated(self, term: Tensor, mask: Tensor, mode: str, info: dict[str, Any]) -> Tensor:
        return super().aggregated(term, mask, "token-mean", info)


@fault("aggregation")
class TakesTheSumForTheMean(CorrectLoss):
    def aggregated(self, term: Tensor, mask: Tensor, mode: str, info: dict[str, Any]) -> Tensor:
        return super().aggregated(term, mask, mode.replace("seq-mean-token-mean", "seq-mean-token-sum"), info)


@fault("aggregation", "micro_batches")
class IgnoresTheRanks(CorrectLoss):
    def aggregated(self, term: Tensor, mask: Tensor, mode: str, info: dict[str, Any]) -> Tensor:
        return super().aggregated(term, mask, mode, {**info, "dp_size": 1})


@fault("aggregation")
class RefusesWithoutAName(CorrectLoss):
    def check(self, mode: str) -> None:
        if mode == "token-sum":
            raise ValueError("this aggregation is not supported")


@fault("host_syncs")
class MovesEachMetricAlone(CorrectLoss):
    def metrics(self, found: dict[str, Tensor]) -> Any:
        return {key: value.item() for key, value in found.items()}


@fault("host_syncs")
class AsksWhetherAnyTokenIsThere(CorrectLoss):
    def aggregated(self, term: Tensor, mask: Tensor, mode: str, info: dict[str, Any]) -> Tensor:
        return super().aggregated(term, mask, mode, info) if mask.any() else term.sum()


class Refuses(CorrectLoss):
    """Accepts one aggregation and names the ones that it refuses, which is allowed."""

    def check(self, mode: str) -> None:
        if mode != "seq-mean-token-mean":
            raise ValueError(f"loss_agg_mode={mode} is not possible; set it to seq-mean-token-mean")


class PolicyGradient(CorrectLoss):
    """-A * log_prob: another value than -A on-policy, which is allowed."""

    def distorted(self, d: Tensor, mask: Tensor) -> Tensor:
        return d

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        kwargs["old_log_prob"] = torch.zeros_like(kwargs["old_log_prob"])
        return super().__call__(*args, **kwargs)

    def bounded(self, d: Tensor) -> Tensor:
        self.log_prob = d
        return d.detach()

    def term(self, ratio: Tensor, adv: Tensor) -> Tensor:
        return self.log_prob * adv


class CorrectEstimator:
    """A z-score within each prompt; a fault overrides one method."""

    def __call__(
        self, token_level_rewards: Tensor, response_mask: Tensor, index: Any, config: Any = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        rewards = self.read(token_level_rewards).sum(dim=-1).double()
        advantages = torch.zeros_like(rewards)
        for prompt in self.prompts(list(index)):
            rows = [row for row, name in enumerate(index) if name == prompt and self.counts(response_mask[row])]
            if rows:
                advantages[rows] = self.scored(rewards[rows])
        result = self.spread_out(self.finished(advantages, response_mask).float(), response_mask.bool())
        return result, self.returns(result)

    def returns(self, advantages: Tensor) -> Tensor:
        return advantages

    def read(self, rewards: Tensor) -> Tensor:
        return rewards.detach()

    def prompts(self, index: list[str]) -> list[str]:
        return sorted(set(index))

    def counts(self, mask: Tensor) -> bool:
        return bool(mask.any())

    def scored(self, rewards: Tensor) -> Tensor:
        if len(rewards) < 2 or rewards.max() == rewards.min():
            return torch.zeros_like(rewards)
        return (rewards - rewards.mean()) / (rewards.std() + 1e-6)

    def finished(self, advantages: Tensor, mask: Tensor) -> Tensor:
        return advantages

    def spread_out(self, advantages: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, advantages.unsqueeze(-1), 0.0)


class ReadsTheNamesOfPrompts(CorrectEstimator):
    def prompts(self, index: list[str]) -> list[str]:
        return [name for name in sorted(set(index)) if "prompt" in name]


class DividesRounding(CorrectEstimator):
    def scored(self, rewards: Tensor) -> Tensor:
        rewards = rewards.float()
        return (
            ((rewards - rewards.mean()) / (rewards.std() + 1e-6)).double() if len(rewards) > 1 else 0 * rewards.double()
        )


class DividesByNoDegreesOfFreedom(CorrectEstimator):
    def counts(self, mask: Tensor) -> bool:
        return True  # or a masked row would leave another one alone

    def scored(self, rewards: Tensor) -> Tensor:
        return super().scored(rewards) if len(rewards) > 1 else rewards / 0


class CountsPaddingRows(CorrectEstimator):
    def finished(self, advantages: Tensor, mask: Tensor) -> Tensor:
        return advantages / len(advantages)


class LeavesTheMaskOut(CorrectEstimator):
    def spread_out(self, advantages: Tensor, mask: Tensor) -> Tensor:
        return advantages.unsqueeze(-1).expand(mask.shape).clone() * mask.any(dim=-1, keepdim=True)


class CarriesGradient(CorrectEstimator):
    def read(self, rewards: Tensor) -> Tensor:
        return rewards


class ReturnsOverflow(CorrectEstimator):
    def returns(self, advantages: Tensor) -> Tensor:
        return advantages / 0


ESTIMATOR_FAULTS: dict[type[CorrectEstimator], set[str]] = {
    ReadsTheNamesOfPrompts: {"group_order"},
    DividesRounding: {"zero_spread"},
    DividesByNoDegreesOfFreedom: {"singleton", "finite"},
    CountsPaddingRows: {"padding_rows"},
    LeavesTheMaskOut: {"outside_mask"},
    CarriesGradient: {"no_gradient"},
    ReturnsOverflow: {"finite"},
}
