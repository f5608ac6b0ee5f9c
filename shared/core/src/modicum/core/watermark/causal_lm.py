"""Anchors made of causal language models.

Takes a model object with the transformers calling convention, already loaded and in eval mode, and
turns its logits into the normalised float32 laws of `anchors.Anchor`. Two ways to read a response:
the last few tokens at each step (``mode="window"``: indifferent to edits and splices further back)
or all of it (``mode="prefix"``: a better law, incremental through a key-value cache). Knows nothing
of keys, prompts (except for `SelfAnchor`) or tokenizers.

Legend: ``B`` rows, ``L`` columns, ``V`` vocabulary, ``T`` positions of a text, ``N`` some of them.
"""

import hashlib
import inspect
import json
import math
import numbers
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    import torch
except ImportError as error:
    raise ImportError(
        'language-model anchors need torch: pip install "modicum-core[torch]"'
    ) from error

from modicum.core.watermark.anchors import anchor_windows, check_context
from modicum.core.watermark.contexts import PAD, token_ids
from modicum.core.watermark.warpers import Array, is_torch

SAMPLES_PER_TENSOR = 256
# Settings that do not change the law, or that people change after loading.
IRRELEVANT_CONFIG = {
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def model_fingerprint(model: Any) -> str:
    """Name a model by its architecture, settings and weights, the same on every device.

    Every weight enters through the exact integer sum of its bit patterns, and each tensor also
    through its name, type, shape and 256 evenly spaced elements. That tells apart models that
    differ by accident (another checkpoint, dtype or revision); it does not withstand somebody who
    forges weights. Takes one pass over the weights.

    Parameters
    ----------
    model
        A ``torch.nn.Module`` with a ``config``.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else vars(model.config)
    config = {
        k: v
        for k, v in config.items()
        if k not in IRRELEVANT_CONFIG and not k.endswith("_token_id")
    }
    digest = hashlib.blake2b(digest_size=16)
    digest.update(type(model).__name__.encode())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if not tensor.numel():
            continue
        flat = tensor.detach().reshape(-1).view(bits[tensor.element_size()])
        digest.update(str(int(flat.sum(dtype=torch.int64))).encode())
        sample = flat[:: max(1, flat.numel() // SAMPLES_PER_TENSOR)].cpu()
        digest.update(sample.to(torch.int64).numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _positive(name: str, value: Any, kind: type = numbers.Integral) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < float(value) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be positive and finite, got {value!r}")


class _PrefixCache:
    """Keys and values of the last batch of prefixes, found again by their content."""

    def __init__(self, rows: list[NDArray[np.int64]], real_BL: torch.Tensor, past: Any) -> None:
        self.remember(rows)
        self.real_BL = real_BL
        self.past = past

    def remember(self, rows: list[NDArray[np.int64]]) -> None:
        self.place = {row.tobytes(): i for i, row in enumerate(rows)}
        self.lengths = sorted({len(row) for row in rows}, reverse=True)
        self.num_rows = len(rows)

    def match(self, rows: list[NDArray[np.int64]]) -> tuple[int, list[int]] | None:
        """Return how many tokens every row is ahead of which cached row, or None."""
        for length in self.lengths:
            ahead = len(rows[0]) - length
            if ahead <= 0 or rows[0][:length].tobytes() not in self.place:
                continue
            if any(len(row) <= ahead for row in rows):
                continue
            found = [self.place.get(row[: len(row) - ahead].tobytes()) for row in rows]
            if None not in found:
                return ahead, [i for i in found if i is not None]
        return None

    def select(self, places: list[int]) -> None:
        if places != list(range(self.num_rows)):
            index_B = torch.tensor(places, device=self.real_BL.device)
            self.past.batch_select_indices(index_B)
            self.real_BL = self.real_BL[index_B]


class _ModelAnchor:
    """What the anchors below share: reading contexts with a model."""

    def __init__(
        self,
        model: Any,
        *,
        vocab_size: int | None,
        window: int | None,
        temperature: float,
        prefix_ids: Sequence[int],
        batch_size: int,
    ) -> None:
        is_module = isinstance(model, torch.nn.Module)
        if not is_module or not hasattr(model, "config"):
            raise TypeError(
                f"model must be a loaded causal language model with a config, got "
                f"{type(model).__name__}; see CausalLMAnchor.from_pretrained"
            )
        if model.training:
            raise ValueError("the model is in training mode (dropout); call model.eval() first")
        _positive("temperature", temperature, numbers.Real)
        _positive("batch_size", batch_size)
        if window is not None:
            _positive("window", window)
        config = (
            model.config.get_text_config()
            if hasattr(model.config, "get_text_config")
            else (model.config)
        )
        if vocab_size is None:
            vocab_size = config.vocab_size
        _positive("vocab_size", vocab_size)
        self.model: Any = model
        self.vocab_size = int(vocab_size)
        self.window = None if window is None else int(window)
        self.temperature = float(temperature)
        self.batch_size = int(batch_size)
        self._known_ids = int(model.get_input_embeddings().weight.shape[0])
        self._prefix = token_ids(prefix_ids, self._known_ids)
        self._max_length = getattr(config, "max_position_embeddings", None)
        takes = inspect.signature(model.forward).parameters
        stateful = getattr(model, "_is_stateful", False)
        # Without position ids, or with a recurrent state, padding on the left would leak into the
        # law; such models are run on groups of equal length instead.
        self._pads = "position_ids" in takes and "attention_mask" in takes and not stateful
        self._caches = self._pads and "past_key_values" in takes
        self._keeps = "logits_to_keep" in takes
        self._cache: _PrefixCache | None = None
        if self.window is not None:
            self._check_length(self.window)

    def _check_length(self, length: int) -> None:
        total = length + len(self._prefix)
        if self._max_length is not None and total > self._max_length:
            raise ValueError(
                f"the model reads at most {self._max_length} tokens, this context has {total}; "
                'use mode="window" or a shorter window'
            )

    @property
    def device(self) -> torch.device:
        """Device of the model's input embeddings."""
        return self.model.get_input_embeddings().weight.device

    @cached_property
    def _model_fingerprint(self) -> str:
        return model_fingerprint(self.model)

    def reset(self) -> None:
        """Forget the key-value cache of the last prefixes and free its memory."""
        self._cache = None

    def _law(self, logits: torch.Tensor) -> torch.Tensor:
        law = (logits[..., : self.vocab_size].float() / self.temperature).log_softmax(-1)
        missing = self.vocab_size - law.shape[-1]
        return torch.nn.functional.pad(law, (0, missing), value=-math.inf) if missing else law

    def _forward(
        self,
        ids_BL: torch.Tensor,
        real_BL: torch.Tensor | None,
        *,
        keep: int = 1,
        past: Any = None,
        use_cache: bool = False,
    ) -> tuple[torch.Tensor, Any]:
        """Return the logits of the last ``keep`` columns and the cache.

        ``real_BL`` covers cached and new columns; None means that nothing is padding.
        """
        arguments: dict[str, Any] = {"input_ids": ids_BL}
        if self._keeps:
            arguments["logits_to_keep"] = keep
        if self._caches:
            arguments["use_cache"] = use_cache
            arguments["past_key_values"] = past
        if real_BL is not None:
            position_BL = (real_BL.long().cumsum(-1) - 1).clamp(min=0)
            arguments["attention_mask"] = real_BL.long()
            arguments["position_ids"] = position_BL[:, -ids_BL.shape[1] :]
        output = self.model(**arguments)
        return output.logits[:, -keep:], output.past_key_values if use_cache else None

    def _last(self, ids_BL: torch.Tensor, lengths: NDArray[np.int64]) -> torch.Tensor:
        # Law after the last column of each row; rows are padded on the left with -1.
        L = int(lengths.max())
        ids_BL = ids_BL[:, ids_BL.shape[1] - L :]
        if (lengths == L).all():
            return self._law(self._forward(ids_BL, None)[0][:, -1])
        if self._pads:
            real_BL = ids_BL != PAD
            return self._law(self._forward(ids_BL.clamp(min=0), real_BL)[0][:, -1])
        law_BV = torch.empty(len(ids_BL), self.vocab_size, device=ids_BL.device)
        for length in np.unique(lengths):
            rows = torch.from_numpy(np.nonzero(lengths == length)[0]).to(ids_BL.device)
            group = ids_BL[rows][:, L - int(length) :]
            law_BV[rows] = self._law(self._forward(group, None)[0][:, -1])
        return law_BV

    def _last_cached(self, ids_BL: torch.Tensor, lengths: NDArray[np.int64]) -> torch.Tensor:
        host_BL = ids_BL.cpu().numpy()
        L = host_BL.shape[1]
        rows = [host_BL[i, L - n :] for i, n in enumerate(lengths)]
        hit = None if self._cache is None else self._cache.match(rows)
        if hit is None or self._cache is None:
            self._cache = None
            longest = int(lengths.max())
            ids_BL = ids_BL[:, L - longest :]
            real_BL = ids_BL != PAD
            mask = None if (lengths == longest).all() else real_BL
            logits, past = self._forward(ids_BL.clamp(min=0), mask, use_cache=True)
            self._cache = _PrefixCache(rows, real_BL, past)
        else:
            cache, (ahead, places) = self._cache, hit
            # Not restored if the forward pass fails half-way.
            self._cache = None
            cache.select(places)
            new_Bk = ids_BL[:, L - ahead :]
            real_BL = torch.cat([cache.real_BL, torch.ones_like(new_Bk, dtype=torch.bool)], 1)
            logits, past = self._forward(new_Bk, real_BL, past=cache.past, use_cache=True)
            cache.real_BL, cache.past = real_BL, past
            cache.remember(rows)
            self._cache = cache
        return self._law(logits[:, -1])

    def _known(self, ids: torch.Tensor) -> torch.Tensor:
        # A token the model has no row for is read as its first prefix token, else as id 0.
        unknown = int(self._prefix[0]) if len(self._prefix) else 0
        return torch.where(ids >= self._known_ids, unknown, ids)

    @torch.no_grad()
    def log_probs(self, context_ids_BL: Array, lengths_B: Array) -> Array:
        """Return the model's next-token law for each context.

        Parameters
        ----------
        context_ids_BL
            Integer ids, NumPy or torch, the latest token rightmost, ``-1`` on the left. With a
            window, only its last ``window`` columns are read.
        lengths_B
            How many ids of each row are real.

        Returns
        -------
        float32 array or tensor, shape [B, V]
            Normalised; ``-inf`` for tokens beyond the model's own vocabulary. A tensor input gives
            a tensor on the same device.

        Raises
        ------
        TypeError, ValueError
            If the contexts are malformed or longer than the model can read.
        """
        check_context(context_ids_BL, lengths_B, self.vocab_size)
        tensor = is_torch(context_ids_BL)
        home = context_ids_BL.device if tensor else None
        ids_BL = context_ids_BL if tensor else torch.from_numpy(context_ids_BL)
        lengths = np.asarray(lengths_B.cpu() if tensor else lengths_B).astype(np.int64)
        ids_BL = ids_BL.to(self.device, torch.int64)
        if self.window is not None and ids_BL.shape[1] > self.window:
            ids_BL = ids_BL[:, -self.window :]
            lengths = lengths.clip(max=self.window)
        B, L = ids_BL.shape
        self._check_length(int(lengths.max(initial=0)))
        P = len(self._prefix)
        full_BL = torch.cat([ids_BL.new_full((B, P), PAD), self._known(ids_BL)], dim=1)
        if P:
            start_B = torch.from_numpy(L - lengths).to(self.device)
            column_BP = start_B[:, None] + torch.arange(P, device=self.device)
            prefix_BP = torch.from_numpy(self._prefix).to(self.device).expand(B, P)
            full_BL.scatter_(1, column_BP, prefix_BP)
        law_BV = torch.full((B, self.vocab_size), -math.log(self.vocab_size), device=self.device)
        # Only an empty context without any prefix keeps the uniform law.
        rows = np.nonzero(lengths + P > 0)[0]
        step = len(rows) if self.window is None and self._caches else self.batch_size
        read = self._last_cached if self.window is None and self._caches else self._last
        for start in range(0, len(rows), max(step, 1)):
            block = rows[start : start + step]
            index = torch.from_numpy(block).to(self.device)
            law_BV[index] = read(full_BL[index], lengths[block] + P)
        return law_BV.to(home) if tensor else law_BV.cpu().numpy()

    @torch.no_grad()
    def iter_log_probs_sequence(
        self, ids_T: ArrayLike, positions_N: ArrayLike | None = None
    ) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        """Run over one text in blocks of at most ``batch_size`` positions.

        With a window each block is one batched forward over windows; with the whole prefix the
        text is read once, block after block, through a cache of its own.

        Parameters
        ----------
        ids_T
            Token ids of one response.
        positions_N
            Increasing positions in ``[0, T]``; all ``T`` by default.

        Yields
        ------
        positions : ndarray of int64, shape [b]
            Positions of the block.
        log_probs_bV : float32 tensor on the model's device
            Law of the token at each position given the tokens before it.

        Raises
        ------
        TypeError, ValueError
            If an id is outside the vocabulary or the text is longer than the model can read.
        """
        ids_T = token_ids(ids_T, self.vocab_size)
        positions_N = (
            np.arange(len(ids_T))
            if positions_N is None
            else np.asarray(positions_N, dtype=np.int64)
        )
        if self.window is None:
            yield from self._iter_prefix(ids_T, positions_N)
            return
        for start in range(0, len(positions_N), self.batch_size):
            block = positions_N[start : start + self.batch_size]
            ids_BL, lengths_B = anchor_windows(ids_T, self.window, block)
            device = self.device
            yield (
                block,
                self.log_probs(
                    torch.from_numpy(ids_BL).to(device), torch.from_numpy(lengths_B).to(device)
                ),
            )

    def _iter_prefix(
        self, ids_T: NDArray[np.int64], positions_N: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        if not len(positions_N):
            return
        last = int(positions_N[-1])
        self._check_length(last)
        P = len(self._prefix)
        ids_L = self._known(torch.from_numpy(np.concatenate([self._prefix, ids_T[:last]])))
        ids_1L = ids_L.to(self.device)[None]
        if P == 0 and positions_N[0] == 0:
            uniform = torch.full((1, self.vocab_size), -math.log(self.vocab_size))
            yield positions_N[:1], uniform.to(self.device)
            positions_N = positions_N[1:]
        # Column i of the input predicts position i + 1 - P.
        columns_N = positions_N - 1 + P
        step = self.batch_size if self._caches else ids_1L.shape[1]
        past = None
        for start in range(0, ids_1L.shape[1], max(step, 1)):
            piece = ids_1L[:, start : start + step]
            wanted = (columns_N >= start) & (columns_N < start + piece.shape[1])
            first = int(columns_N[wanted][0]) if wanted.any() else start + piece.shape[1] - 1
            logits, past = self._forward(
                piece, None, keep=start + piece.shape[1] - first, past=past, use_cache=self._caches
            )
            chosen = torch.from_numpy(columns_N[wanted] - first).to(self.device)
            for at in range(0, len(chosen), self.batch_size):
                law = self._law(logits[0, chosen[at : at + self.batch_size]])
                yield positions_N[wanted][at : at + self.batch_size], law

    def log_probs_sequence(self, ids_T: ArrayLike) -> Array:
        """Return the laws of all positions of one text at once, ``[T, V]`` float32.

        Parameters
        ----------
        ids_T
            Token ids of one response; a tensor gives a tensor on its device, anything else a NumPy
            array.

        Returns
        -------
        array or tensor, shape [T, V]
            Row t is the law of token t given tokens ``0 … t-1``. Takes ``4 T V`` bytes; see
            `iter_log_probs_sequence` for long texts.
        """
        blocks = [law for _, law in self.iter_log_probs_sequence(ids_T)]
        law_TV = torch.cat(blocks) if blocks else torch.zeros(0, self.vocab_size)
        return law_TV.to(ids_T.device) if is_torch(ids_T) else law_TV.cpu().numpy()


class CausalLMAnchor(_ModelAnchor):
    """A small causal language model as anchor.

    Parameters
    ----------
    model
        A transformers causal language model (or any module called the same way), in eval mode.
    vocab_size
        Vocabulary of the scheme; the model's by default. A smaller one drops the model's last rows
        (padding) and renormalises; the tokens of a larger one get probability zero, and where they
        occur in a context they are read as ``bos_token_id``, or as id 0 without one.
    window
        How many of the last response tokens are read with ``mode="window"``.
    temperature
        Divides the logits.
    mode
        ``"window"``: the last ``window`` tokens at every step, without a cache. ``"prefix"``: the
        whole response; a call whose rows each continue a row of the call before, all by equally
        many tokens, computes only the new tokens, any other call starts afresh. So call it for
        all rows of a batch at every step. Not thread-safe in this mode.
    bos_token_id
        Put in front of every context. With ``None`` nothing is, and the law after an empty context
        is uniform.
    batch_size
        Most windows (or tokens of a prefix) in one forward pass; bounds memory to about
        ``4 * batch_size * V`` bytes for the laws.

    Raises
    ------
    TypeError, ValueError
        If the model is not a module, is in training mode, or a setting is out of range.
    """

    def __init__(
        self,
        model: Any,
        vocab_size: int | None = None,
        window: int = 20,
        temperature: float = 1.0,
        mode: Literal["window", "prefix"] = "window",
        bos_token_id: int | None = None,
        batch_size: int = 64,
    ) -> None:
        if mode not in ("window", "prefix"):
            raise ValueError(f'mode must be "window" or "prefix", got {mode!r}')
        super().__init__(
            model,
            vocab_size=vocab_size,
            window=window if mode == "window" else None,
            temperature=temperature,
            prefix_ids=() if bos_token_id is None else (bos_token_id,),
            batch_size=batch_size,
        )
        self.mode = mode
        self.bos_token_id = bos_token_id

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        dtype: Any = None,
        bos_token_id: int | Literal["config"] | None = "config",
        model_options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> "CausalLMAnchor":
        """Load the model with transformers and wrap it.

        Parameters
        ----------
        path
            Folder or repository name.
        device, dtype
            Where the weights go and in which precision; ``None`` keeps the stored precision.
        bos_token_id
            ``"config"`` takes the one of the model's configuration.
        model_options
            Further arguments of ``AutoModelForCausalLM.from_pretrained``.
        **settings
            Arguments of `CausalLMAnchor`.

        Raises
        ------
        ImportError
            If transformers is not installed.
        """
        try:
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            raise ImportError(
                'loading a model needs transformers: pip install "modicum-core[transformers]"'
            ) from error
        options = {"dtype": "auto" if dtype is None else dtype, **(model_options or {})}
        model = AutoModelForCausalLM.from_pretrained(path, **options).to(device).eval()
        if bos_token_id == "config":
            bos_token_id = getattr(model.config, "bos_token_id", None)
        return cls(model, bos_token_id=bos_token_id, **settings)

    @property
    def fingerprint(self) -> str:
        """Name of the law: model (see `model_fingerprint`) and every setting that changes it.

        Computed once; weights changed afterwards are not noticed.
        """
        reads = "prefix" if self.window is None else f"window{self.window}"
        return (
            f"causal-lm:{self._model_fingerprint}:{reads}:T{self.temperature!r}"
            f":bos{self.bos_token_id}:V{self.vocab_size}"
        )


class SelfAnchor(_ModelAnchor):
    """The target model as its own anchor: the best law there is, for tests and for its provider.

    Reads the whole response, and before it the prompt if there is one. A law that depends on a
    prompt can be detected only by somebody who hands the same prompt to the detector.

    Parameters
    ----------
    model
        The target, in eval mode.
    prompt_ids
        Tokens before the response, the same for all rows of a call; ``None`` means none.
    vocab_size, temperature, batch_size
        As for `CausalLMAnchor`.
    bos_token_id
        Read in front of the response if there is no prompt.

    Raises
    ------
    TypeError, ValueError
        If the model is not a module, is in training mode, or a setting is out of range.
    """

    def __init__(
        self,
        model: Any,
        prompt_ids: ArrayLike | None = None,
        *,
        vocab_size: int | None = None,
        temperature: float = 1.0,
        bos_token_id: int | None = None,
        batch_size: int = 64,
    ) -> None:
        prompt = [] if prompt_ids is None else token_ids(prompt_ids).tolist()
        self.has_prompt = bool(prompt)
        if not prompt and bos_token_id is not None:
            prompt = [bos_token_id]
        super().__init__(
            model,
            vocab_size=vocab_size,
            window=None,
            temperature=temperature,
            prefix_ids=prompt,
            batch_size=batch_size,
        )
        self.bos_token_id = bos_token_id

    @property
    def fingerprint(self) -> str:
        """Name of the law; says that there is a prompt, not which."""
        before = "prompt" if self.has_prompt else f"bos{self.bos_token_id}"
        return f"self:{self._model_fingerprint}:T{self.temperature!r}:{before}:V{self.vocab_size}"
