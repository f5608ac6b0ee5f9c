"""Transcribing a corpus with Ray Data.

`Transcriber` is a class for ``Dataset.map_batches``: each worker reads the model once and adds
columns to the batches that it gets. It needs no Ray itself, so that it also works with anything
else that maps batches of columns, such as ``datasets.Dataset.map``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from modicum.huper.recognizer import Recognizer

__all__ = ["Transcriber", "transcribe"]


class Transcriber:
    """Add what was heard to batches of recordings.

    Parameters
    ----------
    model
        What `Recognizer.from_pretrained` takes.
    audio
        Column of files, or of samples.
    sampling_rate
        Samples per second, where the column has samples.
    device, dtype
        For the model.
    batch_size
        Recordings that go through the model together.
    options
        Of `modicum.huper.recognizer.decode`, as ``decode``, ``inventory``, ``lm`` ….

    Raises
    ------
    FileNotFoundError, ValueError
        As `Recognizer.from_pretrained`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "tiny",
        *,
        audio: str = "audio_path",
        sampling_rate: int | None = None,
        device: str = "auto",
        dtype: str | None = None,
        batch_size: int = 16,
        **options: Any,
    ) -> None:
        self.recognizer = Recognizer.from_pretrained(model, device=device, dtype=dtype)
        self.audio, self.sampling_rate, self.batch_size = audio, sampling_rate, batch_size
        self.options = options

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Transcribe a batch.

        Parameters
        ----------
        batch
            Columns of equal length.

        Returns
        -------
        dict
            The same columns and ``phones`` (separated by spaces), ``ipa``, ``starts`` and ``ends``
            (lists of seconds), ``confidences`` (a list), ``confidence`` (NaN without phones) and
            ``score``.

        Raises
        ------
        KeyError
            If there is no such column.
        TypeError, ValueError, FileNotFoundError
            As `Recognizer.transcribe`.
        """
        if self.audio not in batch:
            raise KeyError(f"no column {self.audio!r}, there are {', '.join(batch)}")
        recordings = [str(one) if isinstance(one, np.str_) else one for one in batch[self.audio]]
        found = self.recognizer.transcribe(
            recordings, self.sampling_rate, batch_size=self.batch_size, **self.options
        )
        return {
            **batch,
            "phones": np.array([" ".join(one.phones) for one in found], dtype=object),
            "ipa": np.array([" ".join(one.ipa) for one in found], dtype=object),
            "starts": _lists([span.start for span in one.spans] for one in found),
            "ends": _lists([span.end for span in one.spans] for one in found),
            "confidences": _lists(list(one.confidences) for one in found),
            "confidence": np.array(
                [np.nan if one.confidence is None else one.confidence for one in found]
            ),
            "score": np.array([one.score for one in found], dtype=np.float64),
        }


def transcribe(
    dataset: Any, *, workers: int = 1, rows: int = 64, gpus: float = 0, **settings: Any
) -> Any:
    """Add what was heard to a dataset of Ray.

    Parameters
    ----------
    dataset
        A ``ray.data.Dataset``.
    workers
        Processes, each with a model.
    rows
        Of a batch.
    gpus
        Of each worker; a part of 1 lets several share one.
    settings
        Of `Transcriber`.

    Returns
    -------
    ray.data.Dataset
        Lazy, as all of Ray Data: write it or iterate over it.

    Raises
    ------
    ImportError
        Without Ray.
    """
    if find_spec("ray") is None:
        raise ImportError('Ray is missing: pip install "modicum-huper[ray]"')
    return dataset.map_batches(
        Transcriber,
        fn_constructor_kwargs=settings,
        batch_size=rows,
        batch_format="numpy",
        concurrency=workers,
        num_gpus=gpus or None,
    )


def _lists(values: Any) -> np.ndarray:
    """Give a column of lists, even where all are of one length."""
    rows = list(values)
    found = np.empty(len(rows), dtype=object)
    for at, row in enumerate(rows):
        found[at] = np.asarray(row, dtype=np.float64)
    return found
