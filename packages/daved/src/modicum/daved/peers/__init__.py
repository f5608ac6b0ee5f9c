"""Peers: other ways to say which of the sellers' rows to buy first, for fair comparisons.

One peer, one file; `base` says what a peer takes and gives. `PEERS` knows them by name and loads a
peer's module when the peer is asked for.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module

from modicum.daved.peers.base import Peer, View, order_of

__all__ = ["PEERS", "Peer", "View", "order_of"]


class _Registry(Mapping[str, type[Peer]]):
    def __init__(self, places: dict[str, tuple[str, str]]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> type[Peer]:
        if name not in self._places:
            raise KeyError(f"no peer {name!r}: there are {', '.join(self._places)}")
        module, attribute = self._places[name]
        found: type[Peer] = getattr(import_module(f"modicum.daved.peers.{module}"), attribute)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


PEERS: Mapping[str, type[Peer]] = _Registry(
    {
        "random": ("random_order", "Random"),
        "cheapest": ("cheapest", "Cheapest"),
        "nearest": ("nearest", "Nearest"),
        "cosine": ("cosine", "AbsoluteCosine"),
        "leverage": ("leverage", "Leverage"),
        "k_center": ("k_center", "KCenter"),
        "knn_shapley": ("knn_shapley", "KNNShapley"),
        "knn_shapley_regression": ("knn_shapley", "KNNShapleyRegression"),
        "data_oob": ("data_oob", "DataOOB"),
        "lava": ("lava", "LAVA"),
        "data_shapley": ("data_shapley", "DataShapley"),
        "banzhaf": ("banzhaf", "Banzhaf"),
        "influence": ("influence", "Influence"),
        "loo": ("loo", "LeaveOneOut"),
    }
)
"""Peers by name; every value is a class whose settings all have defaults."""
