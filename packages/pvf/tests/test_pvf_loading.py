"""Checkpoints in their own layouts: what is read, as what, and what is refused."""

import json

import pytest
import torch
from pvf_checkpoints import (
    EOS,
    MASK,
    SIZES,
    VOCABULARY,
    random_ids,
    random_weights,
    reference,
    shifted,
    write_dream,
    write_llada,
    write_tokenizer,
)

from modicum.pvf import Threshold, generate
from modicum.pvf.loading import load_mask_predictor


def load(path, **options):
    return load_mask_predictor(path, device="cpu", dtype="float32", **options)


def all_columns(ids):
    return torch.arange(ids.shape[1]).expand_as(ids)


@torch.no_grad()
def logits_of(model, ids, mask=None):
    return model.forward(ids, mask, all_columns(ids))


@pytest.mark.parametrize("shards", [1, 3])
def test_llada_in_its_own_layout(tmp_path, shards):
    model = load(write_llada(tmp_path, seed=1, shards=shards))
    assert (model.mask_id, model.eos_id, model.pad_id) == (MASK, EOS, EOS)
    assert (model.vocab_size, model.max_length, model.right_shift) == (VOCABULARY, 96, False)
    assert model.tokenizer is None
    ids = random_ids(2, 3, 17)
    _, expected = reference(random_weights(1), ids)
    assert (logits_of(model, ids) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("shards", [1, 2])
def test_dream_in_its_own_layout(tmp_path, shards):
    model = load(write_dream(tmp_path, seed=1, shards=shards))
    assert (model.mask_id, model.pad_id, model.right_shift) == (MASK, EOS, True)
    ids = random_ids(2, 3, 17)
    _, expected = reference(random_weights(1, bias=True), ids)
    assert (logits_of(model, ids) - shifted(expected)).abs().max() <= 1e-5


def test_a_llada_with_tied_weights_has_no_head(tmp_path):
    weights = random_weights(3)
    del weights[None, "head", "weight"]
    weights[None, "embed", "weight"] /= 4
    model = load(write_llada(tmp_path, weights=weights, config={"weight_tying": True}))
    ids = random_ids(2, 2, 9)
    tied = {**weights, (None, "head", "weight"): weights[None, "embed", "weight"]}
    assert (logits_of(model, ids) - reference(tied, ids)[1]).abs().max() <= 1e-5


@pytest.mark.parametrize("write", [write_llada, write_dream])
def test_a_model_that_is_saved_again_is_a_llama_or_qwen_that_knows_what_it_is(tmp_path, write):
    model = load(write(tmp_path / "original"))
    model.model.save_pretrained(tmp_path / "again")
    given = json.loads((tmp_path / "again" / "config.json").read_text())
    assert given["model_type"] in ("llama", "qwen2")
    again = load(str(tmp_path / "again"))
    ids = random_ids(2, 2, 11)
    assert torch.equal(logits_of(model, ids), logits_of(again, ids))
    assert again.right_shift == model.right_shift and again.mask_id == MASK


@pytest.mark.parametrize(
    "flag",
    [
        {"alibi": True},
        {"block_type": "sequential"},
        {"activation_type": "swiglu"},
        {"include_bias": True},
        {"include_qkv_bias": True},
        {"scale_logits": True},
        {"input_emb_norm": True},
        {"attention_layer_norm": True},
        {"layer_norm_type": "default"},
        {"block_group_size": 4},
        {"rope": False},
    ],
)
def test_llada_with_what_a_llama_has_not_is_refused_by_name(tmp_path, flag):
    with pytest.raises(ValueError, match=next(iter(flag))):
        load(write_llada(tmp_path, config=flag))


def test_configurations_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match="d_model"):
        load(write_llada(tmp_path / "1", config={"d_model": None}))
    with pytest.raises(ValueError, match="num_experts=8 is not supported"):
        load(write_llada(tmp_path / "6", config={"d_model": None, "num_experts": 8}))
    with pytest.raises(ValueError, match="block_size=32"):
        load(write_dream(tmp_path / "2", config={"block_size": 32}))
    with pytest.raises(ValueError, match="uniform"):
        load(write_llada(tmp_path / "3", config={"model_type": "diffusion_gemma"}))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load(write_llada(tmp_path / "4", config={"model_type": "llada2_moe"}))
    with pytest.raises(ValueError, match="'gpt2' is not known"):
        load(write_llada(tmp_path / "5", config={"model_type": "gpt2", "auto_map": None}))


def test_special_ids_that_are_refused(tmp_path):
    without = write_llada(tmp_path / "1", config={"mask_token_id": None})
    with pytest.raises(ValueError, match="mask_id is None"):
        load(without)
    assert load(without, mask_id=7).mask_id == 7
    with pytest.raises(ValueError, match=f"mask_id must be in .*not {VOCABULARY}"):
        load(without, mask_id=VOCABULARY)
    with pytest.raises(ValueError, match="pad_id"):
        load(without, mask_id=7, pad_id=VOCABULARY)


def test_padding_must_not_be_the_mask(tmp_path):
    model = load(write_llada(tmp_path), pad_id=MASK)
    options = {"strategy": Threshold(0.9), "gen_length": 4, "block_length": 4}
    generate(model, [[1, 2]], **options)
    with pytest.raises(ValueError, match=f"pad_id and mask_id are both {MASK}"):
        generate(model, [[1, 2], [3]], **options)


def test_prompts_that_are_too_long_or_padded_behind_are_refused(tmp_path):
    model = load(write_llada(tmp_path))
    options = {"strategy": Threshold(0.9), "block_length": 8}
    generate(model, [[1] * 80], gen_length=16, **options)
    with pytest.raises(ValueError, match="97 tokens, the model takes 96"):
        generate(model, [[1] * 80], gen_length=17, **options)
    with pytest.raises(ValueError, match="97 columns, the model takes 96"):
        logits_of(model, random_ids(0, 1, 97))
    with pytest.raises(ValueError, match="left"):
        ids, mask = torch.ones(2, 3, dtype=torch.int64), torch.tensor([[1, 1, 0], [1, 1, 1]])
        generate(model, ids, attention_mask=mask, gen_length=4, **options)


def test_weights_that_are_missing_or_left_over_are_refused(tmp_path):
    weights = random_weights(0)
    lost = {k: v for k, v in weights.items() if k != (1, "gate", "weight")}
    with pytest.raises(ValueError, match=r"missing keys.*layers\.1\.mlp\.gate_proj"):
        load(write_llada(tmp_path / "1", weights=lost))
    more = {**weights, (1, "q", "bias"): torch.zeros(SIZES["width"])}
    with pytest.raises(ValueError, match=r"unexpected keys.*q_proj\.bias"):
        load(write_llada(tmp_path / "2", weights=more))
    with pytest.raises(ValueError, match=r"mismatched keys.*mlp\.down_proj"):
        load(write_llada(tmp_path / "3", config={"mlp_hidden_size": 40}))


def test_tokenizers(tmp_path):
    path = write_llada(tmp_path / "1")
    write_tokenizer(tmp_path / "1")
    model = load(path)
    out = generate(model, ["w1 w2 w3", "w4"], strategy=Threshold(0.9), gen_length=4)
    assert out.sequences[0, :3].tolist() == [1, 2, 3]
    assert len(out.texts) == 2
    other = write_tokenizer(tmp_path / "other", size=59)
    with pytest.raises(ValueError, match="mask token is 60, the model's 5"):
        load(write_llada(tmp_path / "2", config={"mask_token_id": 5}), tokenizer=other)
    other.add_tokens([f"more{number}" for number in range(9)])
    with pytest.raises(ValueError, match="do not belong together"):
        load(path, tokenizer=other)


def test_a_checkpoint_in_a_subfolder(tmp_path):
    write_llada(tmp_path / "inner")
    write_tokenizer(tmp_path / "inner")
    model = load(str(tmp_path), subfolder="inner")
    assert model.tokenizer("w5")["input_ids"] == [5]


def test_dreams_tokenizer_is_read_without_its_code(tmp_path):
    path = write_dream(tmp_path)
    words = ["a", "b", "ab", "c", *(f"word{number}" for number in range(4, MASK))]
    (tmp_path / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    special = {"content": "<|mask|>", "special": True, "lstrip": False, "rstrip": False,
               "normalized": False, "single_word": False}  # fmt: skip
    end = {**special, "content": "<|endoftext|>"}
    described = {
        "added_tokens_decoder": {str(MASK): special, str(EOS): end},
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "eos_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "DreamTokenizer",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    model = load(path)
    assert model.tokenizer("abcb")["input_ids"] == [2, 3, 1]
