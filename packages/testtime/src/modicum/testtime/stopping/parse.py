"""Stopping rules from short texts, for the command line and configuration files."""

from __future__ import annotations

import inspect
from typing import Any

from modicum.testtime.stopping.accept import AcceptCount, FirstAccept
from modicum.testtime.stopping.base import StoppingRule
from modicum.testtime.stopping.beta import BetaStop
from modicum.testtime.stopping.certificate import ModeCertificate
from modicum.testtime.stopping.curtailed import Curtailed
from modicum.testtime.stopping.esc import ESC
from modicum.testtime.stopping.fixed import FixedN
from modicum.testtime.stopping.ppr import PPR
from modicum.testtime.stopping.reward_gain import RewardGain
from modicum.testtime.stopping.supermajority import Supermajority

__all__ = ["RULES", "parse_rule"]

RULES: dict[str, type[StoppingRule]] = {
    "fixed": FixedN,
    "curtailed": Curtailed,
    "ppr": PPR,
    "certificate": ModeCertificate,
    "beta": BetaStop,
    "esc": ESC,
    "supermajority": Supermajority,
    "first-accept": FirstAccept,
    "accept-count": AcceptCount,
    "reward-gain": RewardGain,
}
"""Rules by the name that `parse_rule` knows."""


def parse_rule(text: str) -> StoppingRule:
    """Make a rule from its name and settings.

    Parameters
    ----------
    text
        ``name``, ``name:value`` (the rule's first setting) or ``name:setting=value,…``; names are
        the keys of `RULES` in any case, underscores for hyphens will do; settings are those of the
        rule's class.

    Returns
    -------
    StoppingRule

    Raises
    ------
    ValueError
        If there is no such rule or setting, a setting is missing, or a value does not fit; the
        message lists what there is.

    Examples
    --------
    >>> parse_rule("certificate:delta=0.05")
    ModeCertificate(delta=0.05)
    >>> parse_rule("curtailed:40")
    Curtailed(40)
    """
    given, _, rest = text.strip().partition(":")
    name = given.strip().lower().replace("_", "-")
    if name not in RULES:
        raise ValueError(f"no stopping rule {given!r}; there are {', '.join(RULES)}")
    kind = RULES[name]
    allowed = inspect.signature(kind).parameters
    settings: dict[str, Any] = {}
    for number, part in enumerate(filter(None, rest.split(","))):
        setting, equals, value = (side.strip() for side in part.partition("="))
        if not equals and number == 0:
            setting, value = next(iter(allowed)), setting
        if setting not in allowed or not value:
            raise ValueError(
                f"{part.strip()!r} is no setting of {name}; write setting=value with "
                f"{', '.join(allowed)}"
            )
        if setting in settings:
            raise ValueError(f"{setting} is given twice in {text!r}")
        settings[setting] = _value(value)
    missing = [
        setting
        for setting, parameter in allowed.items()
        if parameter.default is parameter.empty and setting not in settings
    ]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}, as in {name}:{missing[0]}=…")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"{text!r}: {error}") from error


def _value(text: str) -> bool | int | float | str:
    """Read a value: a boolean, an integer, a number or else text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
