"""Stopping on completion order: what a rule decides when wrong answers finish first.

Runs self-consistency through the engine itself, on a backend whose answers take time: lognormal,
and longer by a ratio for right ones, as a long derivation takes. The same seeded requests are shown
to the same rule in the order of submission and in that of completion. Time is that of an event loop
that skips waiting, so hours of latency take seconds.
"""

import asyncio
import random
import selectors
import warnings
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import clopper_pearson, paired_difference
from modicum.testtime.samples import Completion, OrderBiasWarning, Request
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping.beta import BetaStop

P_RIGHT = 0.6
SAMPLES = 40
"""Of a prompt, all of them under way at once."""
CONFIDENCE = 0.95
SPREAD = 0.3
"""Standard deviation of the logarithm of a completion's time: half of them lie within 20 %."""
RATIOS = (1.0, 1.25, 1.5, 2.0)
"""How much longer a right answer takes."""
ORDERS = ("submission", "completion")
PROMPTS, QUICK_PROMPTS = 3000, 150
PROMPTS_AT_ONCE = 50
ERRORS = 3.0
DROP = 0.5


# Time that does not pass -------------------------------------------------------------------------


class _Skipping(selectors.DefaultSelector):
    """Instead of waiting for a time, it is that time."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None:
            self.now += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next thing that is due."""

    def __init__(self) -> None:
        self.skipping = _Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        """Return the seconds of waiting so far."""
        return self.skipping.now


# Answers that take time --------------------------------------------------------------------------


class Delayed:
    """A server: right answers with probability `P_RIGHT`, later by a ratio than wrong ones."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.begun: dict[str, float] = {}

    async def agenerate(self, request: Request) -> Completion:
        """Return the answer of a request's seed after its time."""
        now = asyncio.get_running_loop().time()
        self.begun.setdefault(request.prompt_id, now)
        rng = random.Random(request.seed)
        right = rng.random() < P_RIGHT
        seconds = rng.lognormvariate(0.0, SPREAD) * (self.ratio if right else 1.0)
        await asyncio.sleep(seconds)
        # The number keeps completions apart, as those of a language model are.
        text = f"{rng.getrandbits(32):08x} {'right' if right else 'wrong'}"
        return Completion(text, latency_s=seconds)


def last_word(text: str) -> str:
    """Return the answer of a completion."""
    return text.split()[-1]


@dataclass(frozen=True)
class Outcome:
    """Decisions of one setting, ``R`` prompts.

    Attributes
    ----------
    right_R
        bool; whether the answer was right.
    used_R
        int64; samples that the decision rests on.
    seconds_R
        float64; from the first request to the decision.
    """

    right_R: NDArray[np.bool_]
    used_R: NDArray[np.int64]
    seconds_R: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right_R.mean())


async def _decide(backend: Delayed, order: Any, num_prompts: int, seed: int) -> Outcome:
    strategy = SelfConsistency(
        backend,
        extract=last_word,
        stop=BetaStop(CONFIDENCE),
        max_samples=SAMPLES,
        wave=SAMPLES,
        inflight=PROMPTS_AT_ONCE * SAMPLES,
        prompts_in_flight=PROMPTS_AT_ONCE,
        order=order,
    )
    loop = asyncio.get_running_loop()
    right_R = np.zeros(num_prompts, dtype=np.bool_)
    used_R = np.zeros(num_prompts, dtype=np.int64)
    seconds_R = np.zeros(num_prompts)
    prompts = (f"question {i}" for i in range(num_prompts))
    async with aclosing(strategy.aiter_events(prompts, seed=seed)) as events:
        async for event in events:
            at = int(event.prompt_id)
            if event.kind == "decision":
                seconds_R[at] = loop.time() - backend.begun[event.prompt_id]
                right_R[at] = event.decision.answer == "right"
            elif event.result is not None:
                used_R[at] = event.result.usage.used
    return Outcome(right_R, used_R, seconds_R)


def decide(ratio: float, order: str, num_prompts: int, seed: int) -> Outcome:
    """Run one setting in virtual time.

    Parameters
    ----------
    ratio
        How much longer a right answer takes.
    order
        "submission" or "completion".
    num_prompts
        R.
    seed
        Of the run: the answers of a seed are the same for every ratio and order.
    """
    with warnings.catch_warnings(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        warnings.simplefilter("ignore", OrderBiasWarning)  # it is what is shown here
        return runner.run(_decide(Delayed(ratio), order, num_prompts, seed))


# The report --------------------------------------------------------------------------------------


def _claims(found: dict[tuple[str, float], Outcome]) -> list[Claim]:
    base = found["submission", 1.0]
    changed = sum(
        int((found["submission", ratio].right_R != base.right_R).sum())
        + int((found["submission", ratio].used_R != base.used_R).sum())
        for ratio in RATIOS
    )
    claims = [
        Claim(
            "submission_unchanged",
            "In the order of submission no decision depends on how long answers take.",
            None,
            changed,
            None,
            changed == 0,
            unit="decisions that differ",
            note=f"answers and numbers of samples of {len(base.right_R)} prompts at ratios"
            f" {', '.join(map(str, RATIOS))}, the same seeds",
        )
    ]
    even = paired_difference(found["completion", 1.0].right_R.astype(float), base.right_R)
    claims.append(
        Claim(
            "no_bias_when_times_are_alike",
            "Where all answers take equally long, the order of completion is as good.",
            None,
            even.mean,
            even.interval,
            abs(even.mean) <= ERRORS * even.stderr,
            unit="accuracy",
            note=f"difference to the order of submission, 95 %; holds up to {ERRORS:g} s.e.",
        )
    )
    for ratio in (1.5, 2.0):
        drop = paired_difference(
            base.right_R.astype(float), found["completion", ratio].right_R.astype(float)
        )
        claims.append(
            Claim(
                f"completion_drop_{ratio:g}".replace(".", "_"),
                f"In the order of completion accuracy drops by more than {DROP:g} when right"
                f" answers take {ratio:g} times as long.",
                None,
                drop.mean,
                drop.interval,
                drop.mean - ERRORS * drop.stderr > DROP,
                unit="accuracy",
                note=f"paired by prompt, 95 %; holds if {ERRORS:g} s.e. above {DROP:g}",
            )
        )
    slow = found["submission", 2.0].seconds_R.mean() / found["completion", 2.0].seconds_R.mean()
    claims.append(
        Claim(
            "price_in_time",
            "The order of submission waits for the slowest of a prompt's first samples.",
            None,
            slow,
            None,
            None,
            unit="times as long until the decision",
            note="mean over prompts, ratio 2, all 40 requests of a prompt under way at once",
        )
    )
    return claims


def _table(found: dict[tuple[str, float], Outcome]) -> Table:
    rows = []
    for (order, ratio), outcome in found.items():
        low, high = clopper_pearson(int(outcome.right_R.sum()), len(outcome.right_R))
        rows.append(
            [
                order,
                ratio,
                outcome.accuracy,
                float(low),
                float(high),
                float(outcome.used_R.mean()),
                float(outcome.seconds_R.mean()),
            ]
        )
    columns = ["order", "ratio", "accuracy", "95 % low", "95 % high", "samples", "time"]
    return Table(
        "What the rule decides in either order",
        columns,
        rows,
        f"BetaStop({CONFIDENCE:g}), at most {SAMPLES} samples, p = {P_RIGHT:g}. Time: until the"
        " decision, in medians of a wrong answer's time.",
    )


def _figure(found: dict[tuple[str, float], Outcome]) -> list[Figure]:
    from modicum.testtime import plots

    curves: dict[str, Sequence[Any]] = {}
    for order in ORDERS:
        share = [found[order, ratio].accuracy for ratio in RATIOS]
        size = len(found[order, RATIOS[0]].right_R)
        curves[f"order of {order}"] = (RATIOS, share, [(p * (1 - p) / size) ** 0.5 for p in share])
    try:
        figure = plots.accuracy_curves(
            curves, xlabel="how much longer a right answer takes", logarithmic=False
        )
    except ImportError:
        return []
    return [
        Figure.from_matplotlib(
            figure,
            "Short answers win the race",
            "Accuracy of an early-stopped majority vote whose likeliest answer is right.",
            "One flat line and one that falls to zero",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Decide the same prompts in both orders at every ratio of times."""
    num_prompts = QUICK_PROMPTS if ctx.quick else PROMPTS
    task = ctx.progress(len(ORDERS) * len(RATIOS), "orders and ratios of times")
    found = {}
    for order in ORDERS:
        for ratio in RATIOS:
            found[order, ratio] = decide(ratio, order, num_prompts, ctx.seed)
            task.advance(1)
    return ctx.result(
        claims=_claims(found),
        tables=[_table(found)],
        figures=_figure(found),
        text="Forty requests of a prompt are under way at once, and the rule stops at the first"
        " lead that convinces it. Shown samples as they finish, it sees the quick answers first and"
        " stops before the slow ones arrive; nothing in its own arithmetic can tell. Shown the"
        " contiguous prefix of the requests in the order of submission, it decides as if it had"
        " drawn one sample after the other, and what is still under way then is cancelled.",
    )
