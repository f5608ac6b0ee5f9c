"""The watermark on a real vLLM engine, in float32 on the CPU, one process for all its engines.

Importing vLLM takes most of a minute, an engine of the shipped target about two seconds; so each
sampler gets an engine of its own, in the process that other engine tests use as well.

Every text is replayed without the engine: transformers gives the target's logits for the finished
text in one pass, the scheme is applied to all positions, and the race that vLLM's sampler runs
(probabilities over exponential noise from the request's own generator) is run again. The token that
wins must be the token that the engine emitted, so the two agree on prompts, contexts, keys, warping
and every draw, keyed or private.
"""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modicum.core.watermark.record import save_key
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.detector import UMPWatermarkDetector
from modicum.umpwatermark.integrations.logprobs import token_logprobs_from_prompt_logprobs
from modicum.umpwatermark.scheme import UMPWatermarkScheme

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]

KEYS = {"first": b"first key, 24 bytes long", "second": b"second key, 24 bytes too"}
ALPHA = 1e-3
PROCESSOR = "modicum.umpwatermark.integrations.vllm:UMPWatermarkLogitsProcessor"
SLOTS, BLOCK, BLOCKS = 16, 32, 64
"""16 requests of up to 280 tokens need up to 144 blocks of 32: with 64, some must be preempted."""

MAX_FLIPS = 2
"""Tokens per run whose choice was so close that float32 may decide it either way; see `replay`."""

NUDGE, NUDGES = 1e-4, 300
"""Logits of engine and replay differ by about 1e-5."""


@dataclass
class Request:
    prompt: list[int]
    length: int
    seed: int | None
    settings: dict[str, Any] | None = None
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return (self.settings or {}).get("key", "first")


@pytest.fixture(scope="module")
def outside(vllm_here: SimpleNamespace) -> SimpleNamespace:
    """What every engine shares: vLLM's classes, and the target as the reference sees it."""
    from modicum.core.watermark.adapters.loading import load_anchor

    anchor = load_anchor("tiny", vllm_here.model.config.vocab_size, device="cpu")
    return SimpleNamespace(**vars(vllm_here), anchor=anchor)


def engine(outside: SimpleNamespace, folder: Path, **parameters: Any) -> Iterator[SimpleNamespace]:
    """Start an engine that marks with these parameters."""
    aware = parameters.get("sampler") == "ump-aware"
    config = UMPWatermarkConfig(
        key=KEYS["first"],
        vocab_size=outside.model.config.vocab_size,
        surrogate=outside.anchor if aware else None,
        **parameters,
    )
    for name, key in KEYS.items():
        save_key(folder / f"{name}.key", key)
    config.record().save(folder / "wm.json")
    content = {
        "format": 1,
        "keys": {name: f"{name}.key" for name in KEYS},
        "default_key": "first",
        "scheme": {"record": "wm.json"} | ({"surrogate": "tiny"} if aware else {}),
    }
    (folder / "engine.json").write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MODICUM_UMPWATERMARK_CONFIG", str(folder / "engine.json"))
        warnings.simplefilter("ignore")
        llm = outside.LLM(
            outside.path,
            dtype="float32",
            enforce_eager=True,
            max_model_len=512,
            max_num_seqs=SLOTS,
            max_num_batched_tokens=SLOTS * 512,
            block_size=BLOCK,
            num_gpu_blocks_override=BLOCKS,
            enable_prefix_caching=True,
            generation_config="vllm",
            logits_processors=[PROCESSOR],
            disable_log_stats=False,
        )
        yield SimpleNamespace(
            llm=llm,
            configs={name: config.replace(key=key) for name, key in KEYS.items()},
            **vars(outside),
        )
        llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="module")
def served(
    outside: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    yield from engine(outside, tmp_path_factory.mktemp("gumbel"))


@pytest.fixture(params=[{"sampler": "hazard"}, {"sampler": "ump-aware"}, {"sampler": "greenlist"}])
def other(
    outside: SimpleNamespace, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[SimpleNamespace]:
    """An engine of its own, for tests that stand above those of `served`.

    An engine that shuts down takes the process groups of the others with it.
    """
    yield from engine(outside, tmp_path, **request.param)


def sampling_params(served: Any, request: Request, **others: Any) -> Any:
    extra_args = None if request.settings is None else {"umpwatermark": request.settings}
    return served.SamplingParams(
        max_tokens=request.length,
        seed=request.seed,
        ignore_eos=True,
        detokenize=False,
        extra_args=extra_args,
        **request.engine,
        **others,
    )


def generate(served: Any, requests: list[Request]) -> list[list[int]]:
    outputs = served.llm.generate(
        [{"prompt_token_ids": request.prompt} for request in requests],
        [sampling_params(served, request) for request in requests],
        use_tqdm=False,
    )
    return [list(output.outputs[0].token_ids) for output in outputs]


def replay(served: Any, request: Request, ids: list[int], seed: int | None = None) -> int:
    """Return at how many positions another token should have been emitted.

    Only near-ties are forgiven and counted: where a change of the logits in the fourth decimal
    makes the emitted token the winner. Any other difference fails.
    """
    torch = served.torch
    with torch.no_grad():
        tokens = torch.tensor([request.prompt + ids[:-1]])
        logits_TV = served.model(input_ids=tokens).logits[0, len(request.prompt) - 1 :].float()
    for token, bias in request.engine.get("logit_bias", {}).items():
        logits_TV[:, token] += bias
    if allowed := request.engine.get("allowed_token_ids"):
        banned_V = torch.ones(logits_TV.shape[1], dtype=torch.bool)
        banned_V[allowed] = False
        logits_TV[:, banned_V] = -torch.inf
    end = served.model.generation_config.eos_token_id
    logits_TV[: request.engine.get("min_tokens", 0), end] = -torch.inf
    trackers = []
    if request.settings is not None:
        scheme = UMPWatermarkScheme(served.configs[request.key])
        for t in range(len(ids)):
            tracker = scheme.new_tracker()
            for token in ids[:t]:
                tracker.push(token)
            trackers.append(tracker)
    generator = torch.Generator().manual_seed(request.seed if seed is None else seed)
    noise_TV = torch.stack(
        [torch.empty(logits_TV.shape[1]).exponential_(generator=generator) for _ in ids]
    )

    def winners(logits_NV: Any, rows: list[int]) -> Any:
        from modicum.core.watermark.warpers import warp

        source = request.engine if request.settings is None else request.settings
        law_NV = warp(
            logits_NV,
            *(source.get(name) for name in ("temperature", "top_k", "top_p", "min_p")),
            order="vllm",
        )
        if request.settings is not None:
            law_NV = scheme.transform(law_NV, [trackers[row] for row in rows])
        return (law_NV.softmax(-1) / noise_TV[rows]).argmax(-1)

    emitted_T = torch.tensor(ids)
    flips = (winners(logits_TV, list(range(len(ids)))) != emitted_T).nonzero().flatten().tolist()
    assert len(flips) <= MAX_FLIPS, (flips, request)
    for t in flips:
        nudged_NV = logits_TV[t] + NUDGE * torch.randn(
            NUDGES, logits_TV.shape[1], generator=torch.Generator().manual_seed(t)
        )
        assert (winners(nudged_NV, [t] * NUDGES) == ids[t]).any(), (t, request)
    return len(flips)


def metric(served: Any, name: str) -> float:
    return sum(m.value for m in served.llm.get_metrics() if m.name == f"vllm:{name}")


def prompts(served: Any, count: int) -> list[list[int]]:
    """Prompts of 5 to 70 tokens; every other one starts with the same 40, for the prefix cache."""
    text = "The committee met in the morning and the report was read to the members. " * 8
    ids = served.tokenizer(text)["input_ids"]
    return [(ids[:40] if i % 2 else []) + ids[i % 7 : i % 7 + 5 + i % 25] for i in range(count)]


def mixed_requests(served: Any, count: int = 32) -> list[Request]:
    """Requests of mixed lengths: two keys, several warpings, every fourth one plain."""
    kinds: list[tuple[dict[str, Any] | None, dict[str, Any]]] = [
        ({}, {}),
        ({"temperature": 0.8, "top_p": 0.95}, {}),
        ({"key": "second", "top_k": 50}, {"top_k": -1}),
        (None, {}),
        ({"key": "second", "temperature": 1.2, "min_p": 0.02}, {}),
        ({"key": "first", "top_p": 0.9}, {"logit_bias": {5: 1.5, 9: -3.0}}),
        ({"temperature": 0.9}, {"min_tokens": 30}),
        (None, {"temperature": 0.8, "top_p": 0.9}),
    ]
    return [
        Request(prompt, length=60 + (i * 37) % 141, seed=1000 + i, settings=kinds[i % 8][0],
                engine=kinds[i % 8][1])
        for i, prompt in enumerate(prompts(served, count))
    ]  # fmt: skip


def test_other_samplers_on_an_engine_of_their_own(other: Any) -> None:
    requests = [
        Request(r.prompt, 60, r.seed, r.settings, r.engine) for r in mixed_requests(other, 8)
    ]
    texts = generate(other, requests)
    assert sum(replay(other, r, ids) for r, ids in zip(requests, texts, strict=True)) <= MAX_FLIPS
    with pytest.raises(AssertionError):
        replay(other, Request(requests[0].prompt, 0, requests[0].seed, None), texts[0])


def test_the_engine_writes_what_the_reference_writes(served: Any) -> None:
    requests = mixed_requests(served)
    before = metric(served, "num_preemptions")
    texts = generate(served, requests)
    assert [len(ids) for ids in texts] == [request.length for request in requests]
    flips = sum(replay(served, r, ids) for r, ids in zip(requests, texts, strict=True))
    assert flips <= MAX_FLIPS
    # The test means nothing unless requests were preempted, and prompts came out of the cache.
    assert metric(served, "num_preemptions") > before
    assert metric(served, "prefix_cache_hits") > 0
    # The replay can fail: with the other key, other noise or no watermark it does.
    for wrong in ({"key": "second"}, None):
        with pytest.raises(AssertionError):
            replay(served, Request(requests[0].prompt, 0, requests[0].seed, wrong), texts[0])
    with pytest.raises(AssertionError):
        replay(served, requests[0], texts[0], seed=1)


def test_alone_or_in_a_batch_the_text_is_the_same(served: Any) -> None:
    requests = [Request(r.prompt, 40, r.seed, r.settings, r.engine) for r in mixed_requests(served)]
    together = generate(served, requests)
    alone = [generate(served, [request])[0] for request in requests]
    # One flip changes all that follows, so texts are counted, not tokens.
    assert sum(a != b for a, b in zip(alone, together, strict=True)) <= 1
    for request, a, b in zip(requests, alone, together, strict=True):
        if a != b:
            assert replay(served, request, a) + replay(served, request, b) > 0


def test_after_the_warm_up_the_key_decides_and_the_seed_does_not(served: Any) -> None:
    """Texts that begin with the same four tokens go on alike, whatever the seeds."""
    prompt = prompts(served, 2)[1]
    texts = generate(
        served, [Request(prompt, 14, seed, {"temperature": 0.5}) for seed in range(48)]
    )
    width = served.configs["first"].context_width
    by_start: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for ids in texts:
        contexts = [tuple(ids[t - width : t]) for t in range(width, len(ids))]
        if len(set(contexts)) == len(contexts):
            by_start.setdefault(tuple(ids[:width]), set()).add(tuple(ids[width:]))
    assert len(by_start) < len(texts)
    assert all(len(endings) == 1 for endings in by_start.values())


def test_marked_texts_are_detected_with_the_engine_as_the_surrogate_and_without(
    served: Any,
) -> None:
    """32 requests at once; seeds and keys are fixed, so the outcome is the same in every run.

    Over random keys each of the p-values of a plain text lies below 1e-3 with probability at most
    1e-3, and below 1e-7 nowhere in this test but with probability 2e-5.
    """
    requests = [
        Request(
            prompt,
            length=140 + 2 * i,
            seed=2000 + i,
            settings={"temperature": 0.9, "key": "first" if i % 4 else "second"}
            if i % 2 == 0
            else None,
            engine={"temperature": 0.9} if i % 2 else {},
        )
        for i, prompt in enumerate(prompts(served, 32))
    ]
    texts = generate(served, requests)
    scored = served.llm.generate(
        [
            {"prompt_token_ids": request.prompt + ids}
            for request, ids in zip(requests, texts, strict=True)
        ],
        served.SamplingParams(max_tokens=1, prompt_logprobs=20, detokenize=False),
        use_tqdm=False,
    )
    detectors = {name: UMPWatermarkDetector(c, alpha=ALPHA) for name, c in served.configs.items()}
    fewer = 0
    for request, ids, output in zip(requests, texts, scored, strict=True):
        logprobs = token_logprobs_from_prompt_logprobs(
            output.prompt_logprobs, output.prompt_token_ids, len(request.prompt), temperature=0.9
        )
        assert len(logprobs) == len(ids)
        for name, detector in detectors.items():
            marked = request.settings is not None and request.key == name
            informed, blind = detector.detect_logprobs(ids, logprobs), detector([ids])
            if marked:
                assert informed.prediction[0] and blind.prediction[0]
                short = len(ids) // 3
                fewer += int(
                    detector.detect_logprobs(ids[:short], logprobs[:short]).p_value[0]
                    < detector([ids[:short]]).p_value[0]
                )
            else:
                assert informed.p_value[0] > 1e-7 and blind.p_value[0] > 1e-7
    # On a third of each text the surrogate makes the smaller p-value, nearly always.
    assert fewer >= 12


def test_the_engine_scores_a_text_as_transformers_does(served: Any) -> None:
    """At temperature 1 exactly; at another one up to what 20 alternatives leave out of the law."""
    import numpy as np

    from modicum.umpwatermark.integrations.transformers import score_token_logprobs

    torch = served.torch
    prompt, response = prompts(served, 2)[1], prompts(served, 12)[10]
    (output,) = served.llm.generate(
        [{"prompt_token_ids": prompt + response}],
        served.SamplingParams(max_tokens=1, prompt_logprobs=20, detokenize=False),
        use_tqdm=False,
    )

    def read(temperature: float) -> Any:
        return token_logprobs_from_prompt_logprobs(
            output.prompt_logprobs, output.prompt_token_ids, len(prompt), temperature=temperature
        )

    whole = {
        t: score_token_logprobs(served.model, prompt, response, temperature=t) for t in (1, 0.5)
    }
    np.testing.assert_allclose(read(1.0), whole[1], atol=1e-3)
    with torch.no_grad():
        ids = torch.tensor([prompt + response[:-1]])
        logits_TV = served.model(input_ids=ids).logits[0, len(prompt) - 1 :]
    own_T1 = torch.tensor(response)[:, None]
    kept_TV = torch.full_like(logits_TV, -torch.inf)
    for ids_TK in (logits_TV.topk(20).indices, own_T1):
        kept_TV.scatter_(1, ids_TK, logits_TV.gather(1, ids_TK))
    wanted = (kept_TV / 0.5).log_softmax(-1).gather(1, own_T1)[:, 0].numpy()
    np.testing.assert_allclose(read(0.5), wanted, atol=2e-3)
    assert (read(0.5) >= whole[0.5] - 2e-3).all()


def test_streaming_with_requests_that_come_and_go(served: Any) -> None:
    running = served.llm.llm_engine
    requests = mixed_requests(served)[:16]
    aborted = {3, 8}
    texts: dict[str, list[int]] = {}
    waiting = list(enumerate(requests))
    for step in range(2000):
        if step % 3 == 0 and waiting:
            i, request = waiting.pop(0)
            running.add_request(
                f"s{i}", {"prompt_token_ids": request.prompt}, sampling_params(served, request)
            )
        for output in running.step():
            texts[output.request_id] = list(output.outputs[0].token_ids)
        if step == 40:
            running.abort_request([f"s{i}" for i in aborted])
        if not waiting and not running.has_unfinished_requests():
            break
    assert not running.has_unfinished_requests()
    for i, request in enumerate(requests):
        ids = texts[f"s{i}"]
        assert 0 < len(ids) < request.length if i in aborted else len(ids) == request.length
        assert replay(served, request, ids) <= MAX_FLIPS


@pytest.mark.parametrize(
    ("settings", "engine", "match"),
    [
        ({}, {"temperature": 0.7}, "temperature=0.7 would be applied after the watermark"),
        ({"temperature": 0.0}, {}, "greedy decoding"),
        ({"key": "third"}, {}, "there is no key named 'third'"),
        ({"topp": 0.9}, {}, r"extra_args\['umpwatermark'\].*unknown fields"),
    ],
)
def test_a_refused_request_leaves_the_engine_running(
    served: Any, settings: dict[str, Any], engine: dict[str, Any], match: str
) -> None:
    prompt = prompts(served, 1)[0]
    with pytest.raises(ValueError, match=match):
        generate(served, [Request(prompt, 5, 1, settings, engine)])
    assert not served.llm.llm_engine.has_unfinished_requests()
    assert len(generate(served, [Request(prompt, 5, 1, {})])[0]) == 5


# --- the configuration file -----------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> SimpleNamespace:
    """A watermark of 50 tokens and the files that describe it."""
    config = UMPWatermarkConfig(key=KEYS["first"], vocab_size=50, context_width=2)
    config.record().save(tmp_path / "wm.json")
    for name, key in KEYS.items():
        save_key(tmp_path / f"{name}.key", key)
    content: dict[str, Any] = {
        "format": 1,
        "keys": {name: f"{name}.key" for name in KEYS},
        "default_key": "second",
        "scheme": {"record": "wm.json"},
    }
    return SimpleNamespace(path=tmp_path / "engine.json", config=config, content=content)


def start(small: Any, monkeypatch: pytest.MonkeyPatch, vocab_size: int = 50) -> Any:
    import torch

    from modicum.umpwatermark.integrations.vllm import CONFIG_VARIABLE, UMPWatermarkLogitsProcessor

    small.path.write_text(json.dumps(small.content))
    monkeypatch.setenv(CONFIG_VARIABLE, str(small.path))
    description = SimpleNamespace(
        model_config=SimpleNamespace(
            logits_processors=[PROCESSOR], get_vocab_size=lambda: vocab_size
        ),
        scheduler_config=SimpleNamespace(async_scheduling=True),
        speculative_config=None,
    )
    return UMPWatermarkLogitsProcessor(description, torch.device("cpu"), False)


def test_the_file_brings_back_the_watermark(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, outside: Any
) -> None:
    processor = start(small, monkeypatch)
    assert processor.config.default_key == "second"
    for name, key in KEYS.items():
        built, wanted = processor._schemes[name].config, small.config.replace(key=key)
        assert built.parameters == wanted.parameters and built.key_id == wanted.key_id


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"record": None}, "setting 'record' of 'scheme' cannot be None"),
        ({"record": "absent.json"}, "absent.json"),
        ({"record": "engine.json"}, "not a watermark record"),
        ({"surrogate": "absent"}, "anchor 'absent' does not exist; give the folder"),
        ({"surrogate": "uniform"}, "uses no surrogate when it generates"),
        ({"window": True}, "setting 'window' of 'scheme' cannot be True"),
        ({"anchor": "tiny"}, "'scheme' has no setting 'anchor'"),
    ],
)
def test_a_wrong_file_stops_the_engine(
    small: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    outside: Any,
    change: dict[str, Any],
    match: str,
) -> None:
    small.content["scheme"].update(change)
    with pytest.raises(ValueError, match=match):
        start(small, monkeypatch)


def test_keys_record_and_vocabulary_must_belong_together(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, outside: Any
) -> None:
    with pytest.raises(ValueError, match="was made for a vocabulary of 50, the model has 49"):
        start(small, monkeypatch, vocab_size=49)
    small.path = small.path.with_name("other.json")
    small.content.update(keys={"second": "second.key"})
    with pytest.raises(ValueError, match=f"the record is for the key {small.config.key_id}"):
        start(small, monkeypatch)
    small.path = small.path.with_name("third.json")
    del small.content["scheme"]
    with pytest.raises(ValueError, match="'scheme' must name a 'record'"):
        start(small, monkeypatch)


def test_without_vllm_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['vllm'] = None; import modicum.umpwatermark.integrations.vllm"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'pip install "modicum-umpwatermark[vllm]"' in result.stderr.splitlines()[-1]


def test_the_entry_point_form_is_inert_without_configuration(
    outside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modicum.umpwatermark.integrations.vllm import CONFIG_VARIABLE, UMPWatermarkEntryPoint

    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    processor = UMPWatermarkEntryPoint(
        SimpleNamespace(
            model_config=SimpleNamespace(logits_processors=None),
            scheduler_config=SimpleNamespace(async_scheduling=True),
            speculative_config=object(),
        ),
        outside.torch.device("cpu"),
        False,
    )
    processor.update_state(None)
    logits_BV = outside.torch.randn(3, 7)
    assert processor.apply(logits_BV) is logits_BV
    assert CONFIG_VARIABLE not in os.environ
