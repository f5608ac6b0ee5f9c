"""Watermarks as a planner sees them: one protocol, one scheme per file, one registry."""

from collections.abc import Callable, Iterable

from modicum.umpwatermark.schemes._scores import FINE_EDGES, learned_edges
from modicum.umpwatermark.schemes.agnostic import AgnosticScheme
from modicum.umpwatermark.schemes.base import CannotPlanError, PlannedScheme, Tokens, Type2
from modicum.umpwatermark.schemes.binary_coupling import BinaryCouplingScheme
from modicum.umpwatermark.schemes.combined import CombinedScheme
from modicum.umpwatermark.schemes.dawa import DawaScheme
from modicum.umpwatermark.schemes.greenlist import GreenListScheme
from modicum.umpwatermark.schemes.gumbel_hits import GumbelHitsScheme
from modicum.umpwatermark.schemes.gumbel_pivot import GumbelPivotScheme
from modicum.umpwatermark.schemes.gumbel_sum import GumbelSumScheme
from modicum.umpwatermark.schemes.hazard import HazardScheme
from modicum.umpwatermark.schemes.inverse_transform import InverseTransformScheme
from modicum.umpwatermark.schemes.kgw import KGWScheme
from modicum.umpwatermark.schemes.sequence_gumbel import SequenceGumbelScheme
from modicum.umpwatermark.schemes.synthid import SynthIDScheme
from modicum.umpwatermark.schemes.ump import UMPScheme
from modicum.umpwatermark.schemes.unigram import UnigramScheme
from modicum.umpwatermark.schemes.weighted_pivot import WeightedPivotScheme

__all__ = [
    "FINE_EDGES",
    "SCHEMES",
    "AgnosticScheme",
    "BinaryCouplingScheme",
    "CannotPlanError",
    "CombinedScheme",
    "DawaScheme",
    "GreenListScheme",
    "GumbelHitsScheme",
    "GumbelPivotScheme",
    "GumbelSumScheme",
    "HazardScheme",
    "InverseTransformScheme",
    "KGWScheme",
    "PlannedScheme",
    "SequenceGumbelScheme",
    "SynthIDScheme",
    "Tokens",
    "Type2",
    "UMPScheme",
    "UnigramScheme",
    "WeightedPivotScheme",
    "learned_edges",
    "make_schemes",
]

SCHEMES: dict[str, Callable[[], PlannedScheme]] = {
    "ump": UMPScheme,
    "agnostic": AgnosticScheme,
    "sequence_gumbel": SequenceGumbelScheme,
    "combined": CombinedScheme,
    "weighted_pivot": WeightedPivotScheme,
    "dawa": DawaScheme,
    "gumbel_pivot": GumbelPivotScheme,
    "gumbel_sum": GumbelSumScheme,
    "gumbel_hits": GumbelHitsScheme,
    "hazard": HazardScheme,
    "greenlist": GreenListScheme,
    "greenlist_greedy": lambda: GreenListScheme(coupling="greedy"),
    "binary_coupling": BinaryCouplingScheme,
    "inverse_transform": InverseTransformScheme,
    "synthid": SynthIDScheme,
    "kgw": KGWScheme,
    "unigram": UnigramScheme,
}
"""Schemes with default parameters, by name, in the order of tables."""


def make_schemes(
    schemes: str | PlannedScheme | Iterable[str | PlannedScheme] = "all",
) -> list[PlannedScheme]:
    """Return schemes from names, instances or ``"all"``.

    Parameters
    ----------
    schemes
        ``"all"``, a name of `SCHEMES`, a scheme with parameters of your own, or several of these.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if isinstance(schemes, str):
        names: Iterable[str | PlannedScheme] = list(SCHEMES) if schemes == "all" else [schemes]
    elif isinstance(schemes, PlannedScheme):
        names = [schemes]
    else:
        names = schemes
    made = []
    for name in names:
        if isinstance(name, PlannedScheme):
            made.append(name)
        elif name in SCHEMES:
            made.append(SCHEMES[name]())
        else:
            raise ValueError(f"schemes must be 'all' or among {list(SCHEMES)}, got {name!r}")
    if not made:
        raise ValueError("there is no scheme to plan")
    return made
