"""Which expert answers next: one controller per file, one interface (`base.Controller`)."""

from __future__ import annotations

from modicum.testtime.controllers.base import Controller, VectorController
from modicum.testtime.controllers.eliminate import Eliminate
from modicum.testtime.controllers.exp3 import EXP3
from modicum.testtime.controllers.hedge import Hedge
from modicum.testtime.controllers.round_robin import RoundRobin
from modicum.testtime.controllers.simulate import (
    ControllerStudy,
    SessionStudy,
    simulate_controller,
    simulate_session,
)
from modicum.testtime.controllers.thompson import Thompson
from modicum.testtime.controllers.ucb1 import UCB1
from modicum.testtime.controllers.uniform import Uniform

__all__ = [
    "EXP3",
    "UCB1",
    "Controller",
    "ControllerStudy",
    "Eliminate",
    "Hedge",
    "RoundRobin",
    "SessionStudy",
    "Thompson",
    "Uniform",
    "VectorController",
    "parse_controller",
    "simulate_controller",
    "simulate_session",
]

CONTROLLERS: dict[str, type[Controller]] = {
    kind.name: kind for kind in (RoundRobin, Eliminate, UCB1, Thompson, EXP3, Hedge, Uniform)
}
"""The controllers of this package by name."""


def parse_controller(text: str) -> Controller:
    """Return the controller that a text such as ``"ucb1:c=1,reset=session"`` describes.

    Parameters
    ----------
    text
        A name (``round-robin``, ``eliminate``, ``ucb1``, ``thompson``, ``exp3``, ``hedge``,
        ``uniform``), and after a colon settings of the controller separated by commas.

    Raises
    ------
    ValueError
        If the name or a setting is not known, or a value is out of range.
    """
    name, _, rest = text.partition(":")
    kind = CONTROLLERS.get(name.strip().lower().replace("_", "-"))
    if kind is None:
        raise ValueError(f"controller must be one of {', '.join(CONTROLLERS)}, not {name!r}")
    known = kind().settings()
    settings: dict[str, str | float] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known or not equals:
            raise ValueError(
                f"{part!r} is no setting of {kind.name}; it takes"
                f" {', '.join(f'{known_key}=…' for known_key in known)}"
            )
        try:
            settings[key] = float(value)
        except ValueError:
            settings[key] = value
    try:
        return kind(**settings)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"{text!r}: {error}") from error
