"""The watermarks that a transformers user would pick instead, read token by token.

Uses the peers' own classes for generation and for their keyed bits; adds only what makes their
tests sequential: an exact p-value after every token. Knows nothing of our own schemes.

Sources: green lists, "A Watermark for Large Language Models" (arXiv 2301.10226); tournaments,
"Scalable watermarking for identifying large language model outputs" (Nature 634, 2024); Gumbel-max,
S. Aaronson's talk of 2022, here over the keyed uniforms of modicum-core.

Legend: ``R`` responses, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    SynthIDTextWatermarkingConfig,
    SynthIDTextWatermarkLogitsProcessor,
    WatermarkingConfig,
    WatermarkLogitsProcessor,
)
from transformers.generation.configuration_utils import BaseWatermarkingConfig
from transformers.generation.logits_process import LogitsProcessor
from transformers.generation.watermarking import WatermarkDetector

from modicum.core.prf import make_prf, uniform32
from modicum.core.watermark.contexts import distinct_contexts
from modicum.core.watermark.peer_laws import (
    binomial_p_values,
    gumbel_log_wealth,
    gumbel_p_values,
)

GREEN_RATIO = 0.25
SYNTHID_KEYS = tuple(range(101, 131))
"""Thirty layers, the depth its authors recommend."""
SYNTHID_NGRAM = 5
GUMBEL_CONTEXT = 4


def kgw_config(bias: float = 2.0) -> WatermarkingConfig:
    """Return transformers' green-list watermark with its default ratio and hashing."""
    return WatermarkingConfig(greenlist_ratio=GREEN_RATIO, bias=bias, seeding_scheme="lefthash")


def synthid_config() -> SynthIDTextWatermarkingConfig:
    """Return transformers' SynthID watermark with thirty layers."""
    return SynthIDTextWatermarkingConfig(ngram_len=SYNTHID_NGRAM, keys=list(SYNTHID_KEYS))


def kgw_processor(vocab_size: int, device: str = "cpu") -> WatermarkLogitsProcessor:
    """Return transformers' green-list processor for `kgw_config`."""
    config = kgw_config()
    return WatermarkLogitsProcessor(
        vocab_size=vocab_size,
        device=device,
        greenlist_ratio=config.greenlist_ratio,
        bias=config.bias,
        hashing_key=config.hashing_key,
        seeding_scheme=config.seeding_scheme,
        context_width=config.context_width,
    )


def synthid_processor(device: str = "cpu") -> SynthIDTextWatermarkLogitsProcessor:
    """Return transformers' SynthID processor for `synthid_config`."""
    config = synthid_config()
    return SynthIDTextWatermarkLogitsProcessor(
        ngram_len=config.ngram_len,
        keys=config.keys,
        sampling_table_size=config.sampling_table_size,
        sampling_table_seed=config.sampling_table_seed,
        context_history_size=config.context_history_size,
        device=torch.device(device),
    )


def kgw_reader(vocab_size: int, device: str = "cpu") -> Callable[[NDArray[np.int64]], object]:
    """Return transformers' green-list detector as a function of ids ``[documents, tokens]``."""
    model = SimpleNamespace(bos_token_id=-1, is_encoder_decoder=False, vocab_size=vocab_size)

    def read(ids: NDArray[np.int64]) -> object:
        # A new detector each time: it remembers bigrams that it has seen.
        detector = WatermarkDetector(model, device, kgw_config(), ignore_repeated_ngrams=True)
        return detector(torch.from_numpy(ids).to(device))

    return read


def synthid_reader(device: str = "cpu") -> Callable[[NDArray[np.int64]], object]:
    """Return SynthID's mean score as a function of ids ``[documents, tokens]``."""
    processor = synthid_processor(device)

    def read(ids: NDArray[np.int64]) -> object:
        ids_BT = torch.from_numpy(ids).to(device)
        g_values = processor.compute_g_values(ids_BT)
        mask = processor.compute_context_repetition_mask(ids_BT)
        return (g_values.float().mean(-1) * mask).sum(-1) / mask.sum(-1)

    return read


class GumbelConfig(BaseWatermarkingConfig):
    """Gumbel-max watermark over keyed uniforms, through the same route as the others.

    Parameters
    ----------
    key
        Secret key.
    """

    def __init__(self, key: bytes) -> None:
        self.key = key

    def validate(self) -> None:
        """Nothing to check."""

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters without the key."""
        return {"context_width": GUMBEL_CONTEXT}

    def construct_processor(self, vocab_size: int, device: Any) -> LogitsProcessor:
        """Return the processor that ``generate`` appends after its warpers."""
        return _GumbelProcessor(self.key)


class _GumbelProcessor(LogitsProcessor):
    def __init__(self, key: bytes) -> None:
        self.prf = make_prf("philox", key, "gumbel")
        self.prompt_length: int | None = None
        self.seen: list[set[tuple[int, ...]]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.prompt_length is None:
            self.prompt_length = input_ids.shape[1]
            self.seen = [set() for _ in input_ids]
        if input_ids.shape[1] - self.prompt_length < GUMBEL_CONTEXT:
            return scores
        contexts = input_ids[:, -GUMBEL_CONTEXT:]
        u = uniform32(self.prf.words_range(self.prf.context_state(contexts), scores.shape[1]))
        clocks = torch.log(-torch.log(u.double())) - scores.double().log_softmax(-1)
        chosen = torch.full_like(scores, -float("inf"))
        chosen.scatter_(1, clocks.argmin(-1, keepdim=True), 0.0)
        for row, context in enumerate(map(tuple, contexts.tolist())):
            if context in self.seen[row]:
                chosen[row] = scores[row]
            self.seen[row].add(context)
        return chosen


def first_below(p_values: NDArray[np.float64], positions: NDArray[np.int64], alpha: float) -> float:
    """Return the tokens read when ``p_k < alpha / (k (k + 1))`` first holds, ``inf`` if never.

    Parameters
    ----------
    p_values
        p-value after each scored position.
    positions
        Index of each scored position in the response.
    alpha
        Level over all looks together.
    """
    k = np.arange(1, len(p_values) + 1)
    crossed = np.flatnonzero(p_values < alpha / (k * (k + 1)))
    return float(positions[crossed[0]] + 1) if len(crossed) else np.inf


def kgw_p_values(
    responses: NDArray[np.int64] | list[NDArray[np.int64]], vocab_size: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Read green lists by the exact binomial tail over distinct bigrams.

    Returns
    -------
    list of (int64[S], float64[S])
        Per response the positions of its scored tokens, and the p-value after each of them.
    """
    config = kgw_config()
    processor = WatermarkLogitsProcessor(
        vocab_size=vocab_size,
        device="cpu",
        greenlist_ratio=config.greenlist_ratio,
        bias=config.bias,
        hashing_key=config.hashing_key,
        seeding_scheme=config.seeding_scheme,
        context_width=config.context_width,
    )
    read = []
    for ids in responses:
        bigrams = np.stack([ids[:-1], ids[1:]], axis=1)
        _, first = np.unique(bigrams, axis=0, return_index=True)
        positions = np.sort(first) + 1
        hits = np.array(
            [
                bool(
                    (processor._get_greenlist_ids(torch.tensor([ids[t - 1]])) == int(ids[t])).any()
                )
                for t in positions
            ]
        )
        p = binomial_p_values(hits[None].astype(np.int64), processor.greenlist_size / vocab_size)
        read.append((positions, p[0]))
    return read


def kgw_times(responses: NDArray[np.int64], vocab_size: int, alpha: float) -> NDArray[np.float64]:
    """Return tokens to detection of green lists by `kgw_p_values` and a union bound."""
    read = kgw_p_values(responses, vocab_size)
    return np.array([first_below(p, positions, alpha) for positions, p in read])


def synthid_p_values(
    responses: NDArray[np.int64] | list[NDArray[np.int64]],
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Read SynthID by the exact binomial tail of its mean score over distinct contexts.

    Returns
    -------
    list of (int64[S], float64[S])
        Per response the positions of its scored tokens, and the p-value after each of them.
    """
    config = synthid_config()
    processor = SynthIDTextWatermarkLogitsProcessor(
        ngram_len=config.ngram_len,
        keys=config.keys,
        sampling_table_size=config.sampling_table_size,
        sampling_table_seed=config.sampling_table_seed,
        context_history_size=config.context_history_size,
        device=torch.device("cpu"),
    )
    read = []
    for ids in responses:
        g_TD = processor.compute_g_values(torch.from_numpy(ids)[None])[0].numpy()
        width = SYNTHID_NGRAM - 1
        _, scored = distinct_contexts(ids, width)
        positions = np.flatnonzero(scored)
        hits = g_TD.sum(axis=1)[positions - width]
        p = binomial_p_values(hits[None].astype(np.int64), 0.5, trials=len(SYNTHID_KEYS))
        read.append((positions, p[0]))
    return read


def synthid_times(responses: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """Return tokens to detection of SynthID by `synthid_p_values` and a union bound."""
    read = synthid_p_values(responses)
    return np.array([first_below(p, positions, alpha) for positions, p in read])


def gumbel_times(
    responses: NDArray[np.int64], key: bytes, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return tokens to detection of Gumbel-max by the union bound and by an e-process."""
    prf = make_prf("philox", key, "gumbel")
    by_bound, by_process = [], []
    for ids in responses:
        contexts, scored = distinct_contexts(ids, GUMBEL_CONTEXT)
        positions = np.flatnonzero(scored)
        pivots = uniform32(prf.words(prf.context_state(contexts[positions]), ids[positions]))
        by_bound.append(first_below(gumbel_p_values(pivots[None])[0], positions, alpha))
        crossed = np.flatnonzero(gumbel_log_wealth(pivots[None])[0] >= -np.log(alpha))
        by_process.append(float(positions[crossed[0]] + 1) if len(crossed) else np.inf)
    return np.array(by_bound), np.array(by_process)
