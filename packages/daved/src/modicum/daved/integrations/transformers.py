"""Features of texts and images from models of transformers, and purchases from a `Dataset`.

`TextFeatures` and `ImageFeatures` take records in batches and give the embedding that each would
have alone: padding never enters a mean, and records of similar length share a batch. Nothing is
trained, and nothing is downloaded beyond what `from_pretrained` fetches for a name on the hub.

Shapes: n records, t tokens, D features, b records of a batch.

Source: "DAVED: Data Acquisition via Experimental Design for Data Markets", Lu et al., NeurIPS 2024,
arXiv 2403.13893: mean last hidden state of GPT-2 or BERT for texts, CLIP ViT-B/32 for images.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from modicum.core.device import resolve_device
from modicum.daved.errors import DAVEDWarning
from modicum.daved.features import FeatureMap

try:
    import torch
    import transformers

    from modicum.daved.features_torch import asking, digest_of_state, to_numpy
except ModuleNotFoundError as missing:
    if missing.name not in ("torch", "transformers"):
        raise
    raise ImportError(
        'features of texts and images need transformers: pip install "modicum-daved[transformers]"'
    ) from missing

__all__ = ["ImageFeatures", "TextFeatures", "select_dataset"]

_POOLINGS = ("mean", "first", "last")
# Tokenizers that know no limit give one above this.
_NO_LIMIT = 1_000_000
# What a configuration or processor says of where it came from and not of what it computes.
_NOT_THE_MODEL = (
    "_name_or_path",
    "architectures",
    "dtype",
    "image_processor_type",
    "processor_class",
    "torch_dtype",
    "transformers_version",
)


class _ModelFeatures(FeatureMap):
    """A model, loaded when it is first asked for, with what prepares its inputs.

    Parameters
    ----------
    model
        Name on the hub, with ``@revision`` if wanted, a folder, or a loaded model.
    batch_size
        Records that go through the model at a time.
    device
        Where a model that is loaded here goes; ``"auto"`` for the accelerator if there is one. A
        model that was given stays where it is.
    dtype
        Of a model that is loaded here; ``None`` for that of its files.
    """

    def __init__(
        self, model: Any, batch_size: int, device: str, dtype: "torch.dtype | str | None"
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is a whole number above 0, not {batch_size!r}")
        self.batch_size, self.device, self.dtype = batch_size, device, dtype
        self.name, self.revision = _name_and_revision(model)
        self._given = None if isinstance(model, str | os.PathLike) else model

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode, on its device."""
        if self._given is not None:
            return self._given
        options = {} if self.dtype is None else {"dtype": self.dtype}
        loaded = self._load(**options)
        return loaded.to(resolve_device(self.device)).eval()

    def _load(self, **options: Any) -> Any:
        raise NotImplementedError

    def _describe_model(self) -> dict[str, Any]:
        """Describe what the model computes; where it was loaded from does not matter."""
        configuration = self.model.config.to_dict()
        return {
            "model_type": self.model.config.model_type,
            "config_sha256": _digest(configuration),
            "weights_sha256": self._weights,
        }

    @cached_property
    def _weights(self) -> str:
        return digest_of_state(self.model)


class TextFeatures(_ModelFeatures):
    """Embeddings of texts from the last hidden states of a language model.

    Parameters
    ----------
    model
        Name on the hub, with ``@revision`` if wanted, a folder, or a loaded model without a head
        (`AutoModel`). Of an encoder-decoder the encoder is used.
    tokenizer
        Loaded one, or ``None`` for that of the model's name.
    pooling
        ``"mean"`` over all tokens of a text, ``"first"`` token (BERT's ``[CLS]``) or ``"last"``.
    layer
        Number of the hidden state, 0 for the embeddings; ``None`` for the last one.
    max_length
        Tokens kept of a text; ``None`` for as many as model and tokenizer take.
    batch_size, device, dtype
        Texts at a time; where a model that is loaded here goes and in which type.

    Raises
    ------
    ValueError
        If an argument is not valid, or a loaded model comes without its tokenizer.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        pooling: str = "mean",
        layer: int | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        device: str = "auto",
        dtype: "torch.dtype | str | None" = None,
    ) -> None:
        super().__init__(model, batch_size, device, dtype)
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling is one of {', '.join(_POOLINGS)}, not {pooling!r}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is a whole number above 0, not {max_length!r}")
        if self._given is not None and tokenizer is None:
            raise ValueError("a loaded model comes with its tokenizer: give tokenizer=…")
        self._tokenizer = tokenizer
        self.pooling, self.layer, self.max_length = pooling, layer, max_length

    def _load(self, **options: Any) -> Any:
        return transformers.AutoModel.from_pretrained(self.name, revision=self.revision, **options)

    @cached_property
    def tokenizer(self) -> Any:
        """What makes tokens of texts."""
        if self._tokenizer is not None:
            return self._tokenizer
        return transformers.AutoTokenizer.from_pretrained(self.name, revision=self.revision)

    def transform(self, records: Sequence[str]) -> np.ndarray:
        """Embed texts.

        Parameters
        ----------
        records
            n texts, such as a list or a column of a `Dataset`.

        Returns
        -------
        numpy.ndarray
            (n, D) float32, or float64 for such a model: row i is text i's, equal to what it has
            alone up to rounding.

        Raises
        ------
        ValueError
            If there is no text or one has no token; TypeError if a record is not a text.

        Warns
        -----
        DAVEDWarning
            If texts are longer than `max_length` tokens and were cut.
        """
        tokens = self._tokens(_texts(records))
        order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))
        found: list[Any] = [None] * len(tokens)
        with asking(self.model), torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                rows_bD = to_numpy(self._embed([tokens[number] for number in batch]))
                for number, row_D in zip(batch, rows_bD, strict=True):
                    found[number] = row_D
        return np.stack(found)

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        limit = self._limit()
        # Cutting is the tokenizer's, since special tokens at the end stay.
        kept: list[list[int]] = self.tokenizer(
            texts, truncation=limit is not None, max_length=limit
        )["input_ids"]
        empty = [number for number, ids in enumerate(kept) if not ids]
        if empty:
            raise ValueError(
                f"{len(empty)} texts have no token and so no embedding, first number {empty[0]}: "
                f"{texts[empty[0]]!r}"
            )
        full = [number for number, ids in enumerate(kept) if len(ids) == limit]
        if full:
            whole = self.tokenizer([texts[number] for number in full], verbose=False)["input_ids"]
            cut = sum(len(ids) > len(kept[number]) for number, ids in zip(full, whole, strict=True))
            if cut:
                warnings.warn(
                    f"{cut} of {len(texts)} texts are longer than {limit} tokens and were cut",
                    DAVEDWarning,
                    stacklevel=3,
                )
        return kept

    def _limit(self) -> int | None:
        """Give how many tokens of a text are kept; ``None`` for all."""
        of_model = getattr(self.model.config, "max_position_embeddings", None)
        limits = [self.max_length, self.tokenizer.model_max_length, of_model]
        known = [limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
        return min(known, default=None)

    def _embed(self, tokens: list[list[int]]) -> torch.Tensor:
        """Give the pooled hidden states of texts that share a batch, (b, D)."""
        longest = max(map(len, tokens))
        # Masked and at the right it changes nothing, but it has to be in the model's vocabulary,
        # which that of a tokenizer with an added token may not be, nor a configuration's -1.
        padding = max(0, getattr(self.model.config, "pad_token_id", None) or 0)
        ids_bt = torch.full((len(tokens), longest), padding)
        mask_bt = torch.zeros(len(tokens), longest, dtype=torch.int64)
        for row, ids in enumerate(tokens):
            ids_bt[row, : len(ids)] = torch.as_tensor(ids)
            mask_bt[row, : len(ids)] = 1
        device = self.model.device
        states_btD = self._states(ids_bt.to(device), mask_bt.to(device))
        return _pool(states_btD, mask_bt.to(device), self.pooling)

    def _states(self, ids_bt: torch.Tensor, mask_bt: torch.Tensor) -> torch.Tensor:
        model = self.model
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        made = model(
            input_ids=ids_bt,
            attention_mask=mask_bt,
            output_hidden_states=self.layer is not None,
            return_dict=True,
        )
        if self.layer is None:
            last: torch.Tensor = made.last_hidden_state
            return last
        count = len(made.hidden_states)
        if not -count <= self.layer < count:
            raise ValueError(f"the model has hidden states 0 to {count - 1}, not {self.layer}")
        chosen: torch.Tensor = made.hidden_states[self.layer]
        return chosen

    def describe(self) -> dict[str, Any]:
        """Give the pooling and digests of model, tokenizer and weights, which loads them."""
        return {
            "map": "hf",
            "pooling": self.pooling,
            "layer": self.layer,
            "max_length": self._limit(),
            "tokenizer_sha256": _digest_of_tokenizer(self.tokenizer),
            **self._describe_model(),
        }


class ImageFeatures(_ModelFeatures):
    """Embeddings of images from the image side of CLIP, after its projection.

    Parameters
    ----------
    model
        Name on the hub, with ``@revision`` if wanted, a folder, or a loaded `CLIPModel` or
        `CLIPVisionModelWithProjection`.
    processor
        Loaded image processor, or ``None`` for that of the model's name.
    batch_size, device, dtype
        Images at a time; where a model that is loaded here goes and in which type.

    Raises
    ------
    ValueError
        If batch_size is not valid, or a loaded model comes without its processor.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        batch_size: int = 32,
        device: str = "auto",
        dtype: "torch.dtype | str | None" = None,
    ) -> None:
        super().__init__(model, batch_size, device, dtype)
        if self._given is not None and processor is None:
            raise ValueError("a loaded model comes with its image processor: give processor=…")
        self._processor = processor

    def _load(self, **options: Any) -> Any:
        where = {"revision": self.revision, **options}
        config = transformers.AutoConfig.from_pretrained(self.name, revision=self.revision)
        kinds = {
            "clip": transformers.CLIPModel,
            "clip_vision_model": transformers.CLIPVisionModelWithProjection,
        }
        if config.model_type not in kinds:
            raise ValueError(f"{self.name} is a model of type {config.model_type!r}, not of CLIP")
        return kinds[config.model_type].from_pretrained(self.name, **where)

    @cached_property
    def processor(self) -> Any:
        """What makes pixel values of images."""
        if self._processor is not None:
            return self._processor
        return transformers.AutoImageProcessor.from_pretrained(self.name, revision=self.revision)

    def transform(self, records: Sequence[Any]) -> np.ndarray:
        """Embed images.

        Parameters
        ----------
        records
            n images of any sizes, as PIL images or (height, width, 3) uint8 arrays; a list or a
            column of a `Dataset`, of which one batch is decoded at a time.

        Returns
        -------
        numpy.ndarray
            (n, D) float32, or float64 for such a model; not normalised.

        Raises
        ------
        ValueError
            If there is no image.
        """
        found = []
        with asking(self.model), torch.inference_mode():
            for images in self._batches(records):
                pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
                made = self.model.vision_model(
                    pixel_values=pixels.to(self.model.device, self.model.dtype), return_dict=True
                )
                found.append(to_numpy(self.model.visual_projection(made.pooler_output)))
        if not found:
            raise ValueError("no images: give at least one")
        return np.concatenate(found)

    def _batches(self, records: Sequence[Any]) -> Iterator[list[Any]]:
        for start in range(0, len(records), self.batch_size):
            stop = min(start + self.batch_size, len(records))
            yield [_as_colour(records[number]) for number in range(start, stop)]

    def describe(self) -> dict[str, Any]:
        """Give digests of model, processor and weights, which loads them."""
        return {
            "map": "clip",
            "processor_sha256": _digest(self.processor.to_dict()),
            **self._describe_model(),
        }


def select_dataset(dataset: Any, purchase: Any) -> Any:
    """Give the bought rows of a `datasets.Dataset`, in the order of purchase.

    Parameters
    ----------
    dataset
        Whose rows were the sellers' records.
    purchase
        A `Selection`, or indices (k,).

    Returns
    -------
    datasets.Dataset
        k rows; the data are not copied.

    Raises
    ------
    TypeError
        If the dataset cannot be selected from by number, as one that streams.
    ValueError
        If an index is not within the dataset.
    """
    if not hasattr(dataset, "select") or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"rows are selected from a datasets.Dataset by number, not from "
            f"{type(dataset).__name__}; name a split, or load without streaming"
        )
    indices = np.asarray(getattr(purchase, "indices", purchase), dtype=np.int64).reshape(-1)
    outside = indices[(indices < 0) | (indices >= len(dataset))]
    if len(outside):
        raise ValueError(f"the dataset has rows 0 to {len(dataset) - 1}, not {outside[0]}")
    return dataset.select(indices)


def _name_and_revision(model: Any) -> tuple[str, str | None]:
    """Split ``name@revision``; a folder may have an @ in its name."""
    if not isinstance(model, str | os.PathLike):
        return str(getattr(model, "name_or_path", "")), None
    name = os.fspath(model)
    before, _, revision = name.rpartition("@")
    if before and revision and not os.path.isdir(name):
        return before, revision
    return name, None


def _texts(records: Sequence[str]) -> list[str]:
    if isinstance(records, str):
        raise TypeError("records are a sequence of texts; put a single text into a list")
    texts = list(records)
    if not texts:
        raise ValueError("no texts: give at least one")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"record {number} is {type(text).__name__}, not a text")
    return texts


def _pool(states_btD: torch.Tensor, mask_bt: torch.Tensor, pooling: str) -> torch.Tensor:
    """Give one state per text, (b, D); texts begin at the left."""
    if pooling == "first":
        return states_btD[:, 0]
    if pooling == "last":
        rows = torch.arange(len(states_btD), device=states_btD.device)
        return states_btD[rows, mask_bt.sum(dim=1) - 1]
    # Sums of many half-precision states lose more than their mean has.
    wide_btD = states_btD if states_btD.dtype == torch.float64 else states_btD.float()
    kept_bt1 = mask_bt.unsqueeze(2).bool()
    # Not a product: a state of padding may be anything, infinite too.
    summed_bD = torch.where(kept_bt1, wide_btD, 0).sum(dim=1)
    return summed_bD / mask_bt.sum(dim=1, keepdim=True)


def _as_colour(image: Any) -> Any:
    """Give a PIL image with three channels, or an array that torch may hold."""
    return image.convert("RGB") if hasattr(image, "convert") else np.require(image, None, "W")


def _digest(description: dict[str, Any]) -> str:
    """Give the SHA-256 of a configuration without what says where it came from."""
    told = {key: value for key, value in description.items() if key not in _NOT_THE_MODEL}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _digest_of_tokenizer(tokenizer: Any) -> str:
    """Give the SHA-256 of a tokenizer's rules, or of its vocabulary where rules are code."""
    rules = getattr(tokenizer, "backend_tokenizer", None)
    if rules is None:
        return _digest({"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()})
    told = json.loads(rules.to_str())
    # Those two are of the last call and not of the tokenizer.
    told.pop("truncation", None)
    told.pop("padding", None)
    return _digest(told)
