"""Dream as what it is: a Qwen2 that attends to both sides and predicts the next position.

Names of the weights and sizes are those of `transformers.Qwen2ForCausalLM`; what stands at position
p is predicted by the hidden state of position p - 1. Reads no weights.

Source: "Dream 7B: Diffusion Large Language Models", Ye et al., arXiv 2508.15487, and the
configurations of Dream-org/Dream-v0.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["qwen2_config"]

_FOREIGN = {"architectures", "auto_map", "model_type", "transformers_version"}


def qwen2_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields of a `transformers.Qwen2Config` for Dream's ``config.json``.

    Raises
    ------
    ValueError
        If the checkpoint attends by blocks or through a sliding window; the message names the flag.
    """
    for name in ("block_size", "block_length", "use_sliding_window", "use_mrope"):
        if given.get(name):
            raise ValueError(
                f"{name}={given[name]!r} is not supported: Dream is read as a Qwen2 in which every "
                "position attends to all others"
            )
    fields = {name: value for name, value in given.items() if name not in _FOREIGN}
    return {**fields, "right_shift_logits": True}
