"""Decoding of prompts that do not fit one machine, as a stage of Ray Data.

Takes batches of prompts as Ray Data hands them out (a dictionary of NumPy columns) and adds columns
with the answers and what they cost. Every worker loads the model once. The class needs nothing of
Ray and runs on plain dictionaries as well::

    import ray
    from modicum.pvf.integrations.ray import GenerateBatch

    answers = ray.data.read_parquet("prompts/").map_batches(
        GenerateBatch,
        fn_constructor_kwargs={"model": "FOLDER", "column": "prompt", "gen_length": 256},
        batch_format="numpy",
        batch_size=16,
        concurrency=8,
        num_gpus=1,
    )
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.device import torch_generator
from modicum.pvf.generation import generate
from modicum.pvf.loading import load_mask_predictor
from modicum.pvf.predictor import MaskPredictor

__all__ = ["GenerateBatch"]

COLUMNS = ("generated_ids", "nfe", "rows", "token_evals")
TEXT = "generated_text"


class GenerateBatch:
    """Continues every prompt of a batch; built once per worker.

    Parameters
    ----------
    model
        Folder or name on the hub, as of `modicum.pvf.loading.load_mask_predictor`, or a function
        that gives a `MaskPredictor` when the worker calls it.
    column
        Column of prompts: texts, or token ids of any lengths.
    model_options
        Of `load_mask_predictor`, such as ``{"dtype": "bfloat16"}``.
    seed
        Of what is drawn. It depends on the seed and on all columns of a batch: rows that are alike
        draw differently within a batch, and between batches that are not alike in all columns.
    options
        Of `modicum.pvf.generate`, such as ``strategy`` and ``gen_length``.

    Raises
    ------
    TypeError
        If a function gives no `MaskPredictor`.
    ValueError
        If the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Callable[[], MaskPredictor],
        *,
        column: str = "prompt",
        model_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if isinstance(model, str | os.PathLike):
            self.predictor = load_mask_predictor(model, **(model_options or {}))
        else:
            self.predictor = model(**(model_options or {}))
        self.column = column
        self.seed = seed
        self.options = options

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add the columns ``generated_ids, nfe, rows, token_evals``, and ``generated_text``.

        Parameters
        ----------
        batch
            Columns of equal length, one of them named ``column``.

        Returns
        -------
        dict
            The same columns and the new ones; texts only from a model with a tokenizer.

        Raises
        ------
        ValueError
            If there is no such column, or a prompt is not valid.
        """
        if self.column not in batch:
            raise ValueError(f"the batch has no column {self.column!r}; it has {sorted(batch)}")
        prompts = [
            str(row) if isinstance(row, str) else [int(token) for token in row]
            for row in batch[self.column]
        ]
        options = {"batch_size": max(1, len(prompts)), **self.options}
        out = generate(self.predictor, prompts, seed=_seed(self.seed, batch), **options)
        found: dict[str, NDArray[Any]] = {"generated_ids": out.generated.numpy()}
        for name in COLUMNS[1:]:
            found[name] = np.array([getattr(item, name) for item in out.stats])
        if out.texts is not None:
            found[TEXT] = np.array(out.texts, dtype=object)
        return {**batch, **found}


def _seed(seed: int, batch: Mapping[str, NDArray[Any]]) -> int:
    """Give a seed that belongs to a batch, whatever worker has it."""
    digest = hashlib.sha256()
    for name in sorted(batch):
        for row in batch[name]:
            digest.update(repr((name, row.tolist() if hasattr(row, "tolist") else row)).encode())
    generator = torch_generator(seed, "cpu", "batch", digest.hexdigest())
    return int(generator.initial_seed() & 0x7FFFFFFFFFFFFFFF)
