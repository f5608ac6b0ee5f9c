"""Plan, verify and fill: extra, less certain tokens, kept where the model's own predictions agree.

Takes the predictions for a window and proposes one row for each planning token (a connective, a
delimiter, a keyword: content-neutral), or else rows with more and more of the leftmost open tokens
filled in; by the predictions on these rows it keeps what does not change what the model is
confident of. Source: "Plan, Verify and Fill: A Structured Parallel Decoding Approach for Diffusion
Language Models", Li et al., arXiv 2601.12247, sections 3 and 4, equations 2 to 11.

Shapes: N sequences, R rows (row 0 is the base), K = R - 1 drafts, H columns of the horizon.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self

import torch

from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.strategies.base import (
    Decision,
    Predictions,
    Proposal,
    View,
    first_columns,
    most,
    ranked,
)
from modicum.pvf.theory import plan_pass_guaranteed
from modicum.pvf.validation import check_choice, check_count, check_probability
from modicum.pvf.vocabulary import (
    PlanVocabulary,
    PlanWords,
    as_plan_vocabulary,
    bound_vocabulary,
    vocabulary_from_dict,
    vocabulary_to_dict,
)

__all__ = ["PLAN", "PRESETS", "PVF"]

COMMIT, PLAN, FILL = 0, 1, 2

PRESETS: dict[str, dict[str, Any]] = {
    "general": {"plan_low": 0.2, "plan_high": 0.65, "fill_threshold": 0.1, "unlock_threshold": 5},
    "code": {"plan_low": 0.8, "plan_high": 0.9, "fill_threshold": 0.5, "unlock_threshold": 0},
    "math": {"plan_low": 0.8, "plan_high": 0.9, "fill_threshold": 0.35, "unlock_threshold": 0},
}
"""Settings of the paper's Table 4, for LLaDA and Dream alike, by kind of task."""


@dataclass(frozen=True)
class PVF:
    """Plan-verify-fill decoding.

    Parameters
    ----------
    threshold
        τ: open tokens of at least this probability are committed without a test.
    plan_low, plan_high
        Half-open band of probabilities of planning tokens.
    fill_threshold
        Least probability of a leftmost draft.
    num_drafts
        k: rows beside the base row, at most. 0 is threshold decoding.
    unlock_threshold
        The next block opens when at most so many masks are left in this one; 0 keeps blocks apart.
    plan_vocab
        Which tokens are planning tokens: the name of a list, or words, which `bind` looks up in the
        model's tokenizer; a `PlanVocabulary`, ids, a bool mask over the vocabulary, or a function
        of a `View` that gives (N, H) bool. None: there are none.
    fill_verify
        ``"sequential"``: a draft holds if the row with all drafts before it predicts it.
        ``"base"`` compares every draft with the base row, and ``"none"`` holds all of them: both
        lose correctness and are there for comparisons.
    plan_verify
        Whether a planning token must leave the model's confident predictions unchanged.
    plan_score
        Which of the tokens that pass is kept: ``"confidence_sum"`` over all that stays open, or
        ``"count"`` of open columns of at least the threshold.
    routes
        ``"plan"`` and ``"fill"``, or one of them.
    reuse_base_row
        Whether predictions of the base row are used again when no draft holds.
    strict_impact
        As in the published code: a planning token must also leave the columns of the base set
        unchanged, and the row that holds it must give it at least `plan_low`.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it.

    Notes
    -----
    Source: Li et al., arXiv 2601.12247. Ties of probability go to the lowest column. At a
    temperature a draft is drawn and the test asks for the most likely token, so that few drafts
    hold; where none does and nothing is confident, the most confident draw is committed (X).
    """

    threshold: float = 0.9
    plan_low: float = 0.2
    plan_high: float = 0.65
    fill_threshold: float = 0.1
    num_drafts: int = 3
    unlock_threshold: int = 5
    plan_vocab: Any = "default"
    fill_verify: Literal["sequential", "base", "none"] = "sequential"
    plan_verify: bool = True
    plan_score: Literal["confidence_sum", "count"] = "confidence_sum"
    routes: tuple[str, ...] = ("plan", "fill")
    reuse_base_row: bool = True
    strict_impact: bool = False
    name: str = field(default="pvf", init=False)
    whole_span: bool = field(default=False, init=False)
    needs_divergence: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_probability("threshold", self.threshold)
        check_probability("plan_low", self.plan_low)
        check_probability("plan_high", self.plan_high)
        if not self.fill_threshold >= 0:
            raise ValueError(f"fill_threshold must not be negative, not {self.fill_threshold}")
        check_count("num_drafts", self.num_drafts, 0)
        check_count("unlock_threshold", self.unlock_threshold, 0)
        check_choice("fill_verify", self.fill_verify, ("sequential", "base", "none"))
        check_choice("plan_score", self.plan_score, ("confidence_sum", "count"))
        for route in self.routes:
            check_choice("routes", route, ("plan", "fill"))
        if not self.plan_low < self.plan_high <= self.threshold:
            raise ValueError(
                f"plan_low < plan_high <= threshold must hold, not plan_low={self.plan_low}, "
                f"plan_high={self.plan_high}, threshold={self.threshold}"
            )
        object.__setattr__(self, "routes", tuple(self.routes))
        object.__setattr__(self, "plan_vocab", as_plan_vocabulary(self.plan_vocab))
        if tuple(self.routes) == ("plan",) and self._plans_nothing:
            raise ValueError("plan_vocab is empty, and routes has the plan route only")

    @property
    def _plans_nothing(self) -> bool:
        vocabulary = self.plan_vocab
        return isinstance(vocabulary, PlanVocabulary) and not vocabulary.ids

    @property
    def most_rows(self) -> int:
        """R, the most rows of a proposal."""
        return self.num_drafts + 1

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Give the paper's settings for a kind of task: ``"general"``, ``"code"``, ``"math"``.

        Parameters
        ----------
        name
            Which one.
        **changes
            Settings that are to be different.
        """
        check_choice("preset", name, tuple(PRESETS))
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def paper_parity(cls, preset: str = "general", **changes: Any) -> Self:
        """Give what the paper describes, the vocabulary word for word, end token included.

        Its figures are for 512 tokens in blocks of 64, decoded to the end without a stop at the end
        token.

        Parameters
        ----------
        preset
            As in `preset`.
        **changes
            Settings that are to be different.
        """
        words = PlanWords(
            "paper", include_eos=True, multi_token="all", exclude_single_letters=False
        )
        return cls.preset(preset, **{"plan_vocab": words, **changes})

    @classmethod
    def official_code(cls, preset: str = "general", **changes: Any) -> Self:
        """Give what the published code does where it differs from the paper.

        Words of several tokens count with each of them, a planning token must also leave the base
        set unchanged and be likely enough in its own row, and the base row is asked again when no
        draft holds.

        Parameters
        ----------
        preset
            As in `preset`.
        **changes
            Settings that are to be different.
        """
        words = PlanWords("code", multi_token="all", exclude_single_letters=False)
        settings = {"plan_vocab": words, "strict_impact": True, "reuse_base_row": False}
        return cls.preset(preset, **{**settings, **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **changes: Any) -> Self:
        """Make the strategy that `to_dict` described.

        Parameters
        ----------
        values
            What `to_dict` gave.
        **changes
            Settings that are to be different; a vocabulary that was a function has to be given.

        Raises
        ------
        ValueError
            If the values are those of another strategy, or hold a setting that there is not.
        """
        name = next(item.default for item in fields(cls) if item.name == "name")
        if values.get("strategy") != name:
            raise ValueError(f"strategy must be {name!r}, not {values.get('strategy')!r}")
        settings = {key: value for key, value in values.items() if key != "strategy"}
        unknown = sorted(set(settings) - {item.name for item in fields(cls) if item.init})
        if unknown:
            raise ValueError(f"{name!r} has no setting {', '.join(unknown)}")
        settings.update(changes)
        if isinstance(settings.get("plan_vocab"), Mapping):
            settings["plan_vocab"] = vocabulary_from_dict(settings["plan_vocab"])
        return cls(**settings)

    def bind(self, model: MaskPredictor) -> Self:
        """Give the same strategy with the words of its vocabulary as ids of the model's tokenizer.

        Raises
        ------
        ValueError
            If it needs a tokenizer and the model has none, or ids are not in the model's
            vocabulary.
        """
        if "plan" not in self.routes or not self.num_drafts:
            return self
        bound = bound_vocabulary(self.plan_vocab, model)
        return self if bound is self.plan_vocab else replace(self, plan_vocab=bound)

    def start(self, sequences: int, length: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Give the memory of new sequences: whether their last plan failed, and where a fill did.

        ``"pause"`` is (N,) bool, ``"refused"`` the progress at which a fill committed nothing, (N,)
        float32, -1 if none did.
        """
        return {
            "pause": torch.zeros(sequences, dtype=torch.bool, device=device),
            "refused": torch.full((sequences,), -1.0, device=device),
        }

    def propose(self, view: View) -> Proposal:
        """Say what to compare: planning tokens, else leftmost drafts, else nothing."""
        seen, pause_N = view.seen, view.memory["pause"]
        base_NH = view.open & (seen.confidence >= self.threshold)
        rest_NH = view.open & ~base_NH
        # A draft that was drawn and is not the most likely token fails on the canvas that it is of.
        # With other draws it would be no other test: nothing is tested before a token stands.
        tests_N = view.memory["refused"] != view.progress
        plan_NH = self._plan_candidates(view, rest_NH) & (tests_N & ~pause_N)[:, None]
        plans_N = plan_NH.any(-1)
        fill_NH = rest_NH & tests_N[:, None] & (seen.confidence >= self.fill_threshold)
        if "fill" not in self.routes or not self.num_drafts:
            fill_NH = torch.zeros_like(fill_NH)
        fills_N = fill_NH.any(-1) & ~plans_N
        # A pause ends where a plan is passed over, not where a block is finished by its base set.
        view.memory["pause"] = pause_N & ~(rest_NH.any(-1) & view.known)
        candidates_NH = torch.where(plans_N[:, None], plan_NH, fill_NH & fills_N[:, None])
        count_N = candidates_NH.sum(-1).clamp(max=self.num_drafts)
        drafts_NK = torch.where(
            plans_N[:, None],
            ranked(seen.confidence, plan_NH)[:, : self.num_drafts],
            first_columns(fill_NH, self.num_drafts),
        )
        # With nothing confident and nothing to test one token is forced.
        forced_N = ~base_NH.any(-1) & ~plans_N & ~fills_N
        one_NH = most(seen.confidence, view.open, 1)
        row0_NH = torch.where(forced_N[:, None], one_NH, base_NH)
        asks_N = plans_N | fills_N
        return Proposal(
            fill=_rows(row0_NH, drafts_NK, count_N, fills_N),
            rows=torch.where(asks_N, count_N + 1, 0),
            forced=forced_N,
            route=torch.where(plans_N, PLAN, torch.where(fills_N, FILL, COMMIT)),
            drafts=drafts_NK,
        )

    def _plan_candidates(self, view: View, rest_NH: torch.Tensor) -> torch.Tensor:
        if "plan" not in self.routes or not self.num_drafts:
            return torch.zeros_like(rest_NH)
        seen = view.seen
        in_band_NH = (seen.confidence >= self.plan_low) & (seen.confidence < self.plan_high)
        return rest_NH & in_band_NH & self.plan_vocab(view)

    def accept(self, view: View, proposal: Proposal, rows: Predictions) -> Decision:
        """Keep the best plan that passes, or the longest prefix of drafts that holds."""
        drafts_NK = proposal.drafts
        # The horizon may have fewer columns than there might be drafts.
        count = drafts_NK.shape[1] + 1
        rows = replace(rows, top=rows.top[:, :count], top_confidence=rows.top_confidence[:, :count])
        number_K = torch.arange(count - 1, device=drafts_NK.device)
        real_NK = number_K < (proposal.rows - 1)[:, None]
        passed_NK = real_NK & self._unchanged(view, proposal, rows)
        score_NK = self._scores(view, proposal, rows).masked_fill(~passed_NK, -torch.inf)
        any_passed_N = passed_NK.any(-1)
        planned_N = torch.where(any_passed_N, score_NK.argmax(-1) + 1, 0)
        held_NK = real_NK & self._predicted(view, drafts_NK, rows)
        filled_N = held_NK.long().cumprod(-1).sum(-1)
        is_plan_N = proposal.route == PLAN
        row_N = torch.where(is_plan_N, planned_N, filled_N)
        failed_N = is_plan_N & ~any_passed_N
        view.memory["pause"] = view.memory["pause"] | failed_N
        base_is_empty_N = ~(proposal.fill[:, 0] & view.open).any(-1)
        refused_N = (proposal.route == FILL) & (row_N == 0) & base_is_empty_N
        view.memory["refused"] = torch.where(refused_N, view.progress, view.memory["refused"])
        again_N = (proposal.route == FILL) & (row_N == 0) & ~refused_N
        return Decision(
            row=row_N,
            keep=torch.ones_like(again_N) if self.reuse_base_row else ~again_N,
            passed=torch.where(is_plan_N[:, None], passed_NK, held_NK.long().cumprod(-1).bool()),
            unexpected=is_plan_N[:, None]
            & real_NK
            & ~passed_NK
            & self._guaranteed(view, drafts_NK, rows),
        )

    def _guaranteed(self, view: View, drafts_NK: torch.Tensor, rows: Predictions) -> torch.Tensor:
        """Say which planning tokens every coherent model has to let pass, (N, K)."""
        # What counts is the probability in the base row, known of its most likely tokens only.
        base_NK = rows.top_confidence[:, 0].gather(-1, drafts_NK)
        is_top_NK = rows.top[:, 0].gather(-1, drafts_NK) == view.seen.token.gather(-1, drafts_NK)
        guaranteed_NK = plan_pass_guaranteed(base_NK, self.threshold) & is_top_NK
        # The stricter test also looks at what no distribution speaks of.
        return torch.zeros_like(guaranteed_NK) if self.strict_impact else guaranteed_NK

    def _unchanged(self, view: View, proposal: Proposal, rows: Predictions) -> torch.Tensor:
        """Say which planning tokens leave what the base row is confident of as it is, (N, K)."""
        if not self.plan_verify:
            return torch.ones_like(proposal.drafts, dtype=torch.bool)
        impact_NH = view.window & (rows.top_confidence[:, 0] >= self.threshold)
        if not self.strict_impact:
            impact_NH = impact_NH & view.open & ~proposal.fill[:, 0]
        own_NKH = _one_hot(proposal.drafts, impact_NH.shape[-1])
        # In a draft's own column the draft stands for the row's prediction.
        said_NKH = torch.where(own_NKH, view.seen.token[:, None], rows.top[:, 1:])
        same_NKH = said_NKH == rows.top[:, :1]
        passed_NK = (same_NKH | ~impact_NH[:, None]).all(-1)
        if self.strict_impact:
            own_NK = rows.top_confidence[:, 1:].gather(-1, proposal.drafts[..., None])[..., 0]
            passed_NK = passed_NK & (own_NK >= self.plan_low)
        return passed_NK

    def _scores(self, view: View, proposal: Proposal, rows: Predictions) -> torch.Tensor:
        """Give the confidence that each planning token leaves behind, (N, K) float64."""
        left_NKH = view.open[:, None] & ~proposal.fill[:, 1:]
        confidence_NKH = rows.top_confidence[:, 1:]
        if self.plan_score == "count":
            confidence_NKH = (confidence_NKH >= self.threshold).float()
        return confidence_NKH.double().masked_fill(~left_NKH, 0.0).sum(-1)

    def _predicted(self, view: View, drafts_NK: torch.Tensor, rows: Predictions) -> torch.Tensor:
        """Say which drafts their row of reference predicts, (N, K)."""
        if self.fill_verify == "none":
            return torch.ones_like(drafts_NK, dtype=torch.bool)
        draft_NK = view.seen.token.gather(-1, drafts_NK)
        reference_NKH = rows.top[:, :-1] if self.fill_verify == "sequential" else rows.top[:, :1]
        reference_NKH = reference_NKH.expand(-1, drafts_NK.shape[1], -1)
        return reference_NKH.gather(-1, drafts_NK[..., None])[..., 0] == draft_NK

    def to_dict(self) -> dict[str, Any]:
        """Give its settings as plain values; of a vocabulary that is a function, its name only."""
        values = asdict(replace(self, plan_vocab=None, routes=("plan", "fill")))
        for item in fields(self):
            if not item.init:
                del values[item.name]
        vocabulary = vocabulary_to_dict(self.plan_vocab)
        return {
            "strategy": self.name,
            **values,
            "routes": list(self.routes),
            "plan_vocab": vocabulary,
        }


def _one_hot(columns_NK: torch.Tensor, width: int) -> torch.Tensor:
    return columns_NK[..., None] == torch.arange(width, device=columns_NK.device)


def _rows(
    row0_NH: torch.Tensor, drafts_NK: torch.Tensor, count_N: torch.Tensor, fills_N: torch.Tensor
) -> torch.Tensor:
    """Fill one draft into each row of a plan, and one more into each row of a fill, (N, R, H)."""
    drafted_NKH = _one_hot(drafts_NK, row0_NH.shape[-1])
    number_K = torch.arange(drafts_NK.shape[1], device=drafts_NK.device)
    drafted_NKH = drafted_NKH & (number_K < count_N[:, None])[..., None]
    drafted_NKH = torch.where(
        fills_N[:, None, None], drafted_NKH.long().cumsum(1).bool(), drafted_NKH
    )
    added_NKH = drafted_NKH | row0_NH[:, None]
    return torch.cat([row0_NH[:, None], added_NKH], dim=1)
