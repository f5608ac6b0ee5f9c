"""A checkpoint in, a mask predictor out.

Reads ``config.json``, says which kind of model it is, has `modicum.pvf.integrations` load it, and
tries whether it sees both sides. No code of a checkpoint runs unless it is asked for. transformers
is imported when something is loaded.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch

from modicum.core.device import resolve_device, resolve_dtype
from modicum.pvf.predictor import MaskPredictor

__all__ = ["check_sees_both_sides", "load_mask_predictor"]

_CONVERTED = "a2d-"
"""Before the model type of decoders and encoders that dLLM trained on as mask predictors."""

_PROBE_LENGTH = 4


def load_mask_predictor(
    path: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    attn_implementation: str | None = None,
    mask_id: int | None = None,
    eos_id: int | None = None,
    pad_id: int | None = None,
    max_length: int | None = None,
    right_shift: bool | None = None,
    bidirectional: bool | None = None,
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> MaskPredictor:
    """Load a model that predicts masks.

    Taken are LLaDA in its own layout, Dream, LLaDA saved as a Llama, decoders that were converted
    to mask predictors (Llama, Qwen2, Qwen3), and all of `transformers.AutoModelForMaskedLM`. None
    of them needs the checkpoint's code.

    Parameters
    ----------
    path
        Folder or name on the hub.
    dtype
        As in `modicum.core.device.resolve_dtype`: ``"auto"`` is bfloat16 on a GPU that computes in
        it and float32 on a CPU.
    device
        As in `modicum.core.device.resolve_device`; ignored where `options` has a ``device_map`` or
        ``tp_plan``.
    attn_implementation
        As in transformers; ``"sdpa"`` or ``"eager"`` for a key-value cache.
    mask_id, eos_id, pad_id
        Ids of special tokens, where the configuration and the tokenizer do not say.
    max_length
        Most tokens of a canvas, where the model's positions are not it.
    right_shift
        Whether column p predicts the token of column p + 1, where the configuration does not say.
    bidirectional
        True for a Llama, Qwen2 or Qwen3 that was trained to predict masks and whose configuration
        does not say so (``mask_token_id``, or ``is_causal`` false).
    tokenizer
        Instead of the checkpoint's.
    trust_remote_code
        Whether the checkpoint's own code may run, for models with attention by blocks (LLaDA2,
        SDAR). Such a model sees the canvas up to the end of a window only.
    options
        Of ``from_pretrained``: ``revision``, ``tp_plan``, ``quantization_config`` and others.

    Returns
    -------
    MaskPredictor
        With ``model``, ``tokenizer`` (None if the checkpoint has none), ``pad_id`` and
        ``max_length``.

    Raises
    ------
    ValueError
        If the model predicts no masks, asks for what is not supported, does not see both sides, or
        its weights, tokenizer or special ids do not fit.
    ImportError
        Without transformers.
    """
    from modicum.pvf.integrations import checkpoints

    path, device = os.fspath(path), resolve_device(device)
    options["dtype"] = resolve_dtype(device, dtype)
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    given = checkpoints.read_config(path, options)
    special = {"mask_id": mask_id, "eos_id": eos_id, "pad_id": pad_id, "max_length": max_length}
    family = _family(given, bidirectional, trust_remote_code)
    predictor: Any = checkpoints.load(
        path,
        family,
        given,
        special=special,
        right_shift=right_shift,
        tokenizer=tokenizer,
        device=device,
        options=options,
    )
    check_sees_both_sides(predictor)
    return predictor  # type: ignore[no-any-return]


@torch.inference_mode()
def check_sees_both_sides(model: MaskPredictor) -> None:
    """Refuse a model whose first column does not depend on the last one.

    Raises
    ------
    ValueError
        If it does not: the model continues texts and does not fill masks.
    """
    # Not the mask alone: another token at the end must make a difference to a mask at the front.
    other = [token for token in (0, 1, 2) if token != model.mask_id][:2]
    length = 2 if model.canvas == "prefix" else _PROBE_LENGTH
    found = []
    for last in other:
        ids = torch.full((1, length), model.mask_id, device=model.device)
        ids[0, -1] = last
        first = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
        found.append(model.forward(ids, None, first))
    if torch.equal(*found):
        raise ValueError(
            "the model is causal: another token in the last column leaves the logits of the first "
            "as they are"
        )


def _family(given: Mapping[str, Any], bidirectional: bool | None, trusted: bool) -> str:
    """Say how a checkpoint is read: a name of `modicum.pvf.integrations.checkpoints`.

    Raises
    ------
    ValueError
        If it is not.
    """
    kind = str(given.get("model_type", "")).lower()
    if kind.startswith("diffusion_gemma"):
        raise ValueError(
            f"model_type {given['model_type']!r} has no mask token: its noise is uniform over the "
            "vocabulary, which the method is not defined for"
        )
    if kind in ("llada", "dream"):
        return kind
    base = kind.removeprefix(_CONVERTED)
    if base in ("llama", "qwen2", "qwen3"):
        says_so = kind != base or given.get("is_causal") is False or "mask_token_id" in given
        if bidirectional is False or (bidirectional is None and not says_so):
            raise ValueError(
                f"model_type {kind!r} continues texts and its configuration names no mask token; "
                "if it was trained to predict masks, give bidirectional=True and mask_id"
            )
        return base
    architectures = given.get("architectures") or ()
    if base == "modernbert" or any(name.endswith("ForMaskedLM") for name in architectures):
        return "encoder"
    if trusted and given.get("auto_map"):
        return "remote"
    advice = "it brings its own code, which runs with trust_remote_code=True"
    raise ValueError(
        f"model_type {given.get('model_type')!r} is not known; "
        + (advice if given.get("auto_map") else "see load_mask_predictor for what is")
    )
