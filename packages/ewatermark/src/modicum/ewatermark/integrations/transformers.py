"""Watermark what ``model.generate()`` of the transformers library writes.

Takes an `EWatermarkConfig`; gives the object for ``watermarking_config=`` and a stand-alone logits
processor. How rows, padding, prompts and finished responses are followed, and which decoding modes
are refused, is described in `modicum.core.watermark.adapters.transformers`. Leaves tokenizing and
detection to the caller: a detector reads the response ids, without the prompt.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from modicum.ewatermark.config import EWatermarkConfig
from modicum.ewatermark.scheme import EWatermarkScheme

try:
    from modicum.core.watermark.adapters.transformers import WatermarkingConfig, WatermarkProcessor
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise
    raise ImportError(
        "the transformers integration needs transformers: "
        'pip install "modicum-ewatermark[transformers]"'
    ) from missing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EWatermarkLogitsProcessor", "EWatermarkingConfig"]


class EWatermarkingConfig(WatermarkingConfig):
    """What ``model.generate(..., do_sample=True, watermarking_config=...)`` takes.

    transformers runs it after temperature, top-k, top-p and every other warper, so the law that is
    sampled from is watermarked and, averaged over keys, unchanged. One object serves any number of
    calls. Greedy decoding warns and stays unmarked; beam search, assisted decoding and continuous
    batching raise ``NotImplementedError``. Files and printouts hold the key's id, never the key.

    Parameters
    ----------
    config
        The watermark. ``config.for_transformers()`` is the same as this constructor.

    Raises
    ------
    TypeError
        If ``config`` is not an `EWatermarkConfig`.

    Examples
    --------
    >>> config = EWatermarkConfig(key=b"0123456789abcdef", vocab_size=32000)
    >>> EWatermarkingConfig(config).key_id == config.key_id
    True
    """

    def __init__(self, config: EWatermarkConfig) -> None:
        scheme = _scheme(config)
        super().__init__(
            scheme=scheme,
            key_id=config.key_id,
            public={**config.parameters, "anchor_fingerprint": scheme.anchor.fingerprint},
        )
        self.config = config


class EWatermarkLogitsProcessor(WatermarkProcessor):
    """Logits processor for ``generate(logits_processor=[...])`` and for hand-written loops.

    Prefer `EWatermarkingConfig`: transformers runs ``logits_processor=`` *before* temperature,
    top-k and top-p, which would then cut into the watermarked law and distort it. If this route is
    needed, give the warping to ``warper`` and switch it off in `generate` with
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
        If ``config`` is not an `EWatermarkConfig`.
    """

    def __init__(
        self,
        config: EWatermarkConfig,
        warper: "Callable[[Tensor], Tensor] | None" = None,
    ) -> None:
        super().__init__(_scheme(config), warper)
        self.config = config


def _scheme(config: EWatermarkConfig) -> EWatermarkScheme:
    if not isinstance(config, EWatermarkConfig):
        raise TypeError(f"config must be an EWatermarkConfig, got {type(config).__name__}")
    return EWatermarkScheme(config)
