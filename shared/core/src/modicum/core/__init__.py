"""What the modicum packages share: keyed randomness, statistics, kernels, experiments, the command.

Import the module you need (``from modicum.core.stats import …``). Importing this package alone
gives its version and takes nothing heavy into memory.
"""

from __future__ import annotations

from typing import Any

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    # The version is looked up when asked for: reading metadata costs more than this whole import.
    if name == "__version__":
        from importlib.metadata import version

        return version("modicum-core")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
