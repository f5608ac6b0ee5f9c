"""Methods by name, for hosts that pass on whatever they were given."""

from __future__ import annotations

from typing import Any

from modicum.zeroth.arguments import suggestion
from modicum.zeroth.minimize import method_class
from modicum.zeroth.optimizer import Optimizer, constructor_options

__all__ = ["make_optimizer"]


def make_optimizer(
    method: str | type[Optimizer], x0: Any, budget: int, **options: Any
) -> Optimizer:
    """Make a method.

    Parameters
    ----------
    method
        Name, such as ``"adaptive"``, or class.
    x0, budget, options
        As its constructor takes them; what is None is left to the method's default.

    Raises
    ------
    ValueError
        If there is no such method or option, or the constructor refuses a value.
    """
    cls = method_class(method)
    known = constructor_options(cls)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in known:
            raise ValueError(f"method {cls.name!r} has no option {name!r}{suggestion(name, known)}")
    return cls(x0, budget, **given)
