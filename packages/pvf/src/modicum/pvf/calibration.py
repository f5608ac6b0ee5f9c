"""A planning vocabulary that is measured: tokens whose early commitment passes the test and helps.

`calibrate_plan_vocab` decodes prompts by threshold decoding and in every step tries each uncertain
token of the window as plan-verify-fill would try a planning token. A token is worth what it adds to
the model's confidence elsewhere, times a lower bound of the probability that it passes the test.
The idea is that of the third version of arXiv 2601.12247 (Li et al.), a vocabulary by expected
verified utility; how utility is estimated is ours.

Shapes: N sequences, R rows (row 0 is the base), K = R - 1 candidates, H columns of the horizon.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import NormalDist
from typing import Any

import torch

from modicum.core.experiment import dumps, loads, write_atomic
from modicum.pvf.canvases import of_prompts
from modicum.pvf.generation import generate
from modicum.pvf.predictor import MaskPredictor, as_predictor
from modicum.pvf.strategies.base import Decision, Predictions, Proposal, View
from modicum.pvf.strategies.plan_verify_fill import PLAN, PVF
from modicum.pvf.validation import check_count, check_probability
from modicum.pvf.vocabulary import PlanVocabulary, tokenizer_hash

__all__ = ["PlanCalibration", "TokenTrials", "calibrate_plan_vocab", "wilson_lower"]

FORMAT = 1
"""Number of the file's layout; raised when an older reader could misread it."""

RULES: Mapping[str, Any] = {
    "min_count": 8,
    "min_utility": 0.0,
    "min_share": 0.5,
    "max_size": 256,
}
"""Which tokens make a vocabulary unless it is said otherwise."""

_SETTINGS = ("threshold", "plan_low", "plan_high", "unlock_threshold")
"""Of plan-verify-fill, those that decide what is a candidate and when."""

LEVEL = 0.95
"""Of the interval whose lower end counts."""


def wilson_lower(passed: int, count: int, level: float = LEVEL) -> float:
    """Give the lower end of Wilson's interval for a probability.

    Parameters
    ----------
    passed, count
        Successes and trials.
    level
        Of the two-sided interval.

    Raises
    ------
    ValueError
        Unless 0 <= passed <= count, count >= 1 and level in (0, 1).

    Notes
    -----
    Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927).
    """
    check_count("count", count)
    if not 0 <= passed <= count:
        raise ValueError(f"passed must be in [0, {count}], not {passed!r}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), not {level!r}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = passed / count
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    if passed == 0:
        # The terms below are the same but for rounding.
        return 0.0
    return (share + z * z / (2 * count) - spread) / (1 + z * z / count)


@dataclass
class TokenTrials:
    """How a token did where it was a candidate.

    Attributes
    ----------
    count
        Candidates.
    passed
        Of them those that left the model's confident predictions unchanged.
    gain
        Sum over all candidates of what they added to the confidence of the columns that stay open.
    """

    count: int = 0
    passed: int = 0
    gain: float = 0.0

    @property
    def utility(self) -> float:
        """Lower bound of the probability to pass, times the mean gain where that is positive."""
        return wilson_lower(self.passed, self.count) * max(0.0, self.gain / self.count)


@dataclass
class PlanCalibration:
    """What was measured of every token, and where.

    Attributes
    ----------
    trials
        By token id.
    config
        Settings of the measurement.
    provenance
        Model, tokenizer, prompts and versions.
    prompts, done
        Prompts in all, and those that are measured.
    rules
        Which tokens make the vocabulary; see `vocabulary`.
    """

    trials: dict[int, TokenTrials] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    prompts: int = 0
    done: int = 0
    rules: dict[str, Any] = field(default_factory=lambda: dict(RULES))

    @property
    def is_complete(self) -> bool:
        """Whether all prompts are measured."""
        return self.done == self.prompts

    def vocabulary(
        self,
        *,
        min_count: int | None = None,
        min_utility: float | None = None,
        min_share: float | None = None,
        max_size: int | None = None,
        exclude: Sequence[int] = (),
        model: MaskPredictor | None = None,
    ) -> PlanVocabulary:
        """Give the tokens of the largest utility.

        Parameters
        ----------
        min_count
            Least number of trials of a token; that of `rules` by default, 8 if it says nothing.
        min_utility
            Least utility, likewise, 0; tokens of no utility are left out in any case.
        min_share
            Least utility as a share of the largest one, likewise, one half; 0 asks for nothing.
        max_size
            Most tokens, likewise, 256; equal ones are taken by their ids.
        exclude
            Ids that are left out, such as the end token's.
        model
            The model that it is for; it must have the vocabulary that was measured with.

        Raises
        ------
        ValueError
            If a number is out of range, or the model has another vocabulary.

        Notes
        -----
        A test that a coherent model passes with any token cannot tell content from words that shape
        it; what they are worth can: content that stands early settles little else. On the task of
        `modicum.pvf.testing.ledger`, in blocks of 24, the five words of a style have about half
        of the largest utility or more, digits and letters at most 0.48, and without a least share
        digits are planned, which makes most sums wrong where errors are likely. In short blocks
        there is little to settle, so that the two lie closer together: measure with long ones.
        """
        rules = _rules(
            self.rules,
            min_count=min_count,
            min_utility=min_utility,
            min_share=min_share,
            max_size=max_size,
        )
        if model is not None:
            _check_same("provenance.model", self.provenance.get("model"), _describe(model))
        found = sorted(
            (-item.utility, token)
            for token, item in self.trials.items()
            if item.count >= rules["min_count"] and token not in set(exclude)
        )
        largest = -found[0][0] if found else 0.0
        least = max(rules["min_utility"], rules["min_share"] * largest)
        kept = [token for loss, token in found if -loss >= least and loss < 0]
        return PlanVocabulary(tuple(kept[: rules["max_size"]]), "calibrated")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything as JSON, whole or not at all."""
        trials = {str(token): asdict(item) for token, item in sorted(self.trials.items())}
        return write_atomic(path, dumps({"format": FORMAT, **vars(self), "trials": trials}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PlanCalibration":
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is something else; the message names what is wrong.
        OSError
            If it cannot be read.
        """
        try:
            found = loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)} is not a calibration: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            number = found.get("format") if isinstance(found, dict) else None
            raise ValueError(f"{os.fspath(path)} is not a calibration of format {FORMAT}: {number}")
        try:
            trials = {int(token): _trials(item) for token, item in found["trials"].items()}
            return cls(
                trials,
                dict(found["config"]),
                dict(found["provenance"]),
                check_count("prompts", found["prompts"], 0),
                check_count("done", found["done"], 0),
                _rules(found["rules"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is not a calibration: {error!r}") from error


def _rules(given: Mapping[str, Any], **changes: float | None) -> dict[str, Any]:
    """Give checked rules: those given, changed by what is not None."""
    rules = {**RULES, **given, **{k: v for k, v in changes.items() if v is not None}}
    if set(rules) != set(RULES):
        raise ValueError(f"rules must be {', '.join(RULES)}, not {', '.join(rules)}")
    check_count("min_count", rules["min_count"])
    check_count("max_size", rules["max_size"])
    if not rules["min_utility"] >= 0:
        raise ValueError(f"min_utility must not be negative, not {rules['min_utility']!r}")
    check_probability("min_share", rules["min_share"])
    return rules


def _trials(given: Mapping[str, Any]) -> TokenTrials:
    found = TokenTrials(**given)
    check_count("count", found.count)
    check_count("passed", found.passed, 0)
    if found.passed > found.count:
        raise ValueError(f"passed must be at most {found.count}, not {found.passed}")
    return found


@dataclass(frozen=True)
class _Backbone(PVF):
    """Threshold decoding that tries every candidate beside it, and commits none of them."""

    trials: dict[int, TokenTrials] = field(default_factory=dict, compare=False)

    def accept(self, view: View, proposal: Proposal, rows: Predictions) -> Decision:
        """Note how each candidate does, and commit the base row.

        Where there is no base set the most likely token is committed in the next step: then, as
        after a plan that failed, no candidates are tried again.
        """
        drafts_NK = proposal.drafts
        count = drafts_NK.shape[1] + 1
        # The horizon may have fewer columns than there might be candidates.
        rows = replace(rows, top=rows.top[:, :count], top_confidence=rows.top_confidence[:, :count])
        number_K = torch.arange(count - 1, device=drafts_NK.device)
        real_NK = (number_K < (proposal.rows - 1)[:, None]) & (proposal.route == PLAN)[:, None]
        passed_NK = self._unchanged(view, proposal, rows)
        gain_NK = _gains(view, proposal, rows)
        token_NK = view.seen.token.gather(-1, drafts_NK)
        for token, passed, gain in zip(
            token_NK[real_NK].tolist(),
            passed_NK[real_NK].tolist(),
            gain_NK[real_NK].tolist(),
            strict=True,
        ):
            found = self.trials.setdefault(token, TokenTrials())
            found.count += 1
            found.passed += passed
            found.gain += gain
        base_is_empty_N = ~(proposal.fill[:, 0] & view.open).any(-1)
        view.memory["pause"] = view.memory["pause"] | (base_is_empty_N & real_NK.any(-1))
        nothing_NK = torch.zeros_like(real_NK)
        return Decision(
            row=torch.zeros_like(proposal.rows),
            keep=torch.ones_like(base_is_empty_N),
            passed=nothing_NK,
            unexpected=nothing_NK,
        )


def _gains(view: View, proposal: Proposal, rows: Predictions) -> torch.Tensor:
    """Give what each candidate adds to the confidence of what stays open, (N, K) float64."""
    left_NKH = view.open[:, None] & ~proposal.fill[:, 1:]
    confidence_NRH = rows.top_confidence.double()
    more_NKH = confidence_NRH[:, 1:] - confidence_NRH[:, :1]
    return more_NKH.masked_fill(~left_NKH, 0.0).sum(-1)


class _EveryToken:
    """A vocabulary that every predicted token belongs to."""

    def __call__(self, view: View) -> torch.Tensor:
        return torch.ones_like(view.seen.token, dtype=torch.bool)


def calibrate_plan_vocab(
    model: MaskPredictor,
    prompts: Any,
    *,
    strategy: PVF | None = None,
    gen_length: int = 128,
    block_length: int = 32,
    eos_early_stop: bool = True,
    batch_size: int = 8,
    min_count: int = 8,
    min_utility: float = 0.0,
    min_share: float = 0.5,
    max_size: int = 256,
    out: str | os.PathLike[str] | None = None,
    on_batch: Callable[[PlanCalibration], None] | None = None,
) -> PlanCalibration:
    """Measure which tokens are worth committing early.

    Every step takes one call with a row for each candidate, so that rows are many more than in
    decoding; use few prompts, like those that are to be decoded later.

    Parameters
    ----------
    model, prompts, gen_length, block_length, eos_early_stop
        As in `modicum.pvf.generate`.
    strategy
        Whose ``threshold``, ``plan_low``, ``plan_high`` and ``unlock_threshold`` are used; the
        defaults of `modicum.pvf.PVF` without it.
    batch_size
        Prompts that share calls; the file is written after each batch.
    min_count, min_utility, min_share, max_size
        `PlanCalibration.rules`, see `PlanCalibration.vocabulary`; they change nothing about what is
        measured.
    out
        File that keeps what is measured. If it holds a measurement of the same settings that was
        cut off, that is gone on with.
    on_batch
        Called after each batch.

    Returns
    -------
    PlanCalibration
        Its `PlanCalibration.vocabulary` is the planning vocabulary.

    Raises
    ------
    ValueError
        If an argument is not valid, or `out` belongs to other settings; the message names the
        setting and both values.
    """
    model = as_predictor(model)
    check_count("batch_size", batch_size)
    check_count("gen_length", gen_length)
    check_count("block_length", block_length)
    rules = _rules(
        {}, min_count=min_count, min_utility=min_utility, min_share=min_share, max_size=max_size
    )
    canvases = of_prompts(model, prompts, gen_length, None)
    rows = [
        ids[:start].tolist()
        for ids, start in zip(canvases.ids_NL.cpu(), canvases.start_N.tolist(), strict=True)
    ]
    settings = PVF() if strategy is None else strategy
    shape: dict[str, Any] = {
        "gen_length": gen_length,
        "block_length": block_length,
        "eos_early_stop": eos_early_stop,
        "batch_size": batch_size,
    }
    config = {**{name: getattr(settings, name) for name in _SETTINGS}, **shape}
    found = PlanCalibration({}, config, _provenance(model, rows), len(rows))
    if out is not None and Path(out).exists():
        found = _resumed(found, out)
    found.rules = rules
    if out is not None:
        found.save(out)
    backbone = _backbone(config, found.trials)
    for first in range(found.done, len(rows), batch_size):
        part = rows[first : first + batch_size]
        generate(model, part, strategy=backbone, **shape)
        found.done += len(part)
        if out is not None:
            found.save(out)
        if on_batch is not None:
            on_batch(found)
    return found


def _backbone(config: Mapping[str, Any], trials: dict[int, TokenTrials]) -> _Backbone:
    blocks = 1 + (config["unlock_threshold"] > 0)
    return _Backbone(
        **{name: config[name] for name in _SETTINGS},
        num_drafts=min(config["gen_length"], blocks * config["block_length"]),
        plan_vocab=_EveryToken(),
        routes=("plan",),
        trials=trials,
    )


def _resumed(new: PlanCalibration, out: str | os.PathLike[str]) -> PlanCalibration:
    """Give the measurement in a file, if it is the same."""
    found = PlanCalibration.load(out)
    for name in ("config", "provenance"):
        _check_same(f"{os.fspath(out)}: {name}", getattr(found, name), getattr(new, name))
    return found


def _check_same(name: str, found: Any, wanted: Any) -> None:
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in sorted({*found, *wanted}):
            # Which version measured says nothing about what it is of.
            if key != "versions":
                _check_same(f"{name}.{key}", found.get(key), wanted.get(key))
    elif found != wanted:
        raise ValueError(f"{name} is {found!r}, not {wanted!r}")


def _provenance(model: MaskPredictor, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()
    return {
        "model": _describe(model),
        "prompts": digest,
        "versions": {name: version(name) for name in ("modicum-pvf", "torch")},
    }


def _describe(model: MaskPredictor) -> dict[str, Any]:
    tokenizer = getattr(model, "tokenizer", None)
    return {
        "type": type(model).__name__,
        "vocab_size": model.vocab_size,
        "mask_id": model.mask_id,
        "tokenizer": None if tokenizer is None else tokenizer_hash(tokenizer),
    }
