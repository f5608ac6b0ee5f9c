"""What one prompt still wants, as a state machine without I/O.

A strategy makes one task per prompt; the engine (`modicum.testtime.engine`) asks it for requests,
runs them on a backend and shows it the samples strictly in the order of submission. Tasks know no
backend, no clock and no file, and so behave the same for any concurrency, wave size or resume.
"""

from __future__ import annotations

from typing import Protocol

from modicum.testtime.samples import Request, Result, Sample
from modicum.testtime.stopping.base import Decision

__all__ = ["PromptTask"]


class PromptTask(Protocol):
    """One prompt of a run.

    Attributes
    ----------
    prompt_id
        Unique within a run.
    finished
        True once nothing more will be asked or used.
    """

    prompt_id: str
    finished: bool

    def next_request(self) -> Request | None:
        """Return a new request, or None if none can be made now.

        None means: finished, at its cap, or waiting for samples that are on their way (a round of
        self-correction needs the one before).
        """
        ...

    def wave_size(self) -> int:
        """Return how many requests to submit together before the next decision (wave mode)."""
        ...

    def read(self, sample: Sample) -> None:
        """Set ``sample.key`` from its text; once per sample, in any order, before `deliver`."""
        ...

    def deliver(self, sample: Sample) -> Decision:
        """Take the next sample in order of submission; never called once `finished`."""
        ...

    def close(self, reason: str) -> Decision:
        """End early ("budget", …): decide on what was delivered; nothing more is asked."""
        ...

    def result(self) -> Result:
        """Return the result; `samples` and `usage` are filled in by the engine."""
        ...
