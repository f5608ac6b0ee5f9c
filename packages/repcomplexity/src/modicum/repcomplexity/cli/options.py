"""Options that commands share, and what is made of them: processes, targets, lists of numbers."""

import ast
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from modicum.repcomplexity.mdp import BitMDP

__all__ = [
    "FAMILIES",
    "environment_process",
    "family_of",
    "numbers_of",
    "process_of",
    "settings_of",
    "words_of",
]

PROCESS = "Process"
MEASURING = "Measuring"
OUTPUT = "Output"

FAMILIES = {
    "majority": "MajorityMDP",
    "parity": "ParityMDP",
    "sat": "SatMDP",
    "irrelevant-parity": "IrrelevantParityMDP",
    "random": "RandomMDP",
}
"""Names on the command line, and classes of `modicum.repcomplexity.families`."""

Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A setting of the process, such as slip=0.1 or control=[1,2,3,0]; several times.",
        rich_help_panel=PROCESS,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn.", rich_help_panel=MEASURING)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …", rich_help_panel=MEASURING)]
TimeLimit = Annotated[
    float,
    typer.Option(
        help="Seconds for all searches; what is not proved by then is an interval.",
        rich_help_panel=MEASURING,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no bar.", rich_help_panel=OUTPUT)]
Plot = Annotated[
    Path | None,
    typer.Option(help="Draw into this file (.png, .svg, .pdf).", rich_help_panel=OUTPUT),
]


def words_of(text: str, option: str) -> list[str]:
    """Split words at commas.

    Raises
    ------
    ValueError
        If there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError(f"{option} names none")
    return words


def numbers_of(text: str, option: str) -> list[int]:
    """Read integers with commas.

    Raises
    ------
    ValueError
        If they are none.
    """
    try:
        return [int(word) for word in words_of(text, option)]
    except ValueError:
        raise ValueError(f"{option} takes integers with commas, not {text!r}") from None


def settings_of(given: list[str] | None) -> dict[str, Any]:
    """Read ``NAME=VALUE``; values are JSON, Python's literals, or texts.

    Raises
    ------
    ValueError
        If one is something else.
    """
    settings: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--set takes NAME=VALUE, not {text!r}")
        settings[name] = _value_of(value)
    return settings


def _value_of(text: str) -> Any:
    """Read JSON or what Python prints (``True``, ``None``, ``'x'``); anything else is a text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def family_of(name: str, given: list[str] | None) -> "Callable[[int], BitMDP]":
    """Return what makes the process of a family for a size.

    Raises
    ------
    ValueError
        If there is no such family or setting.
    """
    from modicum.repcomplexity import families

    if name not in FAMILIES:
        raise ValueError(f"--mdp must be one of {', '.join(FAMILIES)}, not {name!r}")
    kind = getattr(families, FAMILIES[name])
    settings = settings_of(given)
    _check_settings(name, kind, settings)

    def family(n: int) -> "BitMDP":
        made: BitMDP = kind(n, **settings)
        return made

    family.__name__ = kind.__name__
    return family


def _check_settings(name: str, kind: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    # The first one is the size, which has an option of its own.
    known = list(inspect.signature(kind).parameters)[1:]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r}; it has {', '.join(known)}")


def process_of(
    mdp: str | None,
    n: int | None,
    env: str | None,
    given: list[str] | None,
    horizon: int | None,
    gamma: float,
    encoding: str,
) -> "BitMDP":
    """Make a process of a family, or read that of a Gymnasium environment.

    Raises
    ------
    ValueError
        If both or neither are named, or there is no such process.
    ImportError
        If an environment is named and Gymnasium is missing.
    """
    if (mdp is None) == (env is None):
        raise ValueError(f"give either --mdp ({', '.join(FAMILIES)}) or --env")
    if mdp is not None:
        if n is None:
            raise ValueError("--mdp needs its size: --n")
        if gamma != 1 or encoding != "binary":
            raise ValueError("--gamma and --encoding are for --env; a family has its own")
        more = [] if horizon is None else [f"horizon={horizon}"]
        return family_of(mdp, [*(given or ()), *more])(n)
    if n is not None:
        raise ValueError("--n is for --mdp; an environment takes --set NAME=VALUE")
    return environment_process(str(env), settings_of(given), horizon, gamma, encoding)


def environment_process(
    env: str, settings: Mapping[str, Any], horizon: int | None, gamma: float, encoding: str
) -> "BitMDP":
    """Return the process of an environment: its own, or the table that toy-text environments have.

    Raises
    ------
    ValueError
        If there is no such environment, or it has neither.
    """
    from modicum.repcomplexity.integrations.gymnasium import named_environment
    from modicum.repcomplexity.mdp import BitMDP

    made = named_environment(env, **settings)
    try:
        own = getattr(made.unwrapped, "mdp", None)
        if isinstance(own, BitMDP):
            return own
        return BitMDP.from_gymnasium(made, horizon=horizon, gamma=gamma, encoding=encoding)
    finally:
        made.close()
