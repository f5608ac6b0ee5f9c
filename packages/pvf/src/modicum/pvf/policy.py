"""How many drafts to use, found out while decoding: as many as save time on this device.

A `Policy` learns two things by themselves: what a call takes by what it processes, and how much
each number of drafts processes and commits in a call. From both follow the tokens per second of
every number of drafts for the batch as it is; the fastest is used, and others are tried while what
trying them has lost stays a small share of the time. `AutoPVF` is plan-verify-fill under it.

Shapes: N sequences, R rows of a proposal, H columns of the horizon.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from modicum.pvf.advice import CallCosts, settings_of
from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.base import Proposal, View
from modicum.pvf.strategies.one_row import Threshold
from modicum.pvf.strategies.plan_verify_fill import PVF
from modicum.pvf.validation import check_count, check_probability

__all__ = ["AutoPVF", "Policy"]

_MOST_PROBES = 10
"""Calls by which a number of drafts is measured where calls vary too much to tell by fewer."""

_SIGMAS = 2.0
"""Standard errors that a call's cost may lie above what would pay, and be measured again."""

_ODD = 1.5
"""A first call that takes more than so many times what its rows would take one by one is doubted:
the first of a size may be slow for reasons of its own."""

_DEAR = 1.3
"""What is not measured: expected to take more than so many times the best one's time at least."""

_PROBE_EVERY = 100
"""Calls after which a number of drafts that was not used is measured by one call."""

_HOPE = 0.5
"""Standard errors by which a number of drafts may be better than it seems, and is tried."""

_VARIATION = 0.4
"""Relative standard deviation of the tokens of a call, about what `modicum.pvf.testing` has."""

_GUESS_CALLS = 12
"""Calls that the guess of a number of drafts' yield counts for."""

_MOST_CALLS = 2_000
"""When a number of drafts has so many calls, what is known of it counts half: it may change."""

_AGE = 8
"""Calls after which what is expected is worked out anew for the account of what was lost."""

_MOST_SHAPES = 64
"""Batches, by sequences and length, for which expectations are kept."""

_TRIES = 0.25
"""Probability of trying something else where it may be: by chance, so as not to keep step with
what makes some blocks easier than others."""

_OPTION, _CHOSEN, _BLOCK, _COUNTS, _LENGTH = range(5)
"""Columns of what `AutoPVF` keeps of every sequence."""

_NONE = -1


def guessed_gain(num_drafts: int) -> float:
    """Guess how many times as many tokens as without drafts a call commits, 1 + 0.6 sqrt(k).

    The published numbers of calls with three drafts are 1.8 to 2.9 times fewer than those of
    threshold decoding (Li et al., arXiv 2601.12247, Table 1): the guess, 2.04, is at the low end.
    """
    return 1 + 0.6 * math.sqrt(num_drafts)


class _Yield:
    """What one number of drafts has processed and committed so far."""

    def __init__(self, num_drafts: int) -> None:
        self.rows = num_drafts + 1
        self.blocks = 0.0
        self.calls = 0.0
        self.tokens = 0.0
        # Calls by the canvases that they processed for a sequence.
        self.sizes: dict[float, float] = {}

    def add(self, tokens: int, calls: int) -> None:
        """Take in tokens that were committed, with a call or without one."""
        self.tokens += tokens
        self.calls += calls
        if self.calls > _MOST_CALLS:
            self.blocks, self.calls, self.tokens = self.blocks / 2, self.calls / 2, self.tokens / 2
            self.sizes = {size: count / 2 for size, count in self.sizes.items()}

    def add_size(self, size: float) -> None:
        """Take in what a call processed for a sequence, in canvases."""
        size = round(size, 2)
        self.sizes[size] = self.sizes.get(size, 0.0) + 1

    def seconds_per_call(self, costs: CallCosts, live: int, length: int) -> float:
        """Give the expected seconds of a call that so many sequences of a length share."""
        sizes = self.sizes or {float(self.rows): 1.0}
        calls = sum(sizes.values())
        if live == 1:
            return sum(count * costs(size * length) for size, count in sizes.items()) / calls
        mean = sum(size * count for size, count in sizes.items()) / calls
        square = sum(size**2 * count for size, count in sizes.items()) / calls
        spread = math.sqrt(max(0.0, square - mean**2) / live)
        return (costs((mean - spread) * live * length) + costs((mean + spread) * live * length)) / 2


class Policy:
    """Choose among numbers of drafts by what they take and bring.

    A *probe* is one call with another number of drafts: it says what such a call takes. One is
    made of each at first, more where calls vary so much that one could mislead, and none where
    fewer drafts have shown that so many rows cannot pay. Otherwise a sequence has one number of
    drafts for a whole block, which says what it brings: the best by all that is known, or one that
    may be better within the errors of what is known, and now and then another one as a *trial*.
    While a number of drafts has few calls of its own, `guessed_gain` stands for what it brings.

    Parameters
    ----------
    options
        Numbers of drafts.
    exploration
        Share of the time that trials may lose by estimate, and that the longer calls of later
        probes of each number of drafts may add. The first probes, and blocks with what may be
        better, are not held to it.
    seed
        Of when something else is tried.
    """

    def __init__(
        self, options: Sequence[int] = (0, 1, 3), exploration: float = 0.01, seed: int = 0
    ) -> None:
        self.options = tuple(options)
        self.exploration = exploration
        self.costs = CallCosts()
        self.seconds = 0.0
        self.lost = 0.0
        self.calls = 0
        self._yields = {option: _Yield(option) for option in self.options}
        self._probes = dict.fromkeys(self.options, 0)
        self._used = dict.fromkeys(self.options, 0)
        # Calls before which nothing is to be measured.
        self._asked_again = 0
        self._random = random.Random(seed)
        # By sequences and length: the calls before it, the best number of drafts, and the expected
        # seconds for each token by number of drafts.
        self._expected: dict[tuple[int, int], tuple[int, int, dict[int, float]]] = {}

    @property
    def _alone(self) -> float:
        """Tokens of a call without drafts, if the guessed gains were right."""
        known = sum(each.tokens for each in self._yields.values())
        calls = sum(guessed_gain(option) * each.calls for option, each in self._yields.items())
        return known / calls if known and calls else 1.0

    def tokens_per_call(self, option: int) -> float:
        """Give the tokens that a call is expected to commit for a sequence."""
        known = self._yields[option]
        guessed = _GUESS_CALLS * self._alone * guessed_gain(option)
        return (known.tokens + guessed) / (known.calls + _GUESS_CALLS)

    def seconds_per_call(self, option: int, live: int, length: int) -> float:
        """Give the seconds that a call is expected to take.

        Parameters
        ----------
        option
            Number of drafts.
        live
            Sequences that share the call.
        length
            Columns of a canvas.

        Raises
        ------
        ValueError
            If no call has been observed yet.
        """
        return self._yields[option].seconds_per_call(self.costs, live, length)

    def seconds_per_token(self, option: int, live: int, length: int) -> float:
        """Give the expected seconds for each token; parameters as in `seconds_per_call`."""
        taken = self.seconds_per_call(option, live, length)
        return taken / (live * self.tokens_per_call(option))

    def best(self, live: int, length: int) -> int:
        """Give the number of drafts with the least seconds for each token; parameters as above."""
        return self._expect(live, length)[0]

    def _expect(self, live: int, length: int, age: int = 0) -> tuple[int, dict[int, float]]:
        """Give the best number of drafts and the seconds for each token of all, at most so old."""
        kept = self._expected.get((live, length))
        if kept is None or self.calls - kept[0] > age:
            each = {o: self.seconds_per_token(o, live, length) for o in self.options}
            kept = (self.calls, min(each, key=each.__getitem__), each)
            if len(self._expected) >= _MOST_SHAPES:
                self._expected.clear()
            self._expected[live, length] = kept
        return kept[1:]

    def _to_measure(self, live: int, length: int) -> list[int]:
        """Give what is to be measured before it is judged, what was used last at the end."""
        few = [option for option in self.options if self._probes[option] < _MOST_PROBES]
        if not few or self.calls < self._asked_again:
            return []
        best, each = self._expect(live, length)
        error = _SIGMAS * self.costs.spread
        found = []
        for option in few:
            probes = self._probes[option]
            if not probes:
                least = self._least_seconds_per_token(option, live, length)
                is_open = least <= _DEAR * each[best]
            elif probes == 1 and self._is_odd(option, live, length):
                is_open = True
            else:
                least = each[option] * math.exp(-error / math.sqrt(probes))
                is_open = option != best and least < each[best]
            if is_open:
                found.append(option)
        if not found:
            # The more is known, the less does a further call say.
            self._asked_again = self.calls + self.calls // 8
        return sorted(found, key=self._used.__getitem__)

    def _least_seconds_per_token(self, option: int, live: int, length: int) -> float:
        """Give what a token takes if seconds rise no more than between the sizes measured.

        One row more never costs less than the one before: a straight line through the least and the
        largest size lies below all larger ones.
        """
        sizes, seconds = self.costs.curve
        size = (option + 1) * live * length
        if size <= sizes[-1]:
            taken = self.costs(size)
        elif len(sizes) == 1:
            taken = seconds[0]
        else:
            slope = (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])
            taken = seconds[-1] + slope * (size - sizes[-1])
        return taken / (live * self.tokens_per_call(option))

    def _is_odd(self, option: int, live: int, length: int) -> bool:
        rows = option + 1
        return self.costs(rows * live * length) > _ODD * rows * self.costs(live * length)

    def probe(self, live: int, length: int) -> int | None:
        """Give a number of drafts whose call should be measured now; parameters as above."""
        for option in self._to_measure(live, length):
            return option
        rested = [o for o in self.options if self.calls - self._used[o] >= _PROBE_EVERY]
        if not rested:
            return None
        best = self.best(live, length)
        usual = self.seconds_per_call(best, live, length)
        for option in sorted(rested, key=self._used.__getitem__):
            unused = self.calls - self._used[option]
            excess = self.seconds_per_call(option, live, length) - usual
            if option != best and excess <= self.exploration * unused * usual:
                return option
        return None

    def choose(self, live: int, length: int) -> int | None:
        """Give the number of drafts for the block that a sequence enters; parameters as above.

        None while some are to be measured: then `best` says call by call what to use, and what that
        brings in this block is not to be counted.
        """
        if self._to_measure(live, length):
            return None
        option = self._choice(live, length)
        self._yields[option].blocks += 1
        return option

    def _choice(self, live: int, length: int) -> int:
        best, expected = self._expect(live, length)
        spread = self.costs.spread

        def at_best(option: int) -> float:
            of_cost = spread**2 / min(max(self._probes[option], 1), self.costs.calls)
            of_yield = _VARIATION**2 / (self._yields[option].calls + _GUESS_CALLS)
            return expected[option] * math.exp(-_HOPE * math.sqrt(of_cost + of_yield))

        hoped = min(self.options, key=at_best)
        known = [self._yields[option] for option in self.options if self._yields[option].blocks]
        if hoped != best or not known:
            return hoped
        tokens = sum(each.tokens for each in known) / sum(each.blocks for each in known)
        allowed = self.exploration * self.seconds - self.lost
        others = [
            option
            for option in self.options
            if option != best and tokens * (expected[option] - expected[best]) <= allowed
        ]
        if not others or self._random.random() >= _TRIES:
            return best
        return min(others, key=lambda option: self._yields[option].calls)

    def observe(
        self,
        options: Sequence[int | None],
        evaluations: Sequence[int],
        tokens: Sequence[int],
        seconds: float,
        length: int,
        counts: Sequence[bool],
    ) -> None:
        """Take in a step.

        Parameters
        ----------
        options
            Number of drafts of each sequence; None before its first one.
        evaluations, tokens
            Columns processed for each sequence, and tokens committed in it.
        seconds
            Of the step.
        length
            Columns of a canvas.
        counts
            Of which sequences the tokens say what their number of drafts brings: not in a probe,
            and not in a block that had several.
        """
        processed = sum(evaluations)
        self.seconds += seconds
        if processed:
            self.calls += 1
            self.costs.add(processed, seconds)
        for option, evaluated, committed, is_counted in zip(
            options, evaluations, tokens, counts, strict=True
        ):
            if option is None:
                continue
            known = self._yields[option]
            if evaluated:
                known.add_size(evaluated / length)
            if is_counted:
                known.add(committed, evaluated > 0)
        # A call without a number of drafts has one row, as one without drafts.
        used = {option or 0 for option, size in zip(options, evaluations, strict=True) if size}
        for option in used & self._used.keys():
            self._used[option] = self.calls
            self._probes[option] += 1
        if self.costs and any(counts):
            self._count_lost(options, evaluations, tokens, seconds, length, counts)

    def _count_lost(
        self,
        options: Sequence[int | None],
        evaluations: Sequence[int],
        tokens: Sequence[int],
        seconds: float,
        length: int,
        counts: Sequence[bool],
    ) -> None:
        """Add what a step took beyond what its tokens take with the best number of drafts."""
        processed = sum(evaluations)
        live = max(1, sum(evaluated > 0 for evaluated in evaluations))
        best, expected = self._expect(live, length, _AGE)
        for option, evaluated, committed, is_counted in zip(
            options, evaluations, tokens, counts, strict=True
        ):
            if is_counted and option != best:
                # As if the time were shared by sequences or by columns, whichever is more.
                share = max(evaluated / processed, 1 / live) if evaluated else 0.0
                lost = share * seconds - committed * expected[best]
                self.lost = max(0.0, self.lost + lost)


@dataclass(frozen=True)
class AutoPVF(PVF):
    """Plan-verify-fill with as many drafts as save time here, threshold decoding among them.

    For every block of every sequence it takes the number of drafts with the most tokens per second,
    by what calls have taken so far and by what each number of drafts has brought so far. An object
    keeps what it has learnt from one decoding to the next; a new one learns anew. Tokens depend on
    measured seconds, so that two runs may differ where the numbers of drafts would.

    Parameters
    ----------
    options
        Numbers of drafts to choose from, up to `num_drafts`; None takes 0, 1 and `num_drafts`.
    exploration
        Share of the time that trying what is not the best may lose, by estimate, in [0, 1].

    All others are those of `modicum.pvf.PVF`.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    options: tuple[int, ...] | None = None
    exploration: float = 0.01
    name: str = field(default="auto", init=False)
    policy: Policy = field(default_factory=Policy, init=False, repr=False, compare=False)
    _fixed: dict[int, PVF] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        some = (0, min(1, self.num_drafts), self.num_drafts)
        given = some if self.options is None else self.options
        options = tuple(sorted({check_count("options", option, 0) for option in given}))
        if not options or options[-1] > self.num_drafts:
            raise ValueError(
                f"options must be numbers of drafts up to num_drafts={self.num_drafts}, "
                f"not {self.options!r}"
            )
        check_probability("exploration", self.exploration)
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "policy", Policy(options, self.exploration))

    def bind(self, model: MaskPredictor) -> Self:
        """Give the same strategy with words as ids of the model's tokenizer, as `PVF.bind`.

        Both share what they learn.
        """
        bound = super().bind(model)
        object.__setattr__(bound, "policy", self.policy)
        return bound

    def start(self, sequences: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Give the memory of new sequences.

        Beside that of `PVF` what is chosen, (N, 5) int64 in the host's memory: the number of drafts
        of the last step and the one chosen for the block, the number of the block, -1 where there
        is none; whether the last step counts; and the length of a canvas.
        """
        chosen = torch.tensor([_NONE, _NONE, _NONE, 0, length]).repeat(sequences, 1)
        return {**super().start(sequences, length, device), "chosen": chosen}

    def propose(self, view: View) -> Proposal:
        """Say what to compare, with the number of drafts of each sequence."""
        drafts, known = self._choose(view)
        used = {option for option, is_known in zip(drafts, known, strict=True) if is_known}
        alone, most_drafts = Threshold(self.threshold), max(used)
        if not most_drafts:
            # No plan is waited with where none are made.
            view.memory["pause"] = view.memory["pause"] & ~view.known
            return alone.propose(view)
        together = self._with(most_drafts).propose(view)
        if len(used) == 1:
            return together
        drafts_N = torch.tensor(drafts, device=view.open.device)
        asks_N = torch.minimum(together.rows, drafts_N + 1)
        if 0 not in used:
            return replace(together, rows=asks_N)
        single = alone.propose(view)
        no_drafts_N = drafts_N == 0
        row0_NH = torch.where(no_drafts_N[:, None], single.fill[:, 0], together.fill[:, 0])
        return Proposal(
            fill=torch.cat([row0_NH[:, None], together.fill[:, 1:]], dim=1),
            rows=torch.where(no_drafts_N, 0, asks_N),
            forced=torch.where(no_drafts_N, single.forced, together.forced),
            route=torch.where(no_drafts_N, 0, together.route),
            drafts=together.drafts,
        )

    def _with(self, num_drafts: int) -> PVF:
        """Give plan-verify-fill with a number of drafts throughout."""
        if num_drafts not in self._fixed:
            self._fixed[num_drafts] = PVF(**{**settings_of(self), "num_drafts": num_drafts})
        return self._fixed[num_drafts]

    def _choose(self, view: View) -> tuple[list[int], list[int]]:
        """Choose the number of drafts of every sequence; give these, and whether it is known."""
        policy = self.policy
        before = view.memory["chosen"].tolist()
        # One look at the device for all that is asked.
        is_open, known, blocks = torch.stack(
            [view.open.any(-1).long(), view.known.long(), view.block]
        ).tolist()
        live, length = sum(is_open), before[0][_LENGTH]
        entered = [
            is_known and block != each[_BLOCK]
            for each, is_known, block in zip(before, known, blocks, strict=True)
        ]
        chosen = [
            policy.choose(live, length) if is_new else each[_CHOSEN]
            for each, is_new in zip(before, entered, strict=True)
        ]
        probed = policy.probe(live, length)
        after = []
        for each, is_new, block, option in zip(before, entered, blocks, chosen, strict=True):
            kept = _NONE if option is None else option
            counts = probed is None and kept != _NONE
            used = kept
            if not counts:
                used = policy.best(live, length) if probed is None else probed
            after.append([used, kept, block if is_new else each[_BLOCK], int(counts), length])
        if after != before:
            view.memory["chosen"] = torch.tensor(after)
        return [each[_OPTION] for each in after], known

    def observe(
        self,
        memory: Mapping[str, torch.Tensor],
        evaluations: Sequence[int],
        tokens: Sequence[int],
        seconds: float,
    ) -> None:
        """Learn from a step; the decoder calls it."""
        chosen = memory["chosen"].tolist()
        self.policy.observe(
            [None if each[_OPTION] == _NONE else each[_OPTION] for each in chosen],
            evaluations,
            tokens,
            seconds,
            chosen[0][_LENGTH],
            [bool(each[_COUNTS]) for each in chosen],
        )
