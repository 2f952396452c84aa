"""What the papers say that this study can put to a test.

The regions in which a claim's numbers must lie were written down before the study had results, though after pilots on
the same task (docs/study.md says which); each claim's `how` says them, and stands on the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from verl_ext.study import judging
from verl_ext.study.judging import OPEN, SEEDS, UNTESTABLE, Found, Verdict, Word


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, told in our words, and how the study tests it.

    Attributes:
        key: short name.
        method: whose paper it is.
        paper: arXiv id and section.
        says: the claim, with the paper's number.
        how: what is measured, and what decides.
        needs: methods whose runs it compares.
        models: on which it is tested.
        judge: runs of these methods, with `SEEDS` seeds in common -> verdict.
        without_runs: the verdict while they are missing.
        foregone: whether it holds almost by the method's construction; `how` says why.
    """

    key: str
    method: str
    paper: str
    says: str
    how: str
    needs: tuple[str, ...]
    models: tuple[str, ...]
    judge: Callable[[Found], Verdict]
    without_runs: Word = OPEN
    foregone: bool = False

    def verdict(self, found: Found) -> Verdict:
        """The verdict on one model, "open" where runs are missing."""
        seeds = {name: set(found[name].seeds) if name in found else set() for name in self.needs}
        shared = set.intersection(*seeds.values())
        if len(shared) >= SEEDS:
            return self.judge({name: found[name].only(shared) for name in self.needs})
        there = ", ".join(f"{len(those)} of `{name}`" for name, those in seeds.items())
        missing = f"runs are missing: it takes {SEEDS} seeds in common; there are {there}"
        if not shared:
            return Verdict(self.without_runs, missing)
        so_far = self.judge({name: found[name].only(shared) for name in self.needs})
        return Verdict(self.without_runs, f"{missing}. So far: {so_far.measured}")


BOTH, DENSE = ("tiny_dense", "tiny_moe"), ("tiny_dense",)
GSPOS = (("gspo", "", BOTH), ("gspo_tuned", " (here with the tuned range)", DENSE))
GRPOS = (("grpo", "GRPO"), ("clip_higher", "GRPO with DAPO's clip-higher (the paper's baseline)"))
ESPO, SSPO, TEPO, ERPO = "2512.00499", "2511.04256", "2604.12736", "2603.28204"

CLAIMS = (
    *(
        Claim(
            f"espo-compute-{other}", "ESPO", f"{ESPO}, section 4.2, training performance",
            f"It reaches the score of GSPO{note} with about 70 to 80% of the compute.",
            judging.reaches_how("espo", other, 0.8), ("espo", other), models, judging.reaches("espo", other, 0.8),
        )
        for other, note, models in GSPOS
    ),
    *(
        Claim(
            f"espo-clips-{other}", "ESPO", f"{ESPO}, section 4.2 and figure 5",
            f"It clips about a sixth as much as GSPO{note}, below and above.",
            "Clipped tokens, mean over the steps, as a ratio, below and above. Holds within a factor of two of a sixth "
            "on both sides, that is between 0.083 and 0.333. ESPO was measured with alpha 0.1, five times the 0.02 "
            "of its paper's second version: the ratio moves with it, and with 0.02 a good deal more is clipped.",
            ("espo", other), models, judging.clips_share("espo", other, 1 / 12, 1 / 3),
        )
        for other, note, models in GSPOS
    ),
    Claim(
        "espo-clip-entropy", "ESPO", f"{ESPO}, section 4.2 and figure 4",
        "As its entropy falls during training, its clip fractions rise, below and above.",
        "Spearman's correlation between entropy and clip fraction over the steps of a run. Holds where it is negative "
        "on both sides, whichever way the entropy goes. The changes beside it are the last third of the steps less the "
        "first.",
        ("espo",), BOTH, judging.clips_follow_entropy,
    ),
    Claim(
        "sspo-clips-grpo", "SSPO", f"{SSPO}, section 6.3.2 and figure 3b",
        "It clips substantially fewer tokens than GRPO, which clips the most.",
        "Clipped tokens, both sides, mean over the steps, `sspo` less `grpo`. Holds where it is negative.",
        ("sspo", "grpo"), BOTH, judging.clips_less("sspo", "grpo"),
    ),
    *(
        Claim(
            f"sspo-clips-{other}", "SSPO", f"{SSPO}, section 6.3.2 and figure 3b",
            f"GSPO{note} clips next to nothing, and so less than SSPO.",
            f"Clipped tokens, both sides, mean over the steps, `{other}` less `sspo`. Holds where it is "
            "negative. The paper does not give GSPO's range, on which this depends, and says elsewhere (sections 1 and "
            "4.1) that GSPO clips much.",
            ("sspo", other), models, judging.clips_less(other, "sspo"),
        )
        for other, note, models in GSPOS
    ),
    Claim(
        "sspo-entropy", "SSPO", f"{SSPO}, section 6.3.1 and figure 2",
        "Its entropy falls more slowly than that of GRPO and GSPO and stays higher.",
        "Entropy in the last third of the steps, as differences. Holds where both are positive.",
        ("sspo", "grpo", "gspo"), BOTH, judging.entropy_higher("sspo", ("grpo", "gspo")),
    ),
    *(
        Claim(
            f"tepo-half-{other}", "TEPO", f"{TEPO}, abstract, section 1 and table 4",
            f"It is at its best after 72 steps, where {words} needs 132 to come close: about half.",
            judging.reaches_how("tepo", other, 0.6) + " 72 / 132 is 55%.",
            ("tepo", other), DENSE, judging.reaches("tepo", other, 0.6),
        )
        for other, words in GRPOS
    ),
    *(
        Claim(
            f"tepo-clips-{other}", "TEPO", f"{TEPO}, section 3.3.1 and figure 2a",
            f"Its clip ratio is lower than that of {words}.",
            f"Clipped tokens, both sides, mean over the steps, `tepo` less `{other}`. Holds where it is negative, and "
            "does so almost by construction: TEPO bounds the ratio of the whole sequence, which hardly leaves 1, and "
            "from above only, where the other bounds that of each token, on both sides and as widely.",
            ("tepo", other), DENSE, judging.clips_less("tepo", other), foregone=True,
        )
        for other, words in GRPOS
    ),
    Claim(
        "tepo-collapse", "TEPO", f"{TEPO}, section 4.3 and table 3, panel A",
        "With a KL penalty on every token and beta 1 the model collapses within 24 steps, to an accuracy of 0.",
        "Last accuracy as a share of the one before training. Holds below a half. The paper updates eight times a step "
        "and this study four times, so that the policy leaves the one that the penalty holds it to less far.",
        ("tepo_full_kl", "tepo"), DENSE, judging.collapses,
    ),
    Claim(
        "erpo-entropy", "ERPO", f"{ERPO}, section 4.6 and figure 3b",
        "It keeps an entropy of 0.2 to 0.4 late in training, where GRPO's collapses (to about 0.05).",
        "Entropy in the last third of the steps. Can be tested where GRPO's is below half of its first step's. Holds "
        "where ERPO's is above half of its own and above GRPO's. The models here start far below 0.2 nats, so that "
        "the paper's figures themselves cannot appear.",
        ("erpo", "grpo"), DENSE, judging.prevents_collapse,
    ),
    Claim(
        "erpo-length", "ERPO", f"{ERPO}, section 4.7, figures 4a and 4c",
        "Its answers are a little longer than GRPO's at first and get clearly shorter later on.",
        "No verdict: a right solution of this task has one line an operator, so that only a wrong one can be shorter, "
        "and there is no redundancy to take out. The difference of the mean lengths is given.",
        ("erpo", "grpo"), DENSE, judging.shorter, UNTESTABLE,
    ),
    Claim(
        "erpo-cost", "ERPO", f"{ERPO}, section 4.7 and figure 4b",
        "Training takes about as long as with GRPO, with almost no increase.",
        "Median seconds a step, as a ratio, without the pass through the reference model: the paper's GRPO has it too, "
        "ours has no KL term. Holds at 1.10 and below.",
        ("erpo", "grpo"), DENSE, judging.costs_alike,
    ),
)  # fmt: skip
