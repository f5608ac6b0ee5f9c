"""The manifest of a purchase: what was read, how it was chosen, what came out, in one file.

It holds the whole selection, so that a report can be made of it where the sellers' files are not.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from modicum.core.experiment import dumps, loads, write_atomic
from modicum.daved.cli.inputs import Market
from modicum.daved.selection import Selection

__all__ = ["Run", "read_run", "versions", "write_run"]

_FORMAT = 1  # number of the layout; raised when an older reader could misread it
_LIBRARIES = ("modicum-daved", "modicum-core", "numpy", "scipy", "scikit-learn")
_KIND = "modicum-daved run"


@dataclass(frozen=True)
class Run:
    """What a report needs of a manifest.

    Attributes
    ----------
    selection
        The purchase.
    files_n
        File of each record, (n,).
    sigma2
        Variance of the label noise, the unit of errors.
    """

    selection: Selection
    files_n: np.ndarray
    sigma2: float


def write_run(
    path: Path,
    selection: Selection,
    market: Market,
    parameters: Mapping[str, Any],
    *,
    started: str,
    seconds: float,
    warnings: Sequence[str],
) -> None:
    """Write a manifest, whole or not at all.

    Parameters
    ----------
    path
        Where to.
    selection, market
        What was bought, and of what.
    parameters
        Every option by name.
    started, seconds
        When the run began and how long it took: all that two equal runs differ in.
    warnings
        What was warned of.
    """
    found = {
        "kind": _KIND,
        "format": _FORMAT,
        "started": started,
        "seconds": seconds,
        "versions": versions(),
        "inputs": [_described(role, file) for role, file in market.files],
        "parameters": {name: _plain(value) for name, value in parameters.items()},
        "features": {"columns": market.table.columns, "fingerprint": market.features.fingerprint()},
        "warnings": list(warnings),
        "sellers": [str(file) for file in market.table.files],
        "offsets": market.table.offsets,
        "selection": selection.to_dict(),
    }
    write_atomic(path, dumps(found))


def read_run(path: Path) -> Run:
    """Read a manifest.

    Raises
    ------
    ValueError
        If the file is none, not a whole one, or one of a later layout.
    """
    try:
        found = loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no manifest of a purchase: {error}") from None
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        raise ValueError(f"{path} is no manifest of a purchase; `select --manifest` writes one")
    if found.get("format", 0) > _FORMAT:
        raise ValueError(f"{path} has the layout {found['format']}; this version reads {_FORMAT}")
    try:
        return Run(
            Selection.from_dict(found["selection"]),
            np.repeat(found["sellers"], np.diff(found["offsets"])),
            found["parameters"]["sigma2"],
        )
    except KeyError as error:
        raise ValueError(f"{path} is no whole manifest: it has no {error}") from None


def versions() -> dict[str, str]:
    """Give the versions of Python and of the libraries that a purchase depends on."""
    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _described(role: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return {"role": role, "path": str(path), "bytes": path.stat().st_size, "sha256": digest}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
