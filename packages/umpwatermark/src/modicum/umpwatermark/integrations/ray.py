"""Detection over a corpus that does not fit one machine, as a stage of Ray Data.

Takes batches of documents as Ray Data hands them out (a dictionary of NumPy columns) and adds
columns with what the detector found. Workers read record and key from files that they can reach:
only their names are sent, never the key. The class needs nothing of Ray and runs on plain
dictionaries as well::

    import ray
    from modicum.umpwatermark.integrations.ray import DetectBatch

    found = ray.data.read_parquet("docs/").map_batches(
        DetectBatch,
        fn_constructor_kwargs={"record": "wm.json", "key_file": "key.txt", "tokenizer": "MODEL"},
        batch_format="numpy",
        concurrency=8,
    )

p-values of documents under one key are correlated where documents share contexts; the corpus
functions of `modicum.umpwatermark.corpus` score each context once.
"""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.watermark.adapters.loading import load_anchor, load_tokenizer
from modicum.core.watermark.record import WatermarkRecord
from modicum.core.watermark.responses import encode_text
from modicum.umpwatermark.config import KNOWN_PRFS
from modicum.umpwatermark.detector import UMPWatermarkDetector
from modicum.umpwatermark.integrations.loading import load_config

__all__ = ["DetectBatch"]

COLUMNS = ("num_tokens_scored", "score", "log_e_value", "p_value", "prediction")


class DetectBatch:
    """Detects the watermark in every document of a batch; built once per worker.

    Parameters
    ----------
    record, key_file
        Paths of the watermark record and of the key file.
    column
        Column of texts, or of token ids if there is no tokenizer.
    tokenizer
        Name of a tokenizer as in `modicum.core.watermark.adapters.loading.load_tokenizer`; ``None``
        if the column holds token ids.
    surrogate
        Name of a surrogate as in `modicum.core.watermark.adapters.loading.load_anchor`.
    window, temperature, device
        Of the surrogate.
    detector
        Further arguments of `UMPWatermarkDetector`, for instance ``alpha`` and ``statistic``.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, or record, key and surrogate do not belong together.
    """

    def __init__(
        self,
        record: str | os.PathLike[str],
        key_file: str | os.PathLike[str],
        *,
        column: str = "text",
        tokenizer: str | None = "tiny",
        surrogate: str | None = None,
        window: int = 20,
        temperature: float = 1.0,
        device: str = "auto",
        **detector: Any,
    ) -> None:
        self.column = column
        self.tokenizer = None if tokenizer is None else load_tokenizer(tokenizer)
        law = None
        if surrogate is not None:
            filed = WatermarkRecord.load(record, known_prfs=KNOWN_PRFS)
            law = load_anchor(
                surrogate,
                int(filed.parameters.get("vocab_size", 0)),
                window=window,
                temperature=temperature,
                device=device,
            )
        self.detector = UMPWatermarkDetector(
            load_config(record, key_file, law), surrogate=law, **detector
        )

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add the columns ``num_tokens_scored, score, log_e_value, p_value, prediction``.

        Parameters
        ----------
        batch
            Columns of equal length, one of them named ``column``.

        Returns
        -------
        dict
            The same columns and the new ones.

        Raises
        ------
        ValueError
            If there is no such column.
        """
        if self.column not in batch:
            raise ValueError(f"the batch has no column {self.column!r}; it has {sorted(batch)}")
        rows = list(batch[self.column])
        ids = (
            [np.asarray(row) for row in rows]
            if self.tokenizer is None
            else [np.array(encode_text(str(row), self.tokenizer), dtype=np.int64) for row in rows]
        )
        found = self.detector(ids)
        return {**batch, **{name: getattr(found, name) for name in COLUMNS}}
