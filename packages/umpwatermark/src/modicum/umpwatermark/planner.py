"""How many tokens does a watermark need? One table for the optimum and for every known scheme.

Takes an entropy profile (or laws, log-probabilities, an entropy) and two error probabilities; gives
the least number of scored tokens of each scheme at equal Type I error, how it was computed and what
the scheme asks for. Also Type II errors against length, the evidence per token that each kind of
test can collect, and the entropy that a number of tokens requires. No model, no key.
"""

import csv
import io
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from modicum.umpwatermark._sums import FFT_RESOLUTION
from modicum.umpwatermark.evidence import PROB_FLOOR
from modicum.umpwatermark.iid import (
    ESTIMATES,
    MAX_TOKENS,
    TokenEstimate,
    check_tokens,
    n_ump,
    ump_error,
)
from modicum.umpwatermark.profile import EntropyProfile, binary_entropy
from modicum.umpwatermark.schemes import (
    CannotPlanError,
    GumbelPivotScheme,
    GumbelSumScheme,
    HazardScheme,
    PlannedScheme,
    Type2,
    make_schemes,
)
from modicum.umpwatermark.theory import check_alpha, rate_reference

if TYPE_CHECKING:
    from rich.table import Table

Schemes = str | PlannedScheme | Iterable[str | PlannedScheme]

METHODS = {
    "exact": "exact",
    "fft": "FFT, certain limits",
    "mc": "Monte Carlo, 95 % interval",
}
"""What the limits of a row are."""


class ResolutionWarning(UserWarning):
    """An error probability is asked for that the FFT does not resolve."""


def _profile(
    profile: EntropyProfile | None,
    logprobs: ArrayLike | None,
    laws: ArrayLike | None,
    h: float | None,
    surrogate: ArrayLike | None,
) -> EntropyProfile:
    given = [x is not None for x in (profile, logprobs, laws, h)]
    if sum(given) != 1:
        raise ValueError(
            f"give exactly one of profile, logprobs, laws and h; {sum(given)} were given"
        )
    if surrogate is not None and laws is None:
        raise ValueError("surrogate laws go with laws; a profile brings its own")
    if laws is not None:
        return EntropyProfile.from_laws(laws, surrogate_BV=surrogate)
    if logprobs is not None:
        return EntropyProfile.from_logprobs(logprobs)
    if h is not None:
        return EntropyProfile.from_entropy(h)
    assert profile is not None
    return profile


def _warn_resolution(**errors: float) -> None:
    for name, value in errors.items():
        if value < FFT_RESOLUTION:
            warnings.warn(
                f"{name}={value:g} is below the resolution {FFT_RESOLUTION:g} of the FFT: only "
                "rows whose method is exact can be trusted",
                ResolutionWarning,
                stacklevel=3,
            )


@dataclass(frozen=True)
class PlanRow:
    """What one scheme needs.

    Attributes
    ----------
    name, scheme
        Name in the registry and in words.
    tokens
        Least number of scored tokens with errors at most alpha and beta; ``inf`` if none up to the
        longest text considered, None if the profile does not tell (see ``note``).
    low, high
        Limits of ``tokens`` in the sense of ``method``.
    type2
        Type II error at that length.
    method
        ``"exact"``, ``"fft"`` (certain limits) or ``"mc"`` (95 % interval).
    distortion_free
        Whether a text's law, over keys, is the model's.
    distortion
        Mean total variation per token between the two; None if unknown.
    uses_model
        Whether the detector asks a language model.
    note
        Why there is no number, or empty.
    """

    name: str
    scheme: str
    tokens: float | None
    low: float | None
    high: float | None
    type2: float | None
    method: str
    distortion_free: bool
    distortion: float | None
    uses_model: bool
    note: str


def _count(tokens: float | None) -> str:
    if tokens is None:
        return "–"
    return f"{tokens:.0f}" if math.isfinite(tokens) else "never"


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class PlanTable:
    """Rows of all schemes at one pair of errors.

    Attributes
    ----------
    profile
        Label of the profile.
    entropy
        Nats per token.
    alpha, beta
        Type I and Type II error.
    rows
        One per scheme.
    """

    profile: str
    entropy: float
    alpha: float
    beta: float
    rows: tuple[PlanRow, ...]

    def row(self, name: str) -> PlanRow:
        """Return the first row of a name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r} among {[row.name for row in self.rows]}")

    @property
    def title(self) -> str:
        """What the table says, in a line."""
        return (
            f"tokens needed at α={self.alpha:g}, β={self.beta:g}; {self.profile}, "
            f"h={self.entropy:.4g} nats/token"
        )

    def _cells(self) -> list[list[str]]:
        cells = [["scheme", "tokens", "limits", "method", "distorts (TV/token)", "model", "note"]]
        for row in self.rows:
            limits = ""
            if row.low is not None and (row.low != row.tokens or row.high != row.tokens):
                limits = f"{_count(row.low)}…{_count(row.high)}"
            if row.distortion_free:
                distorts = "no"
            else:
                distorts = "yes" if row.distortion is None else f"yes ({row.distortion:.3g})"
            cells.append(
                [
                    row.scheme,
                    _count(row.tokens),
                    limits,
                    METHODS.get(row.method, ""),
                    distorts,
                    "yes" if row.uses_model else "no",
                    row.note,
                ]
            )
        return cells

    def to_markdown(self) -> str:
        """Return a Markdown table under a line that says what it is."""
        header, *body = self._cells()
        lines = [self.title, "", "| " + " | ".join(header) + " |"]
        lines.append("|---|--:|---|---|---|---|---|")
        lines += ["| " + " | ".join(cells) + " |" for cells in body]
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """Return comma-separated values with a header; numbers as they are."""
        out = io.StringIO()
        fields = ["profile", "entropy", "alpha", "beta", *PlanRow.__dataclass_fields__]
        writer = csv.DictWriter(out, fields, lineterminator="\n")
        writer.writeheader()
        head = {
            "profile": self.profile,
            "entropy": self.entropy,
            "alpha": self.alpha,
            "beta": self.beta,
        }
        for row in self.rows:
            writer.writerow(head | asdict(row))
        return out.getvalue()

    def to_json(self) -> str:
        """Return JSON; numbers of tokens that do not exist are null, with a note saying why."""
        record = asdict(self)
        record["rows"] = [{k: _json_number(v) for k, v in row.items()} for row in record["rows"]]
        return json.dumps(record, ensure_ascii=False, indent=1)

    def to_rich(self) -> "Table":
        """Return a table for the terminal."""
        from rich.table import Table

        header, *body = self._cells()
        table = Table(title=self.title, title_justify="left")
        for name in header:
            table.add_column(name, justify="right" if name == "tokens" else "left")
        for cells in body:
            table.add_row(*cells)
        return table

    def __rich__(self) -> "Table":
        return self.to_rich()

    def __str__(self) -> str:
        return self.to_markdown()


def _row(
    scheme: PlannedScheme, profile: EntropyProfile, alpha: float, beta: float, max_tokens: int
) -> PlanRow:
    tokens = low = high = type2 = distortion = None
    method, note = "", ""
    try:
        found = scheme.tokens_needed(profile, alpha, beta, max_tokens=max_tokens)
        tokens, low, high, method = found.value, found.low, found.high, found.method
        if math.isfinite(tokens):
            type2 = scheme.type2(profile, int(tokens), alpha).value
        elif profile.entropy <= 0:
            note = "text without entropy cannot carry a watermark"
        else:
            note = f"not within {max_tokens} tokens"
    except CannotPlanError as error:
        note = str(error)
    if not scheme.distortion_free and profile.laws_BV is not None:
        distortion = _distortion(scheme, profile)
    return PlanRow(
        scheme.name,
        scheme.label,
        tokens,
        low,
        high,
        type2,
        method,
        scheme.distortion_free,
        0.0 if scheme.distortion_free else distortion,
        scheme.uses_model,
        note,
    )


def _distortion(scheme: PlannedScheme, profile: EntropyProfile) -> float | None:
    try:
        return scheme.distortion(profile)
    except CannotPlanError:
        return None


def tokens_needed(
    profile: EntropyProfile | None = None,
    *,
    logprobs: ArrayLike | None = None,
    laws: ArrayLike | None = None,
    surrogate: ArrayLike | None = None,
    h: float | None = None,
    alpha: float = 1e-3,
    beta: float = 0.05,
    schemes: Schemes = "all",
    max_tokens: int = MAX_TOKENS,
) -> PlanTable:
    """Return how many scored tokens each scheme needs at equal Type I error.

    Parameters
    ----------
    profile
        What is known of the text, or one of the following in its place.
    logprobs
        Natural logs of the model's probabilities of sampled tokens, ``[N]``.
    laws, surrogate
        Next-token laws of the model, ``[B, V]``, and of the surrogate that the detector will ask;
        the model itself by default.
    h
        Entropy in nats per token; a two-token reference law of that entropy is taken.
    alpha, beta
        Type I and Type II error, in ``(0, 1)``.
    schemes
        ``"all"``, names of `modicum.umpwatermark.schemes.SCHEMES`, or schemes.
    max_tokens
        Longest text considered.

    Returns
    -------
    PlanTable
        A row that cannot be planned says why.

    Raises
    ------
    ValueError
        For errors outside ``(0, 1)``, an unknown scheme, or not exactly one description of the
        text.

    Warns
    -----
    ResolutionWarning
        If alpha or beta is below what the FFT resolves.

    Notes
    -----
    Tokens are scored positions: warm-up and repeated contexts come on top.
    """
    check_alpha(alpha)
    check_alpha(beta, "beta")
    check_tokens(max_tokens)
    made = make_schemes(schemes)
    known = _profile(profile, logprobs, laws, h, surrogate)
    _warn_resolution(alpha=alpha, beta=beta)
    rows = tuple(_row(scheme, known, alpha, beta, max_tokens) for scheme in made)
    return PlanTable(known.label, known.entropy, alpha, beta, rows)


@dataclass(frozen=True)
class PowerCurve:
    """Type II error against length.

    Attributes
    ----------
    name, scheme
        Name in the registry and in words.
    tokens
        Lengths.
    errors
        Type II errors with their limits; empty if the profile does not tell (see ``note``).
    note
        Why there are none, or empty.
    """

    name: str
    scheme: str
    tokens: tuple[int, ...]
    errors: tuple[Type2, ...]
    note: str


def power(
    profile: EntropyProfile | None = None,
    *,
    tokens: Sequence[int],
    alpha: float = 1e-3,
    logprobs: ArrayLike | None = None,
    laws: ArrayLike | None = None,
    surrogate: ArrayLike | None = None,
    h: float | None = None,
    schemes: Schemes = "all",
) -> list[PowerCurve]:
    """Return the Type II error of each scheme at given lengths; the power is 1 minus it.

    Parameters
    ----------
    tokens
        Numbers of scored tokens.
    profile, logprobs, laws, surrogate, h, alpha, schemes
        As in `tokens_needed`.

    Returns
    -------
    list of PowerCurve

    Raises
    ------
    ValueError
        As `tokens_needed`, or for a length that is not a whole number of at least 1.
    """
    check_alpha(alpha)
    lengths = tuple(check_tokens(n) for n in tokens)
    made = make_schemes(schemes)
    known = _profile(profile, logprobs, laws, h, surrogate)
    curves = []
    for scheme in made:
        errors: tuple[Type2, ...] = ()
        note = ""
        try:
            errors = tuple(scheme.type2(known, n, alpha) for n in lengths)
        except CannotPlanError as error:
            note = str(error)
        curves.append(PowerCurve(scheme.name, scheme.label, lengths, errors, note))
    return curves


def evidence_budget(
    q: ArrayLike | EntropyProfile, q_hat: ArrayLike | None = None
) -> dict[str, float]:
    """Return how much evidence per token each kind of test can collect, nats.

    The p-value of a long text falls about as ``exp(-n evidence)``.

    Parameters
    ----------
    q
        Next-token laws ``[B, V]``, or a profile.
    q_hat
        Laws of the surrogate, ``[B, V]``; the model itself by default.

    Returns
    -------
    dict
        ``"entropy"``: the ceiling, reached by a test that knows the model. ``"weighted pivot"``:
        expected log-likelihood ratio of the pivot given the surrogate's probability of its token,
        ``E[ln(1/q) - 1 + q]`` with the exact model; a bad surrogate can make it negative.
        ``"pivot"``: Kullback-Leibler divergence of the pooled law of the pivot, the ceiling of
        tests without a model. ``"sum"``: Bahadur slope of the sum test. ``"hazard"``: as
        ``"pivot"`` for the hazard sampler, if laws are known.
    """
    if isinstance(q, EntropyProfile):
        if q_hat is not None:
            raise ValueError("a profile brings its own surrogate; q_hat goes with laws")
        profile = q
    else:
        profile = EntropyProfile.from_laws(q, surrogate_BV=q_hat)
    surrogate = np.maximum(profile.surrogate_A, PROB_FLOOR)
    weighted = -np.log(surrogate) - profile.prob_A * (1 / surrogate - 1)
    budget = {
        "entropy": profile.entropy,
        "weighted pivot": float(profile.weights_A @ weighted),
        "pivot": GumbelPivotScheme().evidence(profile),
        "sum": GumbelSumScheme().evidence(profile),
    }
    if profile.laws_BV is not None:
        budget["hazard"] = HazardScheme().evidence(profile)
    return budget


def required_entropy(num_tokens: int, alpha: float, beta: float) -> float:
    """Return the least entropy per token with which the optimum does with n tokens.

    The inverse of `n_ump` on two-token reference laws, which are the hardest we know of their
    entropy.

    Parameters
    ----------
    num_tokens
        n.
    alpha, beta
        Type I and Type II error, in ``(0, 1)``.

    Returns
    -------
    float
        Nats per token, at most ``ln 2``; ``inf`` if even fair coins have too little.
    """
    n = check_tokens(num_tokens)
    check_alpha(alpha)
    check_alpha(beta, "beta")

    def suffices(delta: float) -> bool:
        return ump_error(EntropyProfile.spike(delta), n, alpha).value <= beta

    if not suffices(0.5):
        return math.inf
    low, high = 0.0, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return binary_entropy(high)


@dataclass(frozen=True)
class Plan:
    """All that can be said before anything is generated.

    Attributes
    ----------
    table
        Tokens needed by scheme.
    estimates
        Tokens the optimum needs by exact computation, bounds and approximations.
    rate
        ``max{ln(1/h) (ln 1/alpha ∧ ln 1/beta), ln 1/alpha} / h``: the order of the former on
        two-token laws, inferred, not proven.
    budget
        Evidence per token by kind of test, nats.
    """

    table: PlanTable
    estimates: tuple[TokenEstimate, ...]
    rate: float
    budget: dict[str, float]

    def to_markdown(self) -> str:
        """Return three Markdown tables."""
        lines = [
            self.table.to_markdown(),
            "| tokens of the optimum | | what it is |",
            "|---|--:|---|",
        ]
        lines += [f"| {e.method} | {_count(e.tokens)} | {e.status} |" for e in self.estimates]
        lines += [f"| rate | {self.rate:.0f} | order on two-token laws, inferred |", ""]
        lines += ["| evidence per token | nats |", "|---|--:|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in self.budget.items()]
        return "\n".join(lines) + "\n"


def plan(
    profile: EntropyProfile | None = None,
    *,
    logprobs: ArrayLike | None = None,
    laws: ArrayLike | None = None,
    surrogate: ArrayLike | None = None,
    h: float | None = None,
    alpha: float = 1e-3,
    beta: float = 0.05,
    schemes: Schemes = "all",
    max_tokens: int = MAX_TOKENS,
) -> Plan:
    """Return tokens needed by scheme, estimates for the optimum and the evidence per token.

    Parameters
    ----------
    profile, logprobs, laws, surrogate, h, alpha, beta, schemes, max_tokens
        As in `tokens_needed`.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        As `tokens_needed`, or for text without any entropy.
    """
    known = _profile(profile, logprobs, laws, h, surrogate)
    if known.entropy <= 0:
        raise ValueError("the text has no entropy: it cannot carry a watermark")
    table = tokens_needed(known, alpha=alpha, beta=beta, schemes=schemes, max_tokens=max_tokens)
    estimates = tuple(
        n_ump(known, alpha, beta, method, max_tokens=max_tokens) for method in ESTIMATES
    )
    return Plan(
        table,
        estimates,
        rate_reference(known.entropy, alpha, beta),
        evidence_budget(known),
    )
