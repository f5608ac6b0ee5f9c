"""Phone alignments as those of jiwer, for its tables and pictures.

jiwer aligns words; a phone is handed to it as one. Its totals of errors are those of
`modicum.huper.metrics`; where several alignments are shortest it may choose another one, and so
split them differently into substitutions, deletions and insertions.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from modicum.huper.metrics.phones import Sequences, paired

__all__ = ["process_phones", "visualise"]


def process_phones(hyps: Sequences, refs: Sequences) -> Any:
    """Align phones with jiwer.

    Parameters
    ----------
    hyps, refs
        As for `modicum.huper.metrics.per`; phones without white space.

    Returns
    -------
    jiwer.WordOutput
        Its ``wer`` is the phone error rate.

    Raises
    ------
    ValueError
        If a phone has white space, or as `per`.
    ImportError
        Without jiwer.
    """
    jiwer = _jiwer()
    hyp_rows, ref_rows = paired(hyps, refs)
    for phone in (phone for rows in (hyp_rows, ref_rows) for row in rows for phone in row):
        if phone.split() != [phone]:
            raise ValueError(f"for jiwer a phone must be one word, not {phone!r}")
    # Only splitting: jiwer's own clean-up would change phones.
    split = jiwer.Compose([jiwer.ReduceToListOfListOfWords()])
    return jiwer.process_words(
        [" ".join(row) for row in ref_rows],
        [" ".join(row) for row in hyp_rows],
        reference_transform=split,
        hypothesis_transform=split,
    )


def visualise(hyps: Sequences, refs: Sequences, **options: Any) -> str:
    """Return jiwer's picture of the alignments; options are those of its ``visualize_alignment``.

    Raises
    ------
    ValueError, ImportError
        As `process_phones`.
    """
    picture: str = _jiwer().visualize_alignment(process_phones(hyps, refs), **options)
    return picture


def _jiwer() -> Any:
    try:
        return import_module("jiwer")
    except ImportError as error:
        raise ImportError('jiwer is not here: pip install "modicum-huper[jiwer]"') from error
