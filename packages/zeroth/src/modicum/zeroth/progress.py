"""What a person sees of a run: a bar on a terminal, a few lines at its end.

Reads a method through its public attributes. Where nobody watches (the standard error stream is no
terminal) the bar says nothing.
"""

import math
from types import TracebackType
from typing import Any, Self

from modicum.zeroth.optimizer import Optimizer, Round

__all__ = ["ProgressBar", "describe_round", "summary"]


def describe_round(found: Round, fun_std: float = math.nan, sign: float = 1.0) -> str:
    """Put a round into a line: model value, signal to noise, radius, eigenvalues.

    Parameters
    ----------
    found
        The round; what is nan in it is left out.
    fun_std
        Standard deviation of the model value.
    sign
        -1 for a function that is maximised.
    """
    parts = []
    if math.isfinite(found.fun):
        spread = f" ± {fun_std:.2g}" if math.isfinite(fun_std) else ""
        parts.append(f"f {sign * found.fun:.5g}{spread}")
    for name, value in (("SNR", found.snr), ("r", found.radius)):
        if math.isfinite(value):
            parts.append(f"{name} {value:.3g}")
    if math.isfinite(found.lambda_min):
        parts.append(f"λ {found.lambda_min:.3g} … {found.lambda_max:.3g}")
    if found.dropped:
        parts.append(f"{found.dropped} lost")
    return "  ".join(parts)


def summary(result: Any) -> str:
    """Put a result into a few lines, as SciPy does with ``disp=True``."""
    spread = f" ± {result.fun_std:.2g}" if math.isfinite(result.fun_std) else ""
    lines = [
        f"{'Finished' if result.success else 'Stopped'}: {result.message}",
        f"         Estimated function value: {result.fun:.6g}{spread}",
        f"         Predicted regret: {result.predicted_regret:.3g}",
        f"         Rounds: {result.nit}",
        f"         Function evaluations: {result.nfev}",
    ]
    return "\n".join(lines)


class ProgressBar:
    """A bar of evaluations with the last round beside it, on the standard error stream.

    Parameters
    ----------
    budget
        Evaluations of the run.
    sign
        -1 for a function that is maximised.
    console
        A ``rich.console.Console``; by default one on the standard error stream.
    """

    def __init__(self, budget: int, sign: float = 1.0, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = console if console is not None else Console(stderr=True)
        self.watched = bool(console.is_terminal)
        self._sign = sign
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            disable=not self.watched,
        )
        self._task = self._bar.add_task("", total=budget)

    def show(self, optimizer: Optimizer) -> None:
        """Show where a run is."""
        if not self.watched:
            return
        line = ""
        if optimizer.trace:
            spread = optimizer.recommendation().fun_std
            line = describe_round(optimizer.trace[-1], spread, self._sign)
        self._bar.update(self._task, completed=optimizer.nfev - optimizer.pending, description=line)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
