"""TinyGPT computes what GPT2LMHeadModel computes, with and without a cache, and samples its law."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from modicum.core.device import torch_generator
from modicum.testtime.tinygpt import (
    KeyValueCache,
    TinyGPT,
    TinyGPTConfig,
    load_checkpoint,
    sample,
)

SIZES = [
    TinyGPTConfig(vocab_size=11, n_positions=16, n_embd=24, n_layer=2, n_head=3),
    TinyGPTConfig(vocab_size=7, n_positions=9, n_embd=16, n_layer=1, n_head=1, n_inner=20),
    TinyGPTConfig(5, 12, n_embd=8, n_layer=3, n_head=4, layer_norm_epsilon=1e-3),
]


def _gpt2(config: TinyGPTConfig, seed: int):
    transformers = pytest.importorskip("transformers")
    settings = transformers.GPT2Config(
        **dataclasses.asdict(config), bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(settings).eval()
    with torch.no_grad():
        # Weights of a trained model's size, biases included, so that no term is invisible.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def _ids(config: TinyGPTConfig, num_sequences: int, seed: int) -> torch.Tensor:
    generator = torch_generator(seed)
    return torch.randint(
        config.vocab_size, (num_sequences, config.n_positions), generator=generator
    )


@pytest.mark.parametrize("config", SIZES)
def test_logits_are_those_of_transformers_both_ways(config):
    theirs = _gpt2(config, 0)
    ours = TinyGPT(TinyGPTConfig.from_gpt2(theirs.config))
    assert ours.config == config
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes
    ours.load_state_dict(theirs.state_dict())
    ids_BT = _ids(config, 4, 1)
    with torch.no_grad():
        assert (ours(ids_BT) - theirs(ids_BT).logits).abs().max() < 1e-5
        fresh = TinyGPT(config, seed=3)
        assert (fresh(ids_BT) - theirs(ids_BT).logits).abs().max() > 1e-2
        theirs.load_state_dict(fresh.state_dict())
        assert (fresh(ids_BT) - theirs(ids_BT).logits).abs().max() < 1e-5


def test_initial_law_is_that_of_transformers():
    config = TinyGPTConfig(400, 300, n_embd=96, n_layer=2, n_head=2)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**dataclasses.asdict(config), bos_token_id=None, eos_token_id=None)
    ).state_dict()
    for name, tensor in TinyGPT(config).state_dict().items():
        if theirs[name].std() == 0:
            assert torch.equal(tensor, theirs[name]), name
        else:
            # At least 9,216 numbers each: the standard error of a deviation is below 0.8 %.
            assert float(tensor.std() / theirs[name].std()) == pytest.approx(1, abs=0.06), name
            assert abs(float(tensor.mean())) < 0.002


def test_other_architectures_are_refused():
    class Config:
        vocab_size, n_positions, n_embd, n_layer, n_head = 5, 5, 8, 1, 2
        n_inner, layer_norm_epsilon = None, 1e-5
        activation_function = "relu"

    with pytest.raises(ValueError, match="activation_function must be 'gelu_new', not 'relu'"):
        TinyGPTConfig.from_gpt2(Config())
    Config.activation_function = "gelu_new"
    assert TinyGPTConfig.from_gpt2(Config()).n_layer == 1
    with pytest.raises(ValueError, match="multiple of n_head, not 10 with 4"):
        TinyGPTConfig(5, 5, n_embd=10, n_head=4)
    with pytest.raises(ValueError, match="n_layer must be at least 1, not 0"):
        TinyGPTConfig(5, 5, n_layer=0)
    with pytest.raises(ValueError, match="n_inner"):
        TinyGPTConfig(5, 5, n_inner=0)


@pytest.mark.parametrize("config", SIZES)
@pytest.mark.parametrize("cuts", [(1,), (3, 4, 5), (2, 7), (8,)])
def test_cache_changes_nothing(config, cuts):
    model = TinyGPT(config, seed=1).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
        ids_BT = _ids(config, 3, 2)
        cache = model.new_cache(3)
        parts = [model(part_BT, cache) for part_BT in torch.tensor_split(ids_BT, cuts, dim=1)]
        assert cache.length == config.n_positions
        assert (torch.cat(parts, 1) - model(ids_BT)).abs().max() < 1e-10
        # Sequences of a cache can be copied and reordered, and part ways then.
        cache = model.new_cache(3, max_length=6)
        model(ids_BT[:, :4], cache)
        index = torch.tensor([2, 0, 2, 2])
        chosen = cache.select(index)
        next_B1 = torch.tensor([[0], [1], [2], [3]])
        full = model(torch.cat([ids_BT[index, :4], next_B1], 1))[:, -1]
        assert (model(next_B1, chosen)[:, -1] - full).abs().max() < 1e-10
        assert cache.length == 4 and chosen.length == 5


def test_too_long_sequences_are_refused():
    model = TinyGPT(SIZES[1])
    with pytest.raises(ValueError, match="at most 9 positions here, not 10"):
        model(torch.zeros(1, 10, dtype=torch.long))
    cache = model.new_cache(1)
    model(torch.zeros(1, 8, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="not 11"):
        model(torch.zeros(1, 3, dtype=torch.long), cache)


def test_samples_have_the_law_of_the_model():
    model = TinyGPT(SIZES[2], seed=5)
    with torch.no_grad():
        model.lm_head.weight.mul_(15)
    size, num_draws = model.config.vocab_size, 40_000
    prompt_T = torch.tensor([1, 3])
    drawn = sample(model, prompt_T.expand(num_draws, -1), 2, generator=torch_generator(0)).numpy()
    first_V = model(prompt_T[None])[0, -1].double().softmax(0)
    prompts = torch.cat([prompt_T.expand(size, -1), torch.arange(size)[:, None]], 1)
    law_VV = first_V[:, None] * model(prompts)[:, -1].double().softmax(1)
    expected = num_draws * law_VV.detach().numpy()
    assert expected.min() > 5
    observed = np.zeros((size, size))
    np.add.at(observed, (drawn[:, 0], drawn[:, 1]), 1)
    chi_squared = ((observed - expected) ** 2 / expected).sum()
    # 24 degrees of freedom: chi-squared exceeds 80 with probability 1e-7.
    assert chi_squared < 80
    assert law_VV.max() > 2 * law_VV.min()


def test_sampling_options():
    model = TinyGPT(SIZES[0], seed=2)
    prompt_BT = _ids(model.config, 50, 4)[:, :5]
    greedy = sample(model, prompt_BT, 4, generator=torch_generator(0), temperature=0)
    ids_BT = prompt_BT
    for step in range(4):
        assert torch.equal(greedy[:, step], model(ids_BT)[:, -1].argmax(1))
        ids_BT = torch.cat([ids_BT, greedy[:, step : step + 1]], 1)
    again = sample(model, prompt_BT, 6, generator=torch_generator(1))
    assert torch.equal(again, sample(model, prompt_BT, 6, generator=torch_generator(1)))
    assert not torch.equal(again, sample(model, prompt_BT, 6, generator=torch_generator(2)))
    # A cache that has read the beginning goes on from there.
    cache = model.new_cache(50)
    model(prompt_BT[:, :3], cache)
    cached = sample(model, prompt_BT[:, 3:], 6, generator=torch_generator(1), cache=cache)
    assert torch.equal(cached, again) and cache.length == 10
    allowed_V = torch.zeros(11, dtype=torch.bool)
    allowed_V[[2, 9]] = True
    few = sample(model, prompt_BT, 3, generator=torch_generator(3), allowed_V=allowed_V)
    assert set(few.unique().tolist()) == {2, 9}
    for wrong in (math.nan, -1.0, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            sample(model, prompt_BT, 3, generator=torch_generator(3), temperature=wrong)
    with pytest.raises(ValueError, match="num_tokens must be at least 1, not 0"):
        sample(model, prompt_BT, 0, generator=torch_generator(3))


def test_checkpoint_comes_back(tmp_path):
    model = TinyGPT(SIZES[1], seed=9)
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.checkpoint({"command": "train"}))
    back, metadata = load_checkpoint(path)
    assert metadata["command"] == "train" and back.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor)
    assert back.lm_head.weight is back.transformer.wte.weight and not back.training
    half = model.checkpoint(dtype=torch.float16)
    assert len(half) < 0.7 * path.stat().st_size
    path.write_bytes(half)
    back, _ = load_checkpoint(path, dtype=torch.float64)
    assert back.lm_head.weight.dtype == torch.float64
    for name, tensor in model.state_dict().items():
        assert (back.state_dict()[name] - tensor).abs().max() < 1e-3


def test_checkpoints_that_are_none_are_refused(tmp_path):
    from safetensors.torch import save

    model = TinyGPT(SIZES[1])
    path = tmp_path / "model.safetensors"
    path.write_bytes(save({"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="not a TinyGPT"):
        load_checkpoint(path)
    path.write_bytes(model.checkpoint({"config": '{"vocab_size": 8, "n_positions": 9}'}))
    with pytest.raises(ValueError, match="weights and sizes disagree"):
        load_checkpoint(path)
    with pytest.raises(OSError):
        load_checkpoint(tmp_path / "none.safetensors")


def test_cache_has_the_sizes_it_was_given():
    cache = KeyValueCache(SIZES[0], 5, max_length=7, dtype=torch.float64)
    assert len(cache.keys_BHSC) == 2 and cache.keys_BHSC[0].shape == (5, 3, 7, 8)
    assert cache.values_BHSC[1].dtype == torch.float64


@pytest.mark.gpu
def test_gpu_samples_the_same_tokens():
    model = TinyGPT(SIZES[0], seed=2).double()
    prompt_BT = _ids(model.config, 50, 4)[:, :5]
    here = sample(model, prompt_BT, 6, generator=torch_generator(1))
    there = sample(model.cuda(), prompt_BT.cuda(), 6, generator=torch_generator(1))
    assert torch.equal(here, there.cpu())
