"""Making the environments known to Gymnasium without loading it.

Where Gymnasium is loaded already they are registered at once, otherwise right after it is: whoever
imports both finds ``modicum/MajorityMDP-v0``, in whatever order, and who needs no environments does
not wait for Gymnasium.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["register_with_gymnasium"]

ENGINE = "gymnasium"


def register_with_gymnasium() -> None:
    """Register the environments now if Gymnasium is loaded, else as soon as it is."""
    if sys.modules.get(ENGINE) is not None:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    import_module("modicum.repcomplexity.envs").register()


class _Finder(MetaPathFinder):
    """Finds Gymnasium as the other finders do, and registers the environments after it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != ENGINE:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(Loader):
    """Runs a module with its own loader, then registers the environments."""

    def __init__(self, inner: Any, finder: _Finder):
        self._inner, self._finder = inner, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._inner.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        # Nobody is to notice: the module's loader is its own, and the finder is gone.
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        _register()
