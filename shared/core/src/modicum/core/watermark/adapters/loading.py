"""Tokenizers, anchors and models by name, as a command line gives them.

Takes a path or one of a few words and gives objects; the only place where a name becomes a file
read. Nothing is downloaded: a name that is neither is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modicum.core.watermark.anchors import Anchor, NGramAnchor, UniformAnchor

TINY = "tiny"
"""Stands for the small model, its tokenizer and its anchor that come with the package."""


@contextmanager
def quiet() -> Iterator[None]:
    """Suspend the bars that transformers draws while it loads weights."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def _require_transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "language models and tokenizers need transformers: "
            'pip install "modicum-core[transformers]"'
        ) from error
    return transformers


def _local(name: str, kind: str) -> str:
    if not Path(name).exists():
        raise ValueError(
            f"{kind} {name!r} does not exist; give the folder of a saved {kind}, or {TINY!r}"
        )
    return name


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer.

    Parameters
    ----------
    name
        ``"tiny"`` or a folder that ``AutoTokenizer.from_pretrained`` reads.

    Raises
    ------
    ValueError
        If there is no such path.
    ImportError
        If transformers is not installed.
    """
    transformers = _require_transformers()
    if name == TINY:
        from modicum.core.watermark.adapters.tiny_lm import tiny_path

        return transformers.AutoTokenizer.from_pretrained(tiny_path("target"))
    return transformers.AutoTokenizer.from_pretrained(_local(name, "tokenizer"))


def load_model(name: str, device: str = "auto") -> Any:
    """Load a causal language model in evaluation mode.

    Parameters
    ----------
    name
        ``"tiny"`` or a folder that ``AutoModelForCausalLM.from_pretrained`` reads.
    device
        As in `modicum.core.device.resolve_device`.
    """
    transformers = _require_transformers()
    from modicum.core.device import resolve_device

    if name == TINY:
        from modicum.core.watermark.adapters.tiny_lm import load_tiny

        with quiet():
            return load_tiny("target", device=device)[0]
    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(_local(name, "model"))
    return model.to(resolve_device(device)).eval()


def load_anchor(
    name: str,
    vocab_size: int,
    *,
    window: int = 20,
    temperature: float = 1.0,
    device: str = "auto",
) -> Anchor:
    """Load an anchor.

    Parameters
    ----------
    name
        ``"uniform"``, ``"tiny"``, an n-gram file (``.safetensors``) or the folder of a causal
        language model.
    vocab_size
        Vocabulary of the watermark; a model's padding rows beyond it are cut.
    window
        Tokens a language model reads.
    temperature
        Temperature of a language model's law.
    device
        Where a language model runs.
    """
    if name == "uniform":
        return UniformAnchor(vocab_size)
    if name.endswith(".safetensors"):
        return NGramAnchor.load(_local(name, "anchor"))
    _require_transformers()
    from modicum.core.device import resolve_device
    from modicum.core.watermark.causal_lm import CausalLMAnchor

    path: str | Path = name
    if name == TINY:
        from modicum.core.watermark.adapters.tiny_lm import tiny_path

        path = tiny_path("anchor")
    else:
        _local(name, "anchor")
    with quiet():
        return CausalLMAnchor.from_pretrained(
            path,
            device=resolve_device(device),
            dtype="float32",
            vocab_size=vocab_size,
            window=window,
            temperature=temperature,
        )


def generate_ids(
    model: Any,
    prompts: Any,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    watermarking_config: Any = None,
    attention_mask: Any = None,
) -> Any:
    """Sample responses with ``model.generate`` without touching the global random state.

    Parameters
    ----------
    model
        A causal language model.
    prompts
        Prompt ids ``[B, L]``, int64.
    max_new_tokens
        Length of the responses; the end-of-text token does not stop them.
    temperature, top_p
        Sampling parameters.
    seed
        Seed of the sampler.
    watermarking_config
        What ``generate`` takes under this name; ``None`` samples plainly.
    attention_mask
        Mask of left-padded prompts.

    Returns
    -------
    int64[B, max_new_tokens]
        Response ids without the prompt.
    """
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        out = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts) if attention_mask is None else attention_mask,
            do_sample=True,
            temperature=temperature,
            top_p=top_p,
            top_k=0,
            max_new_tokens=max_new_tokens,
            min_new_tokens=max_new_tokens,
            pad_token_id=model.generation_config.eos_token_id or 0,
            watermarking_config=watermarking_config,
        )
    return out[:, prompts.shape[1] :]


def prompt_ids(model: Any, tokenizer: Any, prompt: str) -> list[int]:
    """Return what `generate_text` puts in front of a response.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    prompt
        May be empty.

    Returns
    -------
    list of int
        The model's first token, if it has one, and the prompt.
    """
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    first = model.generation_config.bos_token_id
    return [*ids] if first is None else [first, *ids]


def generate_text(
    model: Any,
    tokenizer: Any,
    config: Any,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> str:
    """Generate one watermarked response as text.

    Parameters
    ----------
    model, tokenizer
        A causal language model and its tokenizer.
    config
        A watermark's configuration: has ``for_transformers()``.
    prompt
        Text before the response; may be empty.
    max_new_tokens, temperature, top_p, seed
        As in `generate_ids`.

    Returns
    -------
    str
        The response without the prompt.
    """
    import torch

    start = prompt_ids(model, tokenizer, prompt)
    if not start:
        raise ValueError("the prompt is empty and the model has no token to begin with")
    ids = generate_ids(
        model,
        torch.tensor([start], device=model.device),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        watermarking_config=config.for_transformers(),
    )
    return tokenizer.decode(ids[0], skip_special_tokens=True)
