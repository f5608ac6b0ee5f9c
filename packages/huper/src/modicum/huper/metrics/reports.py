"""Everything about a set of transcripts in one table, for people and as JSON.

`report` judges one system; `inventory_effect` judges several, in their own symbols and folded into
a common inventory; `PhoneMetric` collects batches as the metrics of ``evaluate`` do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from modicum.huper.features import edit_cost
from modicum.huper.metrics.feature_errors import feature_errors
from modicum.huper.metrics.ipa import Normaliser, listed
from modicum.huper.metrics.phones import Interval, Sequences, is_arpabet, paired, phone_errors
from modicum.huper.phones import PhoneSet

__all__ = [
    "InventoryEffect",
    "InventoryRow",
    "PhoneMetric",
    "Report",
    "compute",
    "inventory_effect",
    "nearest",
    "report",
]

MEASURES = ("per", "pfer")
"""What a report has; the second needs panphon."""

Fold = Callable[[Sequence[str]], Sequence[str]]

_SHOWN = 8
"""Confusions and phones that a printed report shows."""


@dataclass(frozen=True)
class Report:
    """Errors of one system.

    Attributes
    ----------
    utterances, reference_phones, hypothesis_phones
        How many there are.
    per, per_interval
        Phone error rate, a ratio, None without a reference phone; its bootstrap interval, None if
        it was not asked for, there are fewer than two utterances, or so many empty references that
        it has no upper end.
    matches, substitutions, deletions, insertions
        Phones; see `phone_errors` for ties.
    empty_references, insertions_without_reference
        Utterances whose reference has no phone, whose own error rate is undefined, and what was
        inserted there. Those insertions are among `insertions` and in the rates.
    pfer, pfer_interval
        Phonetic feature error rate over the corpus, a ratio, and its interval; None if not taken.
    reference_segments
        What it is divided by.
    unknown, hyp_unknown
        Symbols of references and hypotheses that have no features, and how often: they count as
        nothing there.
    emptied
        Utterances whose reference has phones, but none with features.
    confusions
        (phone of the reference, phone said, count), the most frequent errors first; None stands for
        no phone.
    recall
        Fraction of each phone of the references that is right.
    level, seed, resamples
        Of the intervals.
    """

    utterances: int
    reference_phones: int
    hypothesis_phones: int
    per: float | None
    per_interval: Interval | None
    matches: int
    substitutions: int
    deletions: int
    insertions: int
    empty_references: int
    insertions_without_reference: int
    pfer: float | None = None
    pfer_interval: Interval | None = None
    reference_segments: int | None = None
    unknown: Mapping[str, int] = field(default_factory=dict)
    hyp_unknown: Mapping[str, int] = field(default_factory=dict)
    emptied: int = 0
    confusions: tuple[tuple[str | None, str | None, int], ...] = ()
    recall: Mapping[str, float] = field(default_factory=dict)
    level: float = 0.95
    seed: int = 0
    resamples: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return numbers, strings, lists and dictionaries."""
        found = asdict(self)
        for name in ("per_interval", "pfer_interval"):
            found[name] = None if found[name] is None else list(found[name])
        found["confusions"] = [list(one) for one in self.confusions]
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Read what `to_dict` gave."""
        found = dict(data)
        for name in ("per_interval", "pfer_interval"):
            found[name] = None if found[name] is None else tuple(found[name])
        found["confusions"] = tuple((one, two, count) for one, two, count in found["confusions"])
        return cls(**found)

    def to_json(self, indent: int | None = None) -> str:
        """Return JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what `to_json` gave."""
        return cls.from_dict(json.loads(text))

    def __str__(self) -> str:
        """Return a table for a terminal."""
        total = max(self.reference_phones, 1)
        rows = [
            ("utterances", f"{self.utterances}", ""),
            ("reference phones", f"{self.reference_phones}", ""),
            ("PER", _percent(self.per), _span(self.per_interval, self.level)),
            ("  substitutions", f"{self.substitutions}", _percent(self.substitutions / total)),
            ("  deletions", f"{self.deletions}", _percent(self.deletions / total)),
            ("  insertions", f"{self.insertions}", _percent(self.insertions / total)),
        ]
        if self.reference_segments is not None:
            rows.append(("PFER", _percent(self.pfer), _span(self.pfer_interval, self.level)))
        wide, middle = (max(len(row[at]) for row in rows) for at in (0, 1))
        lines = [
            f"{name:<{wide}}  {value:>{middle}}  {rest}".rstrip() for name, value, rest in rows
        ]
        if self.confusions:
            shown = ", ".join(
                f"{one or '∅'}→{two or '∅'} {count}" for one, two, count in self.confusions[:_SHOWN]
            )
            lines.append(f"most frequent errors: {shown}")
        wrong = [(value, phone) for phone, value in self.recall.items() if value < 1]
        if wrong:
            shown = ", ".join(
                f"{phone} {_percent(value)}" for value, phone in sorted(wrong)[:_SHOWN]
            )
            lines.append(f"lowest recall: {shown}")
        if self.empty_references:
            lines.append(
                f"{self.empty_references} utterances have an empty reference; "
                f"{self.insertions_without_reference} of the insertions are theirs"
            )
        for what, symbols in (("references", self.unknown), ("hypotheses", self.hyp_unknown)):
            if symbols:
                lines.append(f"without features in {what}, so not in PFER: {listed(symbols)}")
        if self.emptied:
            lines.append(f"{self.emptied} references have no segment with features")
        return "\n".join(lines)


def report(
    hyps: Sequences,
    refs: Sequences,
    *,
    ci: str | None = "bootstrap",
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
    groups: Sequence[object] | None = None,
    measures: Sequence[str] | None = None,
    inventory: PhoneSet | Sequence[str] | None = None,
    normaliser: Normaliser | None = None,
    alphabet: str = "auto",
) -> Report:
    """Judge a system.

    Parameters
    ----------
    hyps, refs
        Lists of phones, one for each utterance, in the same order; or mappings from ids to them.
    ci
        ``"bootstrap"`` over utterances, or None.
    level, seed, resamples, groups
        See `ratio_interval`.
    measures
        Out of `MEASURES`; None for all that can be taken: ``"pfer"`` needs panphon.
    inventory
        Phones of ARPAbet into which both sides are folded first; None leaves them as they are.
    normaliser, alphabet
        For the feature error rate, see `fed`. Unknown symbols are counted in the report whatever
        `normaliser` does about them.

    Raises
    ------
    TypeError, ValueError
        As `per`, and if an option is unknown or a phone cannot be folded.
    ImportError
        If panphon is not installed and ``"pfer"`` was asked for.
    """
    if ci not in ("bootstrap", None):
        raise ValueError(f'ci must be "bootstrap" or None, not {ci!r}')
    if measures is None:
        measures = MEASURES if find_spec("panphon") else ("per",)
    if bad := [one for one in measures if one not in MEASURES]:
        raise ValueError(f"measures are {', '.join(MEASURES)}, not {bad[0]!r}")
    hyp_rows, ref_rows = paired(hyps, refs)
    if inventory is not None:
        folded = _table(_phones_of(inventory))
        hyp_rows, ref_rows = ([folded(row) for row in rows] for rows in (hyp_rows, ref_rows))
    phones = phone_errors(hyp_rows, ref_rows)
    drawing: dict[str, Any] = {"seed": seed, "resamples": resamples, "groups": groups}
    values: dict[str, Any] = {}
    if "pfer" in measures:
        features = feature_errors(
            hyp_rows, ref_rows, normaliser=normaliser, alphabet=alphabet, stacklevel=4
        )
        values = {
            "pfer": _number(features.pfer()),
            "pfer_interval": _bounded(features.interval(level, **drawing)) if ci else None,
            "reference_segments": int(features.lengths.sum()),
            "unknown": features.unknown,
            "hyp_unknown": features.hyp_unknown,
            "emptied": features.emptied,
        }
    return Report(
        utterances=len(ref_rows),
        reference_phones=phones.reference_phones,
        hypothesis_phones=sum(map(len, hyp_rows)),
        per=_number(phones.per),
        per_interval=_bounded(phones.interval(level, **drawing)) if ci else None,
        matches=phones.matches,
        substitutions=phones.substitutions,
        deletions=phones.deletions,
        insertions=phones.insertions,
        empty_references=phones.empty_references,
        insertions_without_reference=phones.insertions_without_reference,
        confusions=tuple(phones.confusions()),
        recall=phones.recall,
        level=level,
        seed=seed,
        resamples=resamples if ci else 0,
        **values,
    )


# Inventories --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InventoryRow:
    """One system, in its own symbols and folded.

    Attributes
    ----------
    system
        Its name.
    inventory_size
        How many symbols it uses.
    per, folded_per
        Phone error rates, ratios.
    pfer, folded_pfer
        Phonetic feature error rates, ratios; None without panphon.
    """

    system: str
    inventory_size: int
    per: float
    folded_per: float
    pfer: float | None
    folded_pfer: float | None


@dataclass(frozen=True)
class InventoryEffect:
    """What folding into a common inventory does to a comparison.

    Attributes
    ----------
    rows
        The systems, in their order.
    inventory
        The common inventory.
    """

    rows: tuple[InventoryRow, ...]
    inventory: tuple[str, ...]

    @property
    def changed_orders(self) -> tuple[tuple[str, str], ...]:
        """Pairs of systems, the first better in native symbols and worse in folded ones, by PER."""
        return tuple(
            (one.system, two.system)
            for one in self.rows
            for two in self.rows
            if one.per < two.per and one.folded_per > two.folded_per
        )

    def to_dict(self) -> dict[str, Any]:
        """Return numbers, strings, lists and dictionaries; a rate that is not defined is None."""
        rows = [
            {
                name: _number(value) if isinstance(value, float) else value
                for name, value in asdict(row).items()
            }
            for row in self.rows
        ]
        return {"rows": rows, "inventory": list(self.inventory)}

    def to_json(self, indent: int | None = None) -> str:
        """Return JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        """Return a table for a terminal."""
        head = ("system", "symbols", "PER native", "PER folded", "PFER native", "PFER folded")
        table = [head] + [
            (
                row.system,
                str(row.inventory_size),
                *map(_percent, (row.per, row.folded_per, row.pfer, row.folded_pfer)),
            )
            for row in self.rows
        ]
        wide = [max(len(line[at]) for line in table) for at in range(len(head))]
        lines = [
            "  ".join(
                f"{cell:<{wide[at]}}" if at == 0 else f"{cell:>{wide[at]}}"
                for at, cell in enumerate(line)
            )
            for line in table
        ]
        for one, two in self.changed_orders:
            lines.append(f"folding puts {two} before {one}")
        return "\n".join(lines)


def inventory_effect(
    systems: Mapping[str, Sequences],
    refs: Sequences,
    inventory: PhoneSet | Sequence[str],
    *,
    how: str | Fold = "table",
    normaliser: Normaliser | None = None,
) -> InventoryEffect:
    """Compare systems in native symbols and after folding all of them into one inventory.

    Folding into the inventory of one system favours that system; a comparison should show both.

    Parameters
    ----------
    systems
        Hypotheses by the name of the system, as for `per`.
    refs
        References, in their own symbols.
    inventory
        The common inventory.
    how
        ``"table"``: ARPAbet and TIMIT by their folding tables, see `modicum.huper.phones.fold`.
        ``"nearest"``: each phone becomes the one of the inventory with the least feature distance
        (needs panphon). Or a function from a list of phones to another.
    normaliser
        For the feature error rates, see `fed`.

    Raises
    ------
    TypeError, ValueError
        As `per`, and if there is no system, `how` is unknown or a phone cannot be folded.
    ImportError
        If panphon is needed and not installed.
    """
    if not systems:
        raise ValueError("there is no system to compare")
    known = _phones_of(inventory)
    if isinstance(how, str) and how not in ("table", "nearest"):
        raise ValueError(f'how must be "table", "nearest" or a function, not {how!r}')
    if how == "table":
        folded: Fold = _table(known)
    elif how == "nearest":
        folded = nearest(known)
    else:
        folded = how  # type: ignore[assignment]
    with_features = find_spec("panphon") is not None
    rows = []
    for name, hyps in systems.items():
        hyp_rows, ref_rows = paired(hyps, refs)
        both = []
        for left, right in (
            (hyp_rows, ref_rows),
            ([list(folded(row)) for row in hyp_rows], [list(folded(row)) for row in ref_rows]),
        ):
            rate = phone_errors(left, right).per
            features = None
            if with_features:
                features = feature_errors(left, right, normaliser=normaliser).pfer()
            both.append((rate, features))
        (per, pfer), (folded_per, folded_pfer) = both
        size = len({phone for row in hyp_rows for phone in row})
        rows.append(InventoryRow(name, size, per, folded_per, pfer, folded_pfer))
    return InventoryEffect(tuple(rows), known)


def _table(inventory: tuple[str, ...]) -> Callable[[Sequence[str]], list[str]]:
    """Fold as `modicum.huper.phones.fold` does, with one phone set for all utterances."""
    phones = PhoneSet.ipa(inventory)
    return lambda row: list(phones.canonicalise(row))


def nearest(inventory: Iterable[str]) -> Fold:
    """Return a function that writes each phone as the nearest one of an inventory, by features.

    What is in the inventory stays as it is; of phones that are equally near the first is taken.

    Parameters
    ----------
    inventory
        ARPAbet phones or IPA segments.

    Raises
    ------
    ValueError
        From the function, if a phone has no features.
    ImportError
        From the function, if panphon is not installed.
    """
    known = tuple(inventory)
    names = dict.fromkeys(known)
    found: dict[str, str] = {}

    def name(phone: str) -> str:
        if phone not in found:
            found[phone] = min(known, key=lambda one: edit_cost(_spelled(phone), _spelled(one)))
        return found[phone]

    return lambda row: [phone if phone in names else name(phone) for phone in row]


def _spelled(phone: str) -> str:
    """Write IPA as the feature table has it, ARPAbet as it is."""
    if is_arpabet([phone]):
        return phone.rstrip("012") if len(phone) > 1 else phone
    segments = Normaliser(on_unknown="drop").split(phone)
    return segments.segments[0] if len(segments.segments) == 1 else phone


# Collecting batches -------------------------------------------------------------------------------


class PhoneMetric:
    """Collect predictions and references and compute error rates, as metrics of ``evaluate`` do.

    Parameters
    ----------
    measures
        Out of `MEASURES`; None for all that can be taken.
    separator
        For utterances that are strings: what stands between two phones, such as ``" "``. None
        refuses strings, whose characters are no phones.
    inventory, normaliser, alphabet
        As for `report`.

    Examples
    --------
    >>> metric = PhoneMetric(measures=["per"], separator=" ")
    >>> metric.add_batch(predictions=["HH AH L OW"], references=["HH AH L L OW"])
    >>> metric.compute()["per"]
    0.2
    """

    name = "phone_error_rate"

    def __init__(
        self,
        measures: Sequence[str] | None = None,
        *,
        separator: str | None = None,
        inventory: PhoneSet | Sequence[str] | None = None,
        normaliser: Normaliser | None = None,
        alphabet: str = "auto",
    ) -> None:
        if separator == "":
            raise ValueError("the separator of phones must be a character, not ''")
        self.separator = separator
        self.options: dict[str, Any] = {
            "measures": measures,
            "inventory": inventory,
            "normaliser": normaliser,
            "alphabet": alphabet,
        }
        self._predictions: list[Sequence[str]] = []
        self._references: list[Sequence[str]] = []

    def __len__(self) -> int:
        """Return how many utterances are held."""
        return len(self._references)

    def add(self, *, prediction: Sequence[str], reference: Sequence[str]) -> None:
        """Hold one utterance."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(
        self, *, predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
    ) -> None:
        """Hold some utterances.

        Raises
        ------
        TypeError, ValueError
            As `per`.
        """
        found = [
            [self._split(row) for row in rows] if not isinstance(rows, str) else rows
            for rows in (predictions, references)
        ]
        hyps, refs = paired(found[0], found[1])
        self._predictions += hyps
        self._references += refs

    def compute(
        self,
        *,
        predictions: Sequence[Sequence[str]] | None = None,
        references: Sequence[Sequence[str]] | None = None,
    ) -> dict[str, float | int | None]:
        """Compute over all that is held and given, and forget it.

        Returns
        -------
        dict
            ``per``, ``substitutions``, ``deletions``, ``insertions``, ``matches``,
            ``reference_phones``, and with the measure: ``pfer`` and ``unknown_symbols``. Rates are
            ratios, None without a reference phone.

        Raises
        ------
        ValueError
            If nothing is held or given, or one of both is missing.
        """
        if (predictions is None) != (references is None):
            raise ValueError("give both predictions and references, or neither")
        if predictions is not None and references is not None:
            self.add_batch(predictions=predictions, references=references)
        if not self._references:
            raise ValueError("there is no utterance: add some, or give predictions and references")
        held = self._predictions, self._references
        self._predictions, self._references = [], []
        whole = report(*held, ci=None, **self.options)
        found: dict[str, float | int | None] = {
            name: getattr(whole, name)
            for name in (
                *("per", "substitutions", "deletions", "insertions", "matches"),
                "reference_phones",
            )
        }
        if whole.reference_segments is not None:
            found["pfer"] = whole.pfer
            found["unknown_symbols"] = sum(whole.unknown.values()) + sum(whole.hyp_unknown.values())
        return found

    def _split(self, row: Sequence[str]) -> Sequence[str]:
        if not isinstance(row, str) or self.separator is None:
            return row
        return [phone for phone in row.split(self.separator) if phone]


def compute(
    *,
    predictions: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    **options: Any,
) -> dict[str, float | int | None]:
    """Compute error rates at once; see `PhoneMetric` for options and results."""
    return PhoneMetric(**options).compute(predictions=predictions, references=references)


def _phones_of(inventory: PhoneSet | Sequence[str]) -> tuple[str, ...]:
    if isinstance(inventory, str):
        raise TypeError(f"an inventory is a sequence of phones, not the string {inventory!r}")
    return inventory.phones if isinstance(inventory, PhoneSet) else tuple(inventory)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _bounded(interval: Interval | None) -> Interval | None:
    return interval if interval is not None and math.isfinite(interval[1]) else None


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.2f} %"


def _span(interval: Interval | None, level: float) -> str:
    if interval is None:
        return ""
    low, high = (100 * end for end in interval)
    return f"[{low:.2f}, {high:.2f}] {100 * level:g} %"
