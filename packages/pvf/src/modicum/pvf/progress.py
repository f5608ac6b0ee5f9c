"""A progress bar over a decoding; silent where nobody watches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from modicum.pvf.stats import DecodeStats

__all__ = ["bar"]


@contextmanager
def bar(shown: bool, total: int) -> Iterator[Callable[[Sequence[DecodeStats]], None]]:
    """Show tokens, calls and tokens for each call on standard error if it is a terminal.

    Parameters
    ----------
    shown
        Whether to show anything.
    total
        Tokens that are to be filled.

    Yields
    ------
    function
        To be called with the statistics of the batch after every call.
    """
    if not shown:
        yield lambda stats: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("tokens"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[cost]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown_bar:
        task = shown_bar.add_task("", total=total, cost="")
        done = {"tokens": 0, "calls": 0}
        batch: dict[str, object] = {"stats": None, "tokens": 0, "calls": 0}

        def advance(stats: Sequence[DecodeStats]) -> None:
            if batch["stats"] is not stats:
                batch.update(stats=stats, tokens=0, calls=0)
            tokens = sum(item.tokens for item in stats)
            calls = sum(item.nfe for item in stats)
            done["tokens"] += tokens - int(str(batch["tokens"]))
            done["calls"] += calls - int(str(batch["calls"]))
            batch.update(tokens=tokens, calls=calls)
            rate = done["tokens"] / done["calls"] if done["calls"] else 0.0
            shown_bar.update(
                task,
                completed=done["tokens"],
                cost=f"{done['calls']:,} calls, {rate:.2f} tokens each",
            )

        yield advance
