"""Watermark what ``model.generate()`` of the transformers library writes, and score what it wrote.

Takes a `UMPWatermarkConfig`; gives the object for ``watermarking_config=`` and a stand-alone logits
processor. How rows, padding, prompts and finished responses are followed, and which decoding modes
are refused, is described in `modicum.core.watermark.adapters.transformers`. `score_token_logprobs`
reads the log-probabilities of a response off one forward pass, which is all that
`UMPWatermarkDetector.detect_logprobs` needs of a model. Leaves tokenizing and detection to the
caller: a detector reads the response ids, without the prompt.

Shape suffixes: T tokens of the response, N some positions of them, V vocabulary.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.watermark.contexts import token_ids
from modicum.core.watermark.warpers import Warper
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.scheme import UMPWatermarkScheme

try:
    import torch

    from modicum.core.watermark.adapters.transformers import WatermarkingConfig, WatermarkProcessor
except ModuleNotFoundError as missing:
    if missing.name not in ("torch", "transformers"):
        raise
    raise ImportError(
        "the transformers integration needs transformers and torch: "
        'pip install "modicum-umpwatermark[transformers]"'
    ) from missing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["UMPWatermarkLogitsProcessor", "UMPWatermarkingConfig", "score_token_logprobs"]

CHUNK_ELEMENTS = 1 << 24
"""Positions times vocabulary that are warped at once."""


class UMPWatermarkingConfig(WatermarkingConfig):
    """What ``model.generate(..., do_sample=True, watermarking_config=...)`` takes.

    transformers runs it after temperature, top-k, top-p and every other warper, so the law that is
    sampled from is watermarked and, averaged over keys, unchanged. One object serves any number of
    calls. Greedy decoding warns and stays unmarked; beam search, assisted decoding and continuous
    batching raise ``NotImplementedError``. Files and printouts hold the key's id, never the key.

    Under ``"gumbel"`` and ``"hazard"`` the key decides a marked token alone: rows that share their
    last ``context_width`` tokens go on alike, and only warm-up and repeated contexts depend on
    torch's generator.

    Parameters
    ----------
    config
        The watermark. ``config.for_transformers()`` is the same as this constructor.

    Raises
    ------
    TypeError
        If ``config`` is not a `UMPWatermarkConfig`.

    Examples
    --------
    >>> config = UMPWatermarkConfig(key=b"0123456789abcdef", vocab_size=32000)
    >>> UMPWatermarkingConfig(config).key_id == config.key_id
    True
    """

    def __init__(self, config: UMPWatermarkConfig) -> None:
        scheme = _scheme(config)
        public = dict(config.parameters)
        if config.surrogate is not None:
            public["surrogate_fingerprint"] = config.surrogate.fingerprint
        super().__init__(scheme=scheme, key_id=config.key_id, public=public)
        self.config = config


class UMPWatermarkLogitsProcessor(WatermarkProcessor):
    """Logits processor for ``generate(logits_processor=[...])`` and for hand-written loops.

    Prefer `UMPWatermarkingConfig`: transformers runs ``logits_processor=`` *before* temperature,
    top-k and top-p, so the mark would be made for another law than the one that is sampled from. If
    this route is needed, give the warping to ``warper`` and switch it off in `generate` with
    ``temperature=1.0, top_k=0, top_p=1.0`` (the default ``top_k`` of transformers is 50).

    Parameters
    ----------
    config
        The watermark.
    warper
        Turns float32 logits ``[B, V]`` into normalised log-probabilities ``[B, V]`` before the
        watermark, for instance `modicum.core.watermark.Warper`. ``None`` takes the scores as they
        come: right in a loop whose scores are already warped.

    Raises
    ------
    TypeError
        If ``config`` is not a `UMPWatermarkConfig`.
    """

    def __init__(
        self,
        config: UMPWatermarkConfig,
        warper: "Callable[[Tensor], Tensor] | None" = None,
    ) -> None:
        super().__init__(_scheme(config), warper)
        self.config = config


def _scheme(config: UMPWatermarkConfig) -> UMPWatermarkScheme:
    if not isinstance(config, UMPWatermarkConfig):
        raise TypeError(f"config must be a UMPWatermarkConfig, got {type(config).__name__}")
    return UMPWatermarkScheme(config)


def score_token_logprobs(
    model: Any,
    prompt_ids: ArrayLike,
    response_ids: ArrayLike,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    vocab_size: int | None = None,
) -> NDArray[np.float64]:
    """Return the log-probability of every token of a response, from one forward pass.

    With the model that generated, its prompt and its sampling parameters this is the best surrogate
    there is; any of the three may be missing or wrong at the price of power, never of validity.

    Parameters
    ----------
    model
        A causal language model of transformers.
    prompt_ids
        Ids in front of the response, int ``[P]``; ``[]`` for none.
    response_ids
        The response, int ``[T]``.
    temperature, top_k, top_p, min_p
        Sampling parameters of the generation, see `modicum.core.watermark.Warper`.
    vocab_size
        Ids at or beyond it get no probability, as when a watermark of this size was generated;
        ``None`` keeps all that the model scores.

    Returns
    -------
    float64[T]
        Natural logs, for `UMPWatermarkDetector.detect_logprobs`; ``-inf`` for a token that the
        sampling parameters exclude. Without a prompt nothing predicts the first token: it gets 0
        (probability one), which is no evidence either way.

    Raises
    ------
    TypeError, ValueError
        If ids are not one sequence of integers in the vocabulary of the model, or a sampling
        parameter is out of range.
    """
    warper = Warper(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    prompt, response = token_ids(prompt_ids), token_ids(response_ids, vocab_size)
    scores = np.zeros(len(response))
    unpredicted = 0 if len(prompt) else 1
    ids = np.concatenate([prompt, response])[:-1]
    if len(response) <= unpredicted:
        return scores
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits_NV = model(input_ids=torch.from_numpy(ids).to(device)[None], use_cache=False).logits[
            0, len(prompt) - 1 + unpredicted :, :vocab_size
        ]
        limit = logits_NV.shape[1]
        expected_N = torch.from_numpy(token_ids(response[unpredicted:], limit)).to(device)
        rows = max(1, CHUNK_ELEMENTS // limit)
        parts = [
            warper(block_NV).gather(1, token_N[:, None])[:, 0]
            for block_NV, token_N in zip(logits_NV.split(rows), expected_N.split(rows), strict=True)
        ]
    scores[unpredicted:] = torch.cat(parts).double().cpu().numpy()
    # A token that is left alone by top-k or top-p may come out at a rounding error above zero.
    return np.minimum(scores, 0.0)
