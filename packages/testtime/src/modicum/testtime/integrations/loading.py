"""Engines and models from a name, for the command line."""

from __future__ import annotations

from typing import Any

__all__ = ["load_engine", "load_model"]


def load_engine(model: str, **options: Any) -> Any:
    """Start a vLLM engine in this process.

    Parameters
    ----------
    model
        Name or folder of the model.
    options
        Further arguments of `vllm.LLM`.

    Raises
    ------
    ImportError
        If vLLM is not installed.
    """
    try:
        from vllm import LLM
    except ImportError as error:
        raise ImportError(
            'sampling with vLLM needs vLLM 0.25: pip install "modicum-testtime[vllm]"'
        ) from error
    return LLM(model=model, **options)


def load_model(model: str, device: str = "auto") -> tuple[Any, Any]:
    """Load a causal language model of transformers and its tokenizer.

    Parameters
    ----------
    model
        Name or folder of the model.
    device
        Where to put it; "auto" takes a GPU if there is one.

    Returns
    -------
    model, tokenizer

    Raises
    ------
    ImportError
        If transformers is not installed.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            'sampling with transformers needs it: pip install "modicum-testtime[transformers]"'
        ) from error
    from modicum.core.device import resolve_device

    loaded = AutoModelForCausalLM.from_pretrained(model)
    return loaded.to(resolve_device(device)), AutoTokenizer.from_pretrained(model)
