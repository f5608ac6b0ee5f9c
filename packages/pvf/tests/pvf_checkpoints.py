"""LLaDA and Dream in plain torch, and checkpoints of them in their own layouts on disk.

The network is written from the papers' formulas over a flat dictionary of weights and knows nothing
of transformers; the writers give these weights the names that the published checkpoints have.
"""

import json
import math

import torch
from safetensors.torch import save_file
from torch.nn import functional

VOCABULARY = 64
SIZES = {"width": 32, "heads": 4, "key_heads": 2, "layers": 3, "inner": 48, "theta": 5e5}
MASK, EOS = 60, 61

LLADA_CONFIG = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": SIZES["width"],
    "embedding_size": VOCABULARY,
    "eos_token_id": EOS,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_device": "meta",
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": MASK,
    "max_sequence_length": 96,
    "mlp_hidden_size": SIZES["inner"],
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": SIZES["heads"],
    "n_kv_heads": SIZES["key_heads"],
    "n_layers": SIZES["layers"],
    "pad_token_id": EOS,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": SIZES["theta"],
    "scale_logits": False,
    "use_cache": False,
    "vocab_size": VOCABULARY - 2,
    "weight_tying": False,
}
DREAM_CONFIG = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_dream.DreamConfig",
        "AutoModel": "modeling_dream.DreamModel",
    },
    "bos_token_id": EOS,
    "eos_token_id": EOS,
    "hidden_act": "silu",
    "hidden_size": SIZES["width"],
    "initializer_range": 0.02,
    "intermediate_size": SIZES["inner"],
    "mask_token_id": MASK,
    "max_position_embeddings": 96,
    "max_window_layers": SIZES["layers"],
    "model_type": "Dream",
    "num_attention_heads": SIZES["heads"],
    "num_hidden_layers": SIZES["layers"],
    "num_key_value_heads": SIZES["key_heads"],
    "pad_token_id": EOS,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": SIZES["theta"],
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}

LLADA_NAMES = {
    "embed": "model.transformer.wte",
    "norm": "model.transformer.ln_f",
    "head": "model.transformer.ff_out",
    "layer": "model.transformer.blocks",
    "norm_1": "attn_norm",
    "norm_2": "ff_norm",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "attn_out",
    "gate": "ff_proj",
    "up": "up_proj",
    "down": "ff_out",
}
DREAM_NAMES = {
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
    "layer": "model.layers",
    "norm_1": "input_layernorm",
    "norm_2": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def random_weights(seed, bias=False, key_heads=SIZES["key_heads"]):
    """Give weights by neutral names, ``(layer, name, kind)``; the biases of q, k and v if asked."""
    generator = torch.Generator().manual_seed(seed)
    width, inner = SIZES["width"], SIZES["inner"]
    narrow = width // SIZES["heads"] * key_heads

    def draw(*shape, scale=1.0):
        return torch.randn(*shape, generator=generator) * scale

    weights = {
        (None, "embed", "weight"): draw(VOCABULARY, width),
        (None, "norm", "weight"): 1 + draw(width, scale=0.1),
        (None, "head", "weight"): draw(VOCABULARY, width, scale=2 / math.sqrt(width)),
    }
    shapes = {"q": (width, width), "k": (narrow, width), "v": (narrow, width), "o": (width, width),
              "gate": (inner, width), "up": (inner, width), "down": (width, inner)}  # fmt: skip
    for layer in range(SIZES["layers"]):
        for name, (rows, columns) in shapes.items():
            weights[layer, name, "weight"] = draw(rows, columns, scale=1 / math.sqrt(columns))
            if bias and name in "qkv":
                weights[layer, name, "bias"] = draw(rows, scale=0.5)
        for name in ("norm_1", "norm_2"):
            weights[layer, name, "weight"] = 1 + draw(width, scale=0.1)
    return weights


def reference(weights, ids_RL, mask_RL=None, key_heads=SIZES["key_heads"]):
    """Give the hidden states after the embedding and after each layer, and logits of all columns.

    Rotary positions count the columns from 0, attention sees all columns that `mask_RL` allows.
    """
    heads = SIZES["heads"]
    rows, length = ids_RL.shape
    wide = SIZES["width"] // heads
    rates = SIZES["theta"] ** (-torch.arange(0, wide, 2) / wide)
    angle_LC = torch.arange(length)[:, None] * torch.cat([rates, rates])

    def normed(x, layer, name):
        scaled = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)
        return scaled * weights[layer, name, "weight"]

    def linear(x, layer, name):
        bias = weights.get((layer, name, "bias"))
        return functional.linear(x, weights[layer, name, "weight"], bias)

    def split(x, count):
        return x.view(rows, length, count, wide).transpose(1, 2)

    def turned(x):
        half = torch.cat([-x[..., wide // 2 :], x[..., : wide // 2]], -1)
        return x * angle_LC.cos() + half * angle_LC.sin()

    x = weights[None, "embed", "weight"][ids_RL]
    states = [x]
    for layer in range(SIZES["layers"]):
        y = normed(x, layer, "norm_1")
        q = turned(split(linear(y, layer, "q"), heads))
        k = turned(split(linear(y, layer, "k"), key_heads))
        v = split(linear(y, layer, "v"), key_heads)
        k, v = (z.repeat_interleave(heads // key_heads, 1) for z in (k, v))
        scores = q @ k.transpose(2, 3) / math.sqrt(wide)
        if mask_RL is not None:
            scores = scores.masked_fill(~mask_RL[:, None, None], -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, -1)
        x = x + linear(mixed, layer, "o")
        y = normed(x, layer, "norm_2")
        inner = functional.silu(linear(y, layer, "gate")) * linear(y, layer, "up")
        x = x + linear(inner, layer, "down")
        states.append(x)
    x = normed(x, None, "norm")
    return states, linear(x, None, "head")


def shifted(logits_RLV):
    """Give Dream's logits: what column p - 1 says stands in column p."""
    return torch.cat([logits_RLV[:, :1], logits_RLV[:, :-1]], 1)


def write(folder, config, weights, names, shards=1):
    """Save a checkpoint with safetensors, in several files if asked; gives the folder as text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {}
    for (layer, name, kind), value in weights.items():
        place = "" if layer is None else f"{names['layer']}.{layer}."
        tensors[f"{place}{names[name]}.{kind}"] = value.contiguous()
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)
    where = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[number::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(folder)


def write_llada(folder, seed=0, shards=1, config=None, weights=None):
    weights = random_weights(seed) if weights is None else weights
    return write(folder, {**LLADA_CONFIG, **(config or {})}, weights, LLADA_NAMES, shards)


def write_dream(folder, seed=0, shards=1, config=None, weights=None):
    weights = random_weights(seed, bias=True) if weights is None else weights
    return write(folder, {**DREAM_CONFIG, **(config or {})}, weights, DREAM_NAMES, shards)


def random_ids(seed, rows, length):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, MASK, (rows, length), generator=generator)


def write_tokenizer(folder, kind="PreTrainedTokenizerFast", size=58):
    """Save a tokenizer of `size` words ``w0``, ``w1``, … and the special tokens of the models."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(size)}
    inner = Tokenizer(models.WordLevel({**words, "[UNK]": size}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(
        [AddedToken(f"<{number}>", special=True) for number in range(size + 1, EOS + 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        mask_token=f"<{MASK}>",
        eos_token=f"<{EOS}>",
        pad_token=f"<{EOS}>",
        unk_token="[UNK]",
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
