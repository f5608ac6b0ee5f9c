"""The vLLM backend on a real engine, in float32 on the CPU, with the shipped tiny model."""

import asyncio
import math
import subprocess
import sys
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from modicum.testtime.log import read_samples
from modicum.testtime.samples import AsyncGenerator, Generator, Request, Sampling, sample_seed
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping import Curtailed, ModeCertificate

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]

PROMPT = "The committee met in the morning and"
PROMPTS = [
    PROMPT,
    "She was tired because",
    "He found a",
    "They wanted to",
    "The old",
    "In the evening the",
]
"""The model goes on with one word nearly always, with one of three, or with one of dozens."""

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '' if loop.last and not "
    "add_generation_prompt else '\n' }}{% endfor %}"
    "{{ '<assistant>' if add_generation_prompt else '' }}"
)
LENGTH = 200
"""Tokens of a request that runs for a while."""

ONE_WORD = Sampling(temperature=0.7, max_tokens=30, stop=(".", ",", "\n"))
"""Answers are the first words of clauses; some clauses are longer than the limit."""


@pytest.fixture(scope="module")
def engine(vllm_here):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine's own
        from modicum.testtime.integrations.vllm import VLLMBackend

        llm = vllm_here.LLM(
            vllm_here.path,
            dtype="float32",
            enforce_eager=True,
            max_model_len=256,
            max_num_seqs=64,
            block_size=32,
            enable_prefix_caching=True,
            generation_config="vllm",
            disable_log_stats=False,
        )
    yield SimpleNamespace(
        llm=llm,
        model=vllm_here.model,
        tokenizer=vllm_here.tokenizer,
        torch=vllm_here.torch,
        backend=VLLMBackend(llm),
        VLLMBackend=VLLMBackend,
    )
    llm.llm_engine.engine_core.shutdown()


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_engine(engine):
    yield
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert not engine.backend._stepper.waiting


def requests(count, prompt=PROMPT, params=ONE_WORD, run_seed=0):
    return [Request("p", i, prompt, params, sample_seed(run_seed, "p", i)) for i in range(count)]


def completions(backend, wanted):
    pairs = list(backend.generate(wanted))
    found = {r.sample_index: c for r, c in pairs}
    assert len(pairs) == len(found) == len(wanted)
    return [found[r.sample_index] for r in wanted]


def metric(engine, name):
    return sum(m.value for m in engine.llm.get_metrics() if m.name == f"vllm:{name}")


def first_word(text):
    return text.split()[0] if text.split() else None


def outline(result):
    """What a decision is, without times and what was drawn in vain."""
    used = [(s.seed, s.text, s.key) for s in result.samples if s.used]
    return (
        result.prompt_id,
        result.answer,
        result.text,
        result.certified,
        result.reason,
        result.votes,
        used,
        None if math.isnan(result.confidence) else result.confidence,
    )


def test_frequencies_are_the_softmax_of_the_model(engine):
    """2,000 answers of one token; the chi-square test would fail by chance once in a million."""
    torch = engine.torch
    with torch.inference_mode():
        ids = torch.tensor([engine.tokenizer(PROMPT)["input_ids"]])
        exact_V = engine.model(ids).logits[0, -1].double().softmax(-1).numpy()
    wanted = requests(2000, params=Sampling(max_tokens=1, logprobs=True))
    sampled = completions(engine.backend, wanted)
    tokens = np.array([c.token_ids[0] for c in sampled])
    observed_V = np.bincount(tokens, minlength=len(exact_V)).astype(float)
    common = 2000 * exact_V >= 5
    cells = [np.append(v[common], v[~common].sum()) for v in (observed_V, 2000 * exact_V)]
    assert len(cells[0]) > 20
    assert stats.chisquare(*cells).pvalue > 1e-6
    # The same draws are no sample of another law.
    assert stats.chisquare(cells[0], np.roll(cells[1], 1)).pvalue < 1e-6
    # Log-probabilities are the model's own.
    logprobs = np.array([c.logprob_sum for c in sampled])
    np.testing.assert_allclose(logprobs, np.log(exact_V[tokens]), atol=2e-3)
    assert {c.finish_reason for c in sampled} == {"length"}
    assert {(c.n_prompt_tokens, c.n_tokens) for c in sampled} == {(ids.shape[1], 1)}


def test_samples_depend_on_their_seeds_only(engine):
    """In one call, one by one or in another order; with all prompts' blocks in the prefix cache."""
    long = "The report was read to the members and the lantern was lit. " * 4
    wanted = requests(40, long, Sampling(max_tokens=6))
    together = completions(engine.backend, wanted)
    hits = metric(engine, "prefix_cache_hits")
    alone = [completions(engine.backend, [request])[0] for request in wanted]
    assert metric(engine, "prefix_cache_hits") > hits
    backwards = completions(engine.backend, wanted[::-1])[::-1]
    others = completions(engine.backend, requests(40, long, Sampling(max_tokens=6), run_seed=1))
    for same in (alone, backwards):
        assert [c.token_ids for c in same] == [c.token_ids for c in together]
    assert len({c.token_ids for c in together}) > 30
    assert len({c.token_ids for c in together} & {c.token_ids for c in others}) < 10


@pytest.mark.parametrize("rule", [ModeCertificate(delta=0.1), Curtailed(24)])
def test_waves_one_by_one_and_streaming_decide_alike(engine, rule):
    outlines, drawn = [], []
    for backend, options in (
        (engine.backend, {"wave": 1}),
        (engine.backend, {"wave": "geometric"}),
        (engine.backend, {"wave": "boundary"}),
        (engine.backend, {"wave": 24}),
        (engine.backend.stream(), {"wave": 24, "inflight": 30}),
        (engine.backend.stream(), {"wave": "boundary", "inflight": 7}),
    ):
        strategy = SelfConsistency(
            backend, extract=first_word, stop=rule, max_samples=24, **options
        )
        results = strategy.run(PROMPTS, ONE_WORD, seed=3)
        outlines.append([outline(result) for result in results])
        drawn.append(results.usage.submitted)
        assert results.usage.used == sum(len(o[6]) for o in outlines[-1])
    assert all(o == outlines[0] for o in outlines)
    reasons = {o[4] for o in outlines[0]}
    assert len(reasons) == 2 and "max_samples" in reasons  # stopped early, and not
    assert len({o[1] for o in outlines[0]}) > 2
    # One by one and waves up to the boundary waste nothing.
    assert drawn[0] == drawn[2] == sum(len(o[6]) for o in outlines[0]) < 24 * len(PROMPTS)


@pytest.mark.parametrize("rule", [ModeCertificate(delta=0.1), Curtailed(24)])
def test_decisions_are_those_of_a_replay_of_the_log(engine, rule, tmp_path):
    for name, backend in (("waves", engine.backend), ("stream", engine.backend.stream())):
        strategy = SelfConsistency(backend, extract=first_word, stop=rule, max_samples=24, wave=16)
        log = tmp_path / f"{name}.jsonl"
        results = strategy.run(PROMPTS, ONE_WORD, seed=5, log=log)
        _, samples = read_samples(log)
        for result in results:
            mine = sorted(
                (s for s in samples if s.prompt_id == result.prompt_id),
                key=lambda s: s.sample_index,
            )
            assert [s.sample_index for s in mine if s.used] == list(range(result.usage.used))
            state, votes, stopped = rule.fresh(), Counter(), 0
            for sample in mine:
                assert sample.key == (
                    None if sample.finish_reason == "length" else first_word(sample.text)
                )
                assert sample.seed == sample_seed(5, result.prompt_id, sample.sample_index)
                votes.update([sample.key] if sample.key is not None else [])
                stopped += 1
                if state.update(sample.key).stop or stopped == 24:
                    break
            assert stopped == result.usage.used
            assert votes == result.votes
            assert result.answer == max(votes, key=votes.get)


def test_a_cancelled_request_leaves_the_engine_and_the_others_are_as_without_it(engine):
    params = Sampling(max_tokens=LENGTH, extra={"ignore_eos": True})
    wanted = requests(3, params=params)
    undisturbed = completions(engine.backend, wanted)
    assert [c.n_tokens for c in undisturbed] == [LENGTH] * 3

    async def scenario():
        stream = engine.backend.stream()
        before = metric(engine, "generation_tokens")
        tasks = [asyncio.create_task(stream.agenerate(request)) for request in wanted]
        while metric(engine, "generation_tokens") < before + 30:
            await asyncio.sleep(0)
        tasks[1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return done, metric(engine, "generation_tokens") - before

    (first, second, third), generated = asyncio.run(scenario())
    assert isinstance(second, asyncio.CancelledError)
    assert (first.token_ids, third.token_ids) == tuple(undisturbed[i].token_ids for i in (0, 2))
    assert 2 * LENGTH + 10 <= generated < 2 * LENGTH + 40


def test_what_a_decision_made_superfluous_is_not_sampled_to_its_end(engine):
    """The first three samples agree and are short; the others would run for long."""

    def stop_at(index):
        return Sampling(max_tokens=LENGTH, extra={"ignore_eos": True})

    class ShortAndLong:
        """The stream, with a limit of tokens that depends on the sample."""

        def __init__(self, stream):
            self.stream = stream

        async def agenerate(self, request):
            params = ONE_WORD if request.sample_index < 3 else stop_at(request.sample_index)
            return await self.stream.agenerate(
                Request(
                    request.prompt_id, request.sample_index, request.prompt, params, request.seed
                )
            )

    before = metric(engine, "generation_tokens")
    strategy = SelfConsistency(
        ShortAndLong(engine.backend.stream()),
        extract=lambda text: "same",
        stop=Curtailed(5),
        wave=5,
    )
    (result,) = strategy.run([PROMPT], ONE_WORD)
    assert result.answer == "same" and result.reason == "decided"
    assert (result.usage.used, result.usage.cancelled) == (3, 2)
    assert [s.used for s in result.samples] == [True] * 3
    assert metric(engine, "generation_tokens") - before < LENGTH


def test_leaving_early_aborts_the_rest(engine):
    short = Sampling(max_tokens=2)
    long = Sampling(max_tokens=LENGTH, extra={"ignore_eos": True})
    wanted = [Request("p", i, PROMPT, short if i == 4 else long, 100 + i) for i in range(6)]
    before = metric(engine, "generation_tokens")
    with_rest = engine.backend.generate(wanted)
    request, completion = next(with_rest)
    assert request.sample_index == 4 and completion.n_tokens == 2
    with_rest.close()
    assert metric(engine, "generation_tokens") - before < 60


def test_two_backends_share_an_engine(engine):
    wanted = requests(12, params=Sampling(max_tokens=5))
    expected = completions(engine.backend, wanted)
    other = engine.VLLMBackend(engine.llm, engine.tokenizer, chat=True, chat_template=TEMPLATE)
    assert other._stepper is engine.backend._stepper
    chats = completions(other, wanted)
    mixed = {"a": {}, "b": {}}
    sides = {"a": engine.backend.generate(wanted), "b": other.generate(wanted)}
    while sides:
        for name in list(sides):
            try:
                request, completion = next(sides[name])
            except StopIteration:
                del sides[name]
            else:
                mixed[name][request.sample_index] = completion.token_ids
    for name, alone in (("a", expected), ("b", chats)):
        assert [mixed[name][i] for i in range(12)] == [c.token_ids for c in alone]


def test_a_stranger_who_steps_the_engine_is_noticed(engine):
    running = engine.backend.generate(requests(3, params=Sampling(max_tokens=4)))
    first = next(running)
    assert first[1].n_tokens == 4
    more = engine.backend.generate(
        [*requests(1, params=Sampling(max_tokens=1)), *requests(2, params=Sampling(max_tokens=30))][
            :2
        ]
    )
    next(more)
    while engine.llm.llm_engine.has_unfinished_requests():
        engine.llm.llm_engine.step()
    with pytest.raises(RuntimeError, match=r"something else stepped it"):
        next(more)
    rest = list(running)
    assert len(rest) == 2

    async def scenario():
        stream = engine.backend.stream()
        task = asyncio.create_task(stream.agenerate(requests(1, params=Sampling(max_tokens=20))[0]))
        await asyncio.sleep(0)
        while engine.llm.llm_engine.has_unfinished_requests():
            engine.llm.llm_engine.step()
        await task

    with pytest.raises(RuntimeError, match=r"something else stepped it"):
        asyncio.run(scenario())


def test_a_prompt_without_room_is_an_error_of_its_own(engine):
    wanted = [
        Request("p", 0, PROMPT, ONE_WORD, 1),
        Request("p", 1, "a " * 400, ONE_WORD, 2),
        Request("p", 2, PROMPT, ONE_WORD, 3),
        Request("p", 3, "", ONE_WORD, 4),
    ]
    first, second, third, fourth = completions(engine.backend, wanted)
    assert first.finish_reason == third.finish_reason == "stop" and first.text and third.text
    assert second.finish_reason == fourth.finish_reason == "error"
    assert second.text == "" and "longer than the maximum model length" in second.error
    streamed = asyncio.run(engine.backend.stream().agenerate(wanted[1]))
    assert streamed.finish_reason == "error" and streamed.error == second.error


def test_a_full_context_ends_a_completion_without_a_vote(engine):
    params = Sampling(max_tokens=1000, extra={"ignore_eos": True})
    (completion,) = completions(engine.backend, requests(1, params=params))
    assert completion.finish_reason == "length"
    assert completion.n_prompt_tokens + completion.n_tokens == 256


def test_stop_strings_greedy_decoding_and_further_parameters(engine):
    (greedy,) = completions(engine.backend, requests(1, params=Sampling(0.0, max_tokens=8)))
    torch = engine.torch
    ids = torch.tensor([engine.tokenizer(PROMPT)["input_ids"]])
    wanted = engine.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
    )
    assert list(greedy.token_ids) == wanted[0, ids.shape[1] :].tolist()
    assert greedy.logprob_sum is None
    params = Sampling(max_tokens=30, stop=("he",), top_p=0.9, top_k=40, min_p=0.01)
    stopped = completions(engine.backend, requests(10, params=params))
    assert "stop" in {c.finish_reason for c in stopped}
    assert not [c for c in stopped if "he" in c.text]
    only = Sampling(max_tokens=3, extra={"allowed_token_ids": [33, 34]})
    tokens = {
        t for c in completions(engine.backend, requests(20, params=only)) for t in c.token_ids
    }
    assert tokens == {33, 34}
    for extra, match in (
        ({"n": 2}, r"extra\['n'\] is set by the backend"),
        ({"seed": 2}, r"extra\['seed'\] is set by the backend"),
        ({"typical_p": 0.5}, "typical_p"),
    ):
        with pytest.raises(ValueError, match=match):
            completions(engine.backend, requests(1, params=Sampling(extra=extra)))


def test_chats_go_through_the_template(engine):
    params = Sampling(max_tokens=5)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}]
    backend = engine.VLLMBackend(engine.llm, chat_template=TEMPLATE)
    (told,) = completions(backend, requests(1, chat, params))
    text = "<system>Be brief.\n<user>Well?\n<assistant>"
    (same,) = completions(engine.backend, requests(1, text, params))
    assert told.token_ids == same.token_ids and told.n_prompt_tokens == same.n_prompt_tokens
    streamed = asyncio.run(backend.stream().agenerate(requests(1, chat, params)[0]))
    assert streamed.token_ids == told.token_ids
    with pytest.raises(ValueError, match="no chat template"):
        completions(engine.backend, requests(1, chat, params))


def test_they_are_backends(engine):
    assert isinstance(engine.backend, Generator) and not hasattr(engine.backend, "agenerate")
    stream = engine.backend.stream()
    assert isinstance(stream, AsyncGenerator) and not hasattr(stream, "generate")
    assert repr(stream) == f"VLLMStream({engine.backend!r})"
    assert list(engine.backend.generate([])) == []


def test_without_vllm_the_error_says_what_to_install():
    code = "import sys; sys.modules['vllm'] = None; import modicum.testtime.integrations.vllm"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'pip install "modicum-testtime[vllm]"' in result.stderr.splitlines()[-1]
