"""A progress bar over the events of a run; silent where nobody watches.

Shows prompts done, samples used and saved, tokens, and the share of certified prompts.
"""

from __future__ import annotations

from typing import Any

from modicum.testtime.samples import Event

__all__ = ["ProgressBar"]


class ProgressBar:
    """Bar on the standard error stream.

    Parameters
    ----------
    total
        Prompts, None if unknown.
    console
        A ``rich.console.Console``; by default one on the standard error stream.
    """

    def __init__(self, total: int | None, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        console = console if console is not None else Console(stderr=True)
        self.done = self.used = self.saved = self.tokens = self.certified = 0
        self._bar = Progress(
            TextColumn("prompts"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            Elapsed(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(self.description, total=total)

    @property
    def description(self) -> str:
        """What stands beside the bar."""
        share = f"{self.certified / self.done:.0%}" if self.done else "–"
        return (
            f"{self.used:,} samples used, {self.saved:,} saved, {self.tokens:,} tokens,"
            f" {share} certified"
        )

    def start(self) -> None:
        """Show the bar."""
        self._bar.start()

    def stop(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def take(self, event: Event) -> None:
        """Take note of an event."""
        if event.sample is not None and event.kind == "sample":
            self.used += event.sample.used
            self.tokens += event.sample.n_prompt_tokens + event.sample.n_tokens
        if event.result is None:
            return
        self.done += 1
        self.saved += event.result.usage.saved
        self.certified += event.result.certified
        self._bar.update(self._task, advance=1, description=self.description)
