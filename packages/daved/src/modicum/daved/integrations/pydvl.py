"""A selection as a result of pyDVL, to sort, compare, save and plot beside its own valuations.

Needs ``pip install "pydvl>=0.10"``, which asks for numpy below 2.
"""

from typing import Any

try:
    from pydvl.utils.status import Status  # type: ignore[import-not-found]
    from pydvl.valuation.result import ValuationResult  # type: ignore[import-not-found]
except ImportError as error:
    raise ImportError(
        'results for pyDVL need it: pip install "modicum-daved" "pydvl>=0.10"'
    ) from error

from modicum.daved.integrations.values import values_of
from modicum.daved.selection import Selection
from modicum.daved.validation import check_one_of

__all__ = ["VALUES", "to_valuation_result"]

VALUES = ("weights", "scores", "fair_price")
"""What a record's value may be."""


def to_valuation_result(selection: Selection, *, values: str = "weights") -> Any:
    """Give every record of a selection a value, as a ``ValuationResult``.

    Parameters
    ----------
    selection
        What to convert.
    values
        ``"weights"``: the design's weights, by which a purchase ranks; records that no step picked
        come below all others, by their score. ``"scores"``: -∂L/∂w_j, what one more unit of the
        record's weight is worth. ``"fair_price"``: that in currency.

    Returns
    -------
    pydvl.valuation.result.ValuationResult
        (n,) values in the order of the records, with variances 0 and counts 1, since nothing was
        sampled. Names are the labels as text. The status is converged if the certificate came
        below the tolerance, or the solver is one that has no certificate and ends by itself.

    Raises
    ------
    ValueError
        If there are no such values.
    """
    check_one_of("values", values, VALUES)
    if values == "weights":
        found_n = values_of(selection.weights, selection.scores)
    else:
        found_n = getattr(selection, values)
    labels_n = selection.labels
    solver = selection.settings.get("solver", "unknown solver")
    is_done = selection.converged or selection.gap != selection.gap
    return ValuationResult(
        values=found_n,
        data_names=None if labels_n is None else [str(label) for label in labels_n],
        algorithm=f"DAVED ({solver}, {values})",
        status=Status.Converged if is_done else Status.Pending,
    )
