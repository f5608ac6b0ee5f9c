"""LLaDA as what it is: a Llama that attends to both sides, under other names.

Maps the configuration and the names of the weights of LLaDA's own checkpoints to those of
`transformers.LlamaForCausalLM`. What a Llama cannot do is refused by the name of its flag. Reads no
weights.

Source: "Large Language Diffusion Models", Nie et al., arXiv 2502.09992, and the configurations of
GSAI-ML/LLaDA-8B.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["WEIGHT_NAMES", "llama_config"]

WEIGHT_NAMES = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    r"^model\.transformer\.blocks\.": "model.layers.",
    r"\.attn_norm\.": ".input_layernorm.",
    r"\.ff_norm\.": ".post_attention_layernorm.",
    r"\.q_proj\.": ".self_attn.q_proj.",
    r"\.k_proj\.": ".self_attn.k_proj.",
    r"\.v_proj\.": ".self_attn.v_proj.",
    r"\.attn_out\.": ".self_attn.o_proj.",
    r"\.ff_proj\.": ".mlp.gate_proj.",
    r"\.up_proj\.": ".mlp.up_proj.",
    r"\.ff_out\.": ".mlp.down_proj.",
}
"""Patterns in the names of a checkpoint's weights, applied in order, and what takes their place."""

_REQUIRED: dict[str, tuple[object, ...]] = {
    "activation_type": ("silu",),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1,),
    "block_type": ("llama",),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "input_emb_norm": (False,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "multi_query_attention": (False, None),
    "rope": (True,),
    "scale_logits": (False,),
}

_NEEDED = ("d_model", "n_heads", "n_layers", "vocab_size", "max_sequence_length")


def llama_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Give the fields of a `transformers.LlamaConfig` for LLaDA's ``config.json``.

    Raises
    ------
    ValueError
        If a flag asks for what a Llama does not do, or a size is missing; the message names it.
    """
    if given.get("num_experts"):
        raise ValueError(
            f"num_experts={given['num_experts']!r} is not supported: LLaDA is read as a Llama, "
            "which has no mixture of experts"
        )
    missing = [name for name in _NEEDED if given.get(name) is None]
    if missing:
        raise ValueError(f"the configuration of a LLaDA lacks {', '.join(missing)}")
    for name, allowed in _REQUIRED.items():
        if given.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f"{name}={given[name]!r} is not supported: LLaDA is read as a Llama, which has "
                f"{name}={allowed[0]!r}"
            )
    width = given["d_model"]
    return {
        "hidden_size": width,
        "intermediate_size": given.get("mlp_hidden_size") or given["mlp_ratio"] * width,
        "num_hidden_layers": given["n_layers"],
        "num_attention_heads": given["n_heads"],
        "num_key_value_heads": given.get("n_kv_heads") or given["n_heads"],
        "vocab_size": given.get("embedding_size") or given["vocab_size"],
        "max_position_embeddings": given["max_sequence_length"],
        "rope_theta": given.get("rope_theta", 10000.0),
        "rms_norm_eps": given.get("rms_norm_eps", 1e-5),
        "tie_word_embeddings": given.get("weight_tying", True),
        "bos_token_id": given.get("bos_token_id"),
        "eos_token_id": given.get("eos_token_id"),
        "pad_token_id": given.get("pad_token_id"),
        "mask_token_id": given.get("mask_token_id"),
    }
