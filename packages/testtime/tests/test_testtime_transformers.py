"""The transformers backend on the shipped tiny model and on a GPT-2 with learned positions.

Every sample is replayed by other means: one forward pass over the finished text without padding or
cache, the warped law in NumPy, and the uniforms of the request's own generator.
"""

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import GPT2Config, GPT2LMHeadModel

from modicum.core.watermark.adapters.tiny_lm import load_tiny
from modicum.testtime.integrations.transformers import TransformersBackend
from modicum.testtime.samples import Generator, Request, Sampling, sample_seed

TEXT = "The committee met in the morning and the report was read to the members."
PROMPT = "The committee met in the morning and"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '' if loop.last and not "
    "add_generation_prompt else '\n' }}{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt else '' }}"
)


@pytest.fixture(scope="module")
def tiny():
    return load_tiny("target", device="cpu")


@pytest.fixture(scope="module")
def gpt2(tiny):
    """A random GPT-2 with room for 16 tokens, over the tiny model's vocabulary."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tiny[1]), n_positions=16, n_embd=32, n_layer=2, n_head=2, eos_token_id=None,
        bos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def requests(prompts, count, params=Sampling(max_tokens=8), run_seed=0):  # noqa: B008
    return [
        Request(f"p{i}", j, prompt, params, sample_seed(run_seed, f"p{i}", j))
        for j in range(count)
        for i, prompt in enumerate(prompts)
    ]


def outcome(backend, wanted):
    """Completions by request, each request exactly once."""
    pairs = list(backend.generate(wanted))
    found = {(r.prompt_id, r.seed): c for r, c in pairs}
    assert len(pairs) == len(found) == len(wanted)
    return [found[r.prompt_id, r.seed] for r in wanted]


def law(logits_V, params):
    """The warped next-token law, written out in NumPy in the order of transformers' generate."""
    scores = np.asarray(logits_V, dtype=np.float64) / params.temperature
    if params.top_k:
        scores = np.where(scores < np.sort(scores)[-params.top_k], -np.inf, scores)
    probs = np.exp(scores - scores.max())
    probs /= probs.sum()
    if params.top_p < 1:
        order = np.argsort(-probs, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= params.top_p]] = 0
        probs /= probs.sum()
    if params.min_p:
        probs[probs < params.min_p * probs.max()] = 0
    return probs / probs.sum()


def replay(model, prompt_ids, completion, request):
    """Check every token against the law and uniform that made it; near-ties count as agreement."""
    ids = list(completion.token_ids)
    with torch.inference_mode():
        logits_TV = model(torch.tensor([prompt_ids + ids[:-1]])).logits[0, len(prompt_ids) - 1 :]
    generator = torch.Generator().manual_seed(request.seed)
    total = 0.0
    for t, token in enumerate(ids):
        cdf = np.cumsum(law(logits_TV[t], request.params))
        point = torch.rand(1, dtype=torch.float64, generator=generator).item()
        below = cdf[token - 1] if token else 0.0
        assert below - 1e-4 <= point <= cdf[token] + 1e-4, (t, token)
        total += logits_TV[t].log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize(
    "params",
    [
        Sampling(max_tokens=9, logprobs=True),
        Sampling(temperature=0.7, top_p=0.9, max_tokens=9, logprobs=True),
        Sampling(temperature=1.3, top_k=30, min_p=0.02, max_tokens=9, logprobs=True),
    ],
)
def test_each_token_is_the_inverse_distribution_function_at_its_own_uniform(tiny, params):
    model, tokenizer = tiny
    wanted = requests([TEXT[:k] for k in (13, 22, 40)], 6, params)
    for request, completion in zip(
        wanted, outcome(TransformersBackend(model, tokenizer, batch_size=8), wanted), strict=True
    ):
        prompt_ids = tokenizer(request.prompt)["input_ids"]
        total = replay(model, prompt_ids, completion, request)
        assert completion.logprob_sum == pytest.approx(total, abs=1e-3)
        assert completion.n_prompt_tokens == len(prompt_ids)
        assert completion.n_tokens == len(completion.token_ids) == 9
        assert completion.finish_reason == "length"
        assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)
        with pytest.raises(AssertionError):  # the replay can fail
            replay(
                model,
                prompt_ids,
                completion,
                Request("", 0, "", request.params, request.seed + 1),
            )


def test_learned_positions_are_those_without_padding(gpt2, tiny):
    tokenizer = tiny[1]
    wanted = requests(["a", "a b c d", "the report"], 4, Sampling(max_tokens=5))
    backend = TransformersBackend(gpt2, tokenizer)
    for request, completion in zip(wanted, outcome(backend, wanted), strict=True):
        replay(gpt2, tokenizer(request.prompt)["input_ids"], completion, request)


@pytest.mark.parametrize("params", [Sampling(max_tokens=1), Sampling(1.2, 0.8, max_tokens=1)])
def test_frequencies_are_the_softmax(tiny, params):
    """4,000 answers of one token; the chi-square test would fail by chance once in a million."""
    model, tokenizer = tiny
    with torch.inference_mode():
        logits_V = model(torch.tensor([tokenizer(PROMPT)["input_ids"]])).logits[0, -1]
    expected = 4000 * law(logits_V, params)
    backend = TransformersBackend(model, tokenizer, batch_size=500)
    counts = Counter(c.token_ids[0] for c in outcome(backend, requests([PROMPT], 4000, params)))
    observed = np.array([counts[token] for token in range(len(expected))], dtype=float)
    assert observed[expected == 0].sum() == 0
    common = expected >= 5
    cells = [np.append(v[common], v[~common].sum()) for v in (observed, expected)]
    keep = cells[1] > 0
    assert keep.sum() > 5
    assert stats.chisquare(cells[0][keep], cells[1][keep]).pvalue > 1e-6


def test_alone_or_in_any_batch_a_sample_is_the_same(tiny):
    model, tokenizer = tiny
    prompts = [TEXT[:k] for k in (4, 17, 33, 60)]
    wanted = requests(prompts, 5, Sampling(max_tokens=12, stop=(".",)))
    wanted += requests(prompts[:2], 2, Sampling(temperature=0.5, max_tokens=4), run_seed=1)
    together = outcome(TransformersBackend(model, tokenizer, batch_size=64), wanted)
    # Rows end at different lengths, so batches shrink on their way.
    assert len({c.n_tokens for c in together}) > 4
    for size, order in ((1, wanted), (3, wanted[::-1])):
        others = outcome(TransformersBackend(model, tokenizer, batch_size=size), order)
        if order is not wanted:
            others = others[::-1]
        assert [c.token_ids for c in others] == [c.token_ids for c in together]
        assert [c.text for c in others] == [c.text for c in together]
    seeds = outcome(TransformersBackend(model, tokenizer), requests(prompts, 5, run_seed=2))
    assert [c.token_ids for c in seeds] != [c.token_ids for c in together[:20]]


def test_a_cache_of_the_models_own_kind_gives_the_same_samples(tiny):
    """Such a cache cannot be taken apart, so that prompts are not shared and batches not shrunk."""
    model, tokenizer = tiny
    wanted = requests([TEXT[:9], TEXT[:30]], 4, Sampling(max_tokens=12, stop=(".",)))
    usual = outcome(TransformersBackend(model, tokenizer), wanted)

    class Opaque(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.config = model, model.config
            self.generation_config = model.generation_config

        def forward(self, input_ids, attention_mask, past_key_values, use_cache):
            cache = past_key_values[0] if past_key_values else None
            positions_BT = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
            output = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=use_cache,
            )
            output.past_key_values = (output.past_key_values,)
            return output

    opaque = outcome(TransformersBackend(Opaque(), tokenizer), wanted)
    assert [c.token_ids for c in opaque] == [c.token_ids for c in usual]


def test_greedy_decoding_is_that_of_generate(tiny):
    model, tokenizer = tiny
    prompt_ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    wanted = model.generate(
        prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=15, do_sample=False
    )[0, prompt_ids.shape[1] :].tolist()
    (completion,) = outcome(
        TransformersBackend(model, tokenizer),
        requests([TEXT], 1, Sampling(temperature=0, top_k=3, max_tokens=15)),
    )
    assert list(completion.token_ids) == wanted


def test_stop_strings_and_the_end_token_end_a_completion(tiny):
    model, tokenizer = tiny
    free = outcome(
        TransformersBackend(model, tokenizer), requests([TEXT], 6, Sampling(max_tokens=40))
    )
    cut = outcome(
        TransformersBackend(model, tokenizer),
        requests([TEXT], 6, Sampling(max_tokens=40, stop=("he", ". "))),
    )
    assert any(c.finish_reason == "stop" for c in cut)
    for whole, part in zip(free, cut, strict=True):
        ends = [whole.text.index(stop) for stop in ("he", ". ") if stop in whole.text]
        if ends:
            assert part.finish_reason == "stop"
            assert part.text == whole.text[: min(ends)]
            assert whole.token_ids[: part.n_tokens] == part.token_ids
        else:
            assert part.text == whole.text

    def only_end_from_third(input_ids, scores):
        if input_ids.shape[1] >= len(tokenizer(TEXT)["input_ids"]) + 2:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, tokenizer.eos_token_id] = 0
        return scores

    backend = TransformersBackend(model, tokenizer, logits_processor=[only_end_from_third])
    (ended,) = outcome(backend, requests([TEXT], 1))
    assert ended.finish_reason == "stop" and ended.n_tokens == 3
    assert ended.token_ids[-1] == tokenizer.eos_token_id
    assert ended.text == tokenizer.decode(ended.token_ids[:2])


def test_masked_tokens_are_never_drawn_and_the_law_stays_proportional(tiny):
    model, tokenizer = tiny
    allowed = [7, 300, 2047]

    def mask(input_ids, scores):
        kept = torch.full_like(scores, -torch.inf)
        kept[:, allowed] = torch.tensor([0.0, math.log(2.0), math.log(3.0)])
        return kept

    backend = TransformersBackend(model, tokenizer, batch_size=300, logits_processor=[mask])
    wanted = requests(["a"], 1500, Sampling(max_tokens=1))
    counts = Counter(c.token_ids[0] for c in outcome(backend, wanted))
    assert set(counts) == set(allowed)
    assert stats.chisquare([counts[t] for t in allowed], [250, 500, 750]).pvalue > 1e-6


def test_the_last_token_with_mass_is_the_last_that_is_drawn(tiny, monkeypatch):
    """Even at the largest uniform below 1, where rounding could step past the end."""
    model, tokenizer = tiny

    def mask(input_ids, scores):
        scores = scores.clone()
        scores[:, 1000:] = -torch.inf
        return scores

    largest = torch.tensor([1 - 2**-53], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *size, dtype, generator: largest.clone())
    backend = TransformersBackend(model, tokenizer, logits_processor=[mask])
    completions = outcome(backend, requests([TEXT[:k] for k in range(3, 40)], 1))
    assert {token for c in completions for token in c.token_ids} == {999}


def test_a_full_context_ends_a_completion_and_a_full_prompt_is_an_error(gpt2, tiny):
    """Two rows of four go on after the third has filled the context of 16 tokens."""
    tokenizer = tiny[1]
    prompts = [" it was" * k for k in (2, 1, 6, 8, 0)]
    assert [len(tokenizer(prompt)["input_ids"]) for prompt in prompts] == [4, 2, 12, 16, 0]
    completions = outcome(
        TransformersBackend(gpt2, tokenizer), requests(prompts, 1, Sampling(max_tokens=10))
    )
    assert [c.finish_reason for c in completions] == ["length"] * 3 + ["error"] * 2
    assert [c.n_tokens for c in completions] == [10, 10, 4, 0, 0]
    assert "16 tokens, the model's context 16" in completions[3].error
    assert "no tokens" in completions[4].error
    for request, completion in list(zip(requests(prompts, 1), completions, strict=True))[:3]:
        replay(gpt2, tokenizer(request.prompt)["input_ids"], completion, request)


def test_chats_go_through_the_template(tiny):
    model, tokenizer = tiny
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}]
    params = Sampling(max_tokens=5)
    backend = TransformersBackend(model, tokenizer, chat_template=TEMPLATE)
    plain = TransformersBackend(model, tokenizer)
    (told,) = outcome(backend, requests([chat], 1, params))
    (same,) = outcome(plain, requests(["<system>Be brief.\n<user>Well?\n<assistant>"], 1, params))
    assert told.token_ids == same.token_ids and told.n_prompt_tokens == same.n_prompt_tokens
    (asked,) = outcome(
        TransformersBackend(model, tokenizer, chat_template=TEMPLATE, chat=True),
        requests(["Well?"], 1, params),
    )
    (same,) = outcome(plain, requests(["<user>Well?\n<assistant>"], 1, params))
    assert asked.token_ids == same.token_ids
    begun = [*chat, {"role": "assistant", "content": "It was"}]
    (continued,) = outcome(backend, requests([begun], 1, params))
    (same,) = outcome(
        plain, requests(["<system>Be brief.\n<user>Well?\n<assistant>It was"], 1, params)
    )
    assert continued.token_ids == same.token_ids
    with pytest.raises(ValueError, match="no chat template"):
        outcome(plain, requests([chat], 1, params))


def test_wrong_arguments_are_named(tiny):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        TransformersBackend(model, tokenizer, batch_size=0)
    with pytest.raises(ValueError, match="repetition_penalty"):
        outcome(
            TransformersBackend(model, tokenizer),
            requests(["a"], 1, Sampling(extra={"repetition_penalty": 1.1})),
        )
    with pytest.raises(ValueError, match="device must be"):
        TransformersBackend(model, tokenizer, device="nowhere")
    assert isinstance(TransformersBackend(model, tokenizer), Generator)
    assert list(TransformersBackend(model, tokenizer).generate([])) == []


def test_without_transformers_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None; import modicum.testtime.integrations.transformers"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'pip install "modicum-testtime[transformers]"' in result.stderr.splitlines()[-1]


@pytest.mark.gpu
def test_on_a_gpu_the_samples_are_those_of_the_cpu(tiny):
    model, tokenizer = load_tiny("target", device="cpu")
    wanted = requests([TEXT[:k] for k in (9, 30, 61)], 20, Sampling(max_tokens=20))
    on_cpu = outcome(TransformersBackend(tiny[0], tokenizer, device="cpu"), wanted)
    backend = TransformersBackend(model, tokenizer)
    assert next(backend.model.parameters()).is_cuda
    on_gpu = outcome(backend, wanted)
    # One near-tie changes all that follows, so texts are counted, not tokens.
    assert sum(a.token_ids != b.token_ids for a, b in zip(on_cpu, on_gpu, strict=True)) <= 1
