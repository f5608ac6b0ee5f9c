"""Many documents into an append-only file, one JSON line each, so that a scan can be cut off.

Takes named documents and a function that reads one; writes what it found at once and does not read
a document again that a file already holds with the same content. The list of marked documents is
decided at the end over all of them, and appended. Knows no detector.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.stats import e_benjamini_hochberg
from modicum.umpwatermark.corpus import benjamini_hochberg

__all__ = ["METHODS", "ScanFile", "listed", "unique_names"]

METHODS = ("e-bh", "bh", "bonferroni")
FORMAT = "modicum.umpwatermark.scan"
VERSION = 1


def unique_names(documents: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield documents with a number behind names that came before, as in ``a``, ``a#2``."""
    seen: dict[str, int] = {}
    for name, document in documents:
        seen[name] = count = seen.get(name, 0) + 1
        yield (name if count == 1 else f"{name}#{count}"), document


def digest(document: Any) -> str:
    """Name the content of a document: text, or anything that is JSON."""
    raw = document if isinstance(document, str) else json.dumps(document)
    return hashlib.blake2b(raw.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def listed(rows: list[dict[str, Any]], method: str, alpha: float) -> NDArray[np.bool_]:
    """Return which documents are marked.

    Parameters
    ----------
    rows
        Documents with ``p_value`` and ``log_e_value``.
    method
        ``"e-bh"`` bounds the false discovery rate under any dependence; ``"bh"`` bounds it by the
        sharper p-values of documents that share no contexts; ``"bonferroni"`` bounds the
        probability of any false entry.
    alpha
        The bound.

    Raises
    ------
    ValueError
        For an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {METHODS}")
    if method == "e-bh":
        log_e_D = np.array([row["log_e_value"] for row in rows], dtype=np.float64)
        return np.asarray(e_benjamini_hochberg(log_e_D, alpha).rejected)
    p_D = np.array([row["p_value"] for row in rows], dtype=np.float64)
    return benjamini_hochberg(p_D, alpha) if method == "bh" else p_D <= alpha / len(p_D)


class ScanFile:
    """The file of a scan.

    Parameters
    ----------
    path
        The file; ``None`` keeps nothing.
    settings
        What must be the same for an earlier line to stand for a new reading; JSON.

    Attributes
    ----------
    finished
        Rows of documents that the file held when it was opened, by name.

    Raises
    ------
    ValueError
        If the file is no scan, or one with other settings.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.finished: dict[str, dict[str, Any]] = {}
        header = {"format": FORMAT, "version": VERSION, "settings": settings}
        # As it will come back from a file.
        self._header: dict[str, Any] = json.loads(json.dumps(header))
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            self._resume(path)
        else:
            self._append(self._header)

    def _resume(self, path: Path) -> None:
        raw = path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if not whole and f"{json.dumps(self._header)}\n".encode().startswith(raw):
            # Cut off in its first line.
            os.truncate(path, 0)
            self._append(self._header)
            return
        try:
            rows = [json.loads(line) for line in whole.splitlines()]
            header = rows[0] if rows else None
        except ValueError as error:
            raise ValueError(
                f"{path} exists and is not the result of a scan ({error}); give another --out"
            ) from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"{path} exists and is not the result of a scan; give another --out")
        if header != self._header:
            old, new = header.get("settings", {}), self._header["settings"]
            names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            raise ValueError(
                f"{path} was written with other settings ({', '.join(names) or 'version'}); give "
                "another --out, or the settings it was begun with"
            )
        # A line that was being written when the scan was cut off is written anew.
        if len(whole) < len(raw):
            os.truncate(path, len(whole))
        self.finished = {row["id"]: row for row in rows[1:] if "id" in row}

    def _append(self, row: dict[str, Any]) -> None:
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def run(
        self,
        documents: Iterable[tuple[str, Any]],
        read: Callable[[Any], dict[str, Any]],
        *,
        on_kept: Callable[[Any], None] = lambda document: None,
    ) -> list[dict[str, Any]]:
        """Read documents, appending a line for each that is not in the file yet.

        Parameters
        ----------
        documents
            (name, document) with different names.
        read
            Gives the JSON-able fields of a document's line.
        on_kept
            Called with each document that is not read again.

        Returns
        -------
        list of dict
            One row per document, in order, whether read now or before.
        """
        rows = []
        for name, document in documents:
            content = digest(document)
            row = self.finished.get(name)
            if row is not None and row.get("digest") == content:
                on_kept(document)
            else:
                row = {"id": name, **read(document), "digest": content}
                self._append(row)
            rows.append(row)
        return rows

    def close(self, method: str, alpha: float, rows: list[dict[str, Any]]) -> list[str]:
        """Decide which documents are marked, append the list, and return their names."""
        chosen = listed(rows, method, alpha)
        marked = [row["id"] for row, yes in zip(rows, chosen, strict=True) if yes]
        self._append(
            {"method": method, "alpha": alpha, "num_documents": len(rows), "marked": marked}
        )
        return marked
