"""The watermark on a real vLLM engine, in float32 on the CPU, one engine for the whole file.

Requests with seeds are replayed without the engine: transformers gives the target's logits for the
finished text in one pass, the scheme is applied to all positions, and the race that vLLM's sampler
runs (probabilities over exponential noise from the request's own generator) is run again. The
token that wins must be the token that the engine emitted, so the two agree on prompts, contexts,
keys, anchor, warping and every random draw.
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
from modicum.ewatermark import EWatermarkConfig, EWatermarkDetector, EWatermarkScheme, NGramAnchor

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]

KEYS = {"first": b"first key, 24 bytes long", "second": b"second key, 24 bytes too"}
ALPHA = 1e-3
PROCESSOR = "modicum.ewatermark.integrations.vllm:EWatermarkLogitsProcessor"
SLOTS, BLOCK, BLOCKS = 16, 32, 64
"""16 requests of up to 280 tokens need up to 144 blocks of 32: with 64, some must be preempted."""

MAX_FLIPS = 2
"""Tokens per run whose race was so close that float32 may decide it either way; see `replay`."""


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
def served(
    vllm_here: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SimpleNamespace]:
    """The engine with the shipped target, and the same target and anchor outside it."""
    from modicum.core.watermark.adapters.loading import load_anchor

    folder = tmp_path_factory.mktemp("vllm")
    vocab_size = vllm_here.model.config.vocab_size
    anchor = load_anchor("tiny", vocab_size, device="cpu")
    config = EWatermarkConfig(key=KEYS["first"], vocab_size=vocab_size, anchor=anchor)
    for name, key in KEYS.items():
        save_key(folder / f"{name}.key", key)
    config.record().save(folder / "wm.json")
    content = {
        "format": 1,
        "keys": {name: f"{name}.key" for name in KEYS},
        "default_key": "first",
        "scheme": {"record": "wm.json", "anchor": "tiny"},
    }
    (folder / "engine.json").write_text(json.dumps(content))
    patch = pytest.MonkeyPatch()
    # Requests are checked against it as they come.
    patch.setenv("MODICUM_EWATERMARK_CONFIG", str(folder / "engine.json"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine's own
        llm = vllm_here.LLM(
            vllm_here.path,
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
        SamplingParams=vllm_here.SamplingParams,
        torch=vllm_here.torch,
        model=vllm_here.model,
        tokenizer=vllm_here.tokenizer,
        configs={name: config.replace(key=key) for name, key in KEYS.items()},
    )
    llm.llm_engine.engine_core.shutdown()
    patch.undo()


def sampling_params(served: Any, request: Request) -> Any:
    extra_args = None if request.settings is None else {"ewatermark": request.settings}
    return served.SamplingParams(
        max_tokens=request.length,
        seed=request.seed,
        ignore_eos=True,
        detokenize=False,
        extra_args=extra_args,
        **request.engine,
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

    Only near-ties are forgiven and counted: where the emitted token's score is within one part in
    a thousand of the winner's. Engine and replay differ by about 1e-5 in logits, so a token in some
    tens of thousands falls to that; any other difference fails.
    """
    from modicum.core.watermark.warpers import warp

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
    source = request.engine if request.settings is None else request.settings
    law_TV = warp(
        logits_TV,
        *(source.get(name) for name in ("temperature", "top_k", "top_p", "min_p")),
        order="vllm",
    )
    if request.settings is not None:
        scheme = EWatermarkScheme(served.configs[request.key])
        trackers = []
        for t in range(len(ids)):
            tracker = scheme.new_tracker()
            for token in ids[:t]:
                tracker.push(token)
            trackers.append(tracker)
        law_TV = scheme.transform(law_TV, trackers)
    generator = torch.Generator().manual_seed(request.seed if seed is None else seed)
    noise_TV = torch.stack(
        [torch.empty(law_TV.shape[1]).exponential_(generator=generator) for _ in ids]
    )
    score_TV = law_TV.softmax(-1) / noise_TV
    best_T = score_TV.argmax(-1)
    emitted_T = torch.tensor(ids)
    flips = (best_T != emitted_T).nonzero().flatten()
    ratio = score_TV[flips, emitted_T[flips]] / score_TV[flips, best_T[flips]]
    assert (ratio > 0.999).all(), (flips.tolist(), ratio.tolist(), request)
    return len(flips)


def metric(served: Any, name: str) -> float:
    return sum(m.value for m in served.llm.get_metrics() if m.name == f"vllm:{name}")


def prompts(served: Any, count: int) -> list[list[int]]:
    """Prompts of 5 to 70 tokens; every other one starts with the same 40, for the prefix cache."""
    text = "The committee met in the morning and the report was read to the members. " * 8
    ids = served.tokenizer(text)["input_ids"]
    return [(ids[:40] if i % 2 else []) + ids[i % 7 : i % 7 + 5 + i % 25] for i in range(count)]


def mixed_requests(served: Any) -> list[Request]:
    """32 requests of mixed lengths: two keys, several warpings, every fourth one plain."""
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
        for i, prompt in enumerate(prompts(served, 32))
    ]  # fmt: skip


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


def test_marked_texts_are_detected_and_others_are_not(served: Any) -> None:
    """32 requests at once; seeds and keys are fixed, so the outcome is the same in every run.

    Over random keys a plain text would be flagged with probability at most 1e-3, by Ville.
    """
    requests = [
        Request(
            prompt,
            length=200 if i % 2 == 0 else 80 + 4 * i,
            seed=2000 + i,
            settings={"temperature": 0.9, "key": "first" if i % 4 else "second"}
            if i % 2 == 0
            else None,
            engine={"temperature": 0.9} if i % 2 else {},
        )
        for i, prompt in enumerate(prompts(served, 32))
    ]
    texts = generate(served, requests)
    detectors = {name: EWatermarkDetector(c, alpha=ALPHA) for name, c in served.configs.items()}
    for i, (request, ids) in enumerate(zip(requests, texts, strict=True)):
        for name, detector in detectors.items():
            found = bool(detector([ids]).prediction[0])
            assert found == (request.settings is not None and request.key == name), (i, name)


def test_detection_without_seeds(served: Any) -> None:
    """Requests without seeds draw from the engine's own generator; the mark is there all the same.

    A run of 16 texts is detected together: their combined e-value exceeds 1e12 by far, while on
    plain text it would do so with probability at most 1e-12.
    """
    marked = [Request(prompt, 100, None, {"temperature": 0.9}) for prompt in prompts(served, 16)]
    plain = [Request(prompt, 100, None) for prompt in prompts(served, 16)]
    texts = generate(served, [r for pair in zip(marked, plain, strict=True) for r in pair])
    detector = EWatermarkDetector(served.configs["first"], alpha=ALPHA)
    # Different texts share a key but, scored with one set of seen contexts, no context.
    assert _joint_log_e(detector, texts[::2]) > 27.7
    assert _joint_log_e(detector, texts[1::2]) < 27.7


def _joint_log_e(detector: Any, texts: list[list[int]]) -> float:
    import numpy as np

    process, seen = detector.new_eprocess(), set()
    for ids in texts:
        evidence, _, contexts_Sc = detector.read(ids)
        log_e_S = detector.score.log_e(evidence)
        new = [tuple(c) not in seen for c in contexts_Sc.tolist()]
        seen.update(map(tuple, contexts_Sc.tolist()))
        process.update_many(np.asarray(log_e_S)[new])
    return float(process.log_e_value)


def test_streaming_with_requests_that_come_and_go(served: Any) -> None:
    engine = served.llm.llm_engine
    requests = mixed_requests(served)[:20]
    aborted = {3, 8}
    texts: dict[str, list[int]] = {}
    waiting = list(enumerate(requests))
    for step in range(2000):
        if step % 3 == 0 and waiting:
            i, request = waiting.pop(0)
            engine.add_request(
                f"s{i}", {"prompt_token_ids": request.prompt}, sampling_params(served, request)
            )
        for output in engine.step():
            ids = list(output.outputs[0].token_ids)
            earlier = texts.get(output.request_id, [])
            assert ids[: len(earlier)] == earlier
            texts[output.request_id] = ids
        if step == 40:
            engine.abort_request([f"s{i}" for i in aborted])
        if not waiting and not engine.has_unfinished_requests():
            break
    assert not engine.has_unfinished_requests()
    for i, request in enumerate(requests):
        ids = texts[f"s{i}"]
        assert 0 < len(ids) < request.length if i in aborted else len(ids) == request.length
        assert replay(served, request, ids) <= MAX_FLIPS


def test_several_samples_of_one_request(served: Any) -> None:
    request = Request(prompts(served, 2)[1], 50, 77, {"top_p": 0.95}, {"n": 3})
    (output,) = served.llm.generate(
        [{"prompt_token_ids": request.prompt}], sampling_params(served, request), use_tqdm=False
    )
    texts = [list(sample.token_ids) for sample in output.outputs]
    assert len({tuple(ids) for ids in texts}) == 3
    # vLLM numbers the samples' seeds from the request's on.
    for offset, ids in enumerate(texts):
        assert replay(served, request, ids, seed=77 + offset) <= MAX_FLIPS


def test_allowed_tokens_come_before_the_mark(served: Any) -> None:
    # Alone: vLLM 0.25.1 forgets to clear such a mask when it moves a request to another row.
    allowed = list(range(100, 1500))
    settings = {"temperature": 0.9, "top_p": 0.95}
    request = Request(prompts(served, 1)[0], 80, 9, settings, {"allowed_token_ids": allowed})
    (ids,) = generate(served, [request])
    assert set(ids) <= set(allowed)
    assert replay(served, request, ids) <= MAX_FLIPS


def test_settings_as_json_text(served: Any) -> None:
    settings = {"temperature": 0.8, "key": "second"}
    request = Request(prompts(served, 1)[0], 30, 5, settings)
    params = sampling_params(served, request)
    params.extra_args = {"ewatermark": json.dumps(settings)}
    (output,) = served.llm.generate([{"prompt_token_ids": request.prompt}], params, use_tqdm=False)
    assert list(output.outputs[0].token_ids) == generate(served, [request])[0]


@pytest.mark.parametrize(
    ("settings", "engine", "match"),
    [
        ({}, {"temperature": 0.7}, "temperature=0.7 would be applied after the watermark"),
        ({}, {"temperature": 0.0}, "temperature=0.0 would be applied after the watermark"),
        ({"temperature": 0.0}, {}, "greedy decoding"),
        ({}, {"repetition_penalty": 1.2}, "repetition_penalty=1.2 is applied after"),
        ({"key": "third"}, {}, "there is no key named 'third'"),
        ({"topp": 0.9}, {}, "unknown fields"),
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
    """A configuration of 50 tokens with an n-gram anchor, and the files that describe it."""
    anchor = NGramAnchor(vocab_size=50).fit([[i * i % 50 for i in range(200)]])
    anchor.save(tmp_path / "anchor.safetensors")
    config = EWatermarkConfig(key=KEYS["first"], vocab_size=50, anchor=anchor, num_groups=4)
    config.record().save(tmp_path / "wm.json")
    for name, key in KEYS.items():
        save_key(tmp_path / f"{name}.key", key)
    content = {
        "format": 1,
        "keys": {name: f"{name}.key" for name in KEYS},
        "default_key": "second",
        "scheme": {"record": "wm.json", "anchor": "anchor.safetensors"},
    }
    return SimpleNamespace(path=tmp_path / "engine.json", config=config, content=content)


def start(small: Any, monkeypatch: pytest.MonkeyPatch, vocab_size: int = 50) -> Any:
    import torch

    from modicum.ewatermark.integrations.vllm import CONFIG_VARIABLE, EWatermarkLogitsProcessor

    small.path.write_text(json.dumps(small.content))
    monkeypatch.setenv(CONFIG_VARIABLE, str(small.path))
    engine = SimpleNamespace(
        model_config=SimpleNamespace(
            logits_processors=[PROCESSOR], get_vocab_size=lambda: vocab_size
        ),
        scheduler_config=SimpleNamespace(async_scheduling=True),
        speculative_config=None,
    )
    return EWatermarkLogitsProcessor(engine, torch.device("cpu"), False)


def test_the_file_brings_back_the_watermark(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, served: Any
) -> None:
    processor = start(small, monkeypatch)
    assert processor.config.default_key == "second"
    for name, key in KEYS.items():
        built, wanted = processor._schemes[name].config, small.config.replace(key=key)
        assert built.parameters == wanted.parameters
        assert built.key_id == wanted.key_id
        assert built.anchor.fingerprint == wanted.anchor.fingerprint


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"record": None}, "setting 'record' of 'scheme' cannot be None"),
        ({"record": "absent.json"}, "absent.json"),
        ({"record": "engine.json"}, "not a watermark record"),
        ({"anchor": "uniform"}, "anchor_fingerprint is 'ngram:.*' in the record and 'uniform:50'"),
        ({"anchor": "absent"}, "anchor 'absent' does not exist; give the folder"),
        ({"window": True}, "setting 'window' of 'scheme' cannot be True"),
        ({"windw": 2}, "'scheme' has no setting 'windw'"),
    ],
)
def test_a_wrong_file_stops_the_engine(
    small: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    served: Any,
    change: dict[str, Any],
    match: str,
) -> None:
    small.content["scheme"].update(change)
    with pytest.raises(ValueError, match=match):
        start(small, monkeypatch)


def test_keys_and_record_must_belong_together(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, served: Any
) -> None:
    small.content.update(keys={"second": "second.key"})
    with pytest.raises(ValueError, match=f"the record is for the key {small.config.key_id}"):
        start(small, monkeypatch)


def test_a_record_is_required(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, served: Any
) -> None:
    del small.content["scheme"]
    with pytest.raises(ValueError, match="'scheme' must name a 'record'"):
        start(small, monkeypatch)


def test_the_vocabulary_must_fit_the_model(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, served: Any
) -> None:
    with pytest.raises(ValueError, match="was made for a vocabulary of 50, the model has 49"):
        start(small, monkeypatch, vocab_size=49)


def test_without_vllm_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['vllm'] = None; import modicum.ewatermark.integrations.vllm"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'pip install "modicum-ewatermark[vllm]"' in result.stderr.splitlines()[-1]


def test_the_entry_point_form_is_inert_without_configuration(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modicum.ewatermark.integrations.vllm import CONFIG_VARIABLE, EWatermarkEntryPoint

    monkeypatch.delenv(CONFIG_VARIABLE)
    processor = EWatermarkEntryPoint(
        SimpleNamespace(
            model_config=SimpleNamespace(logits_processors=None),
            scheduler_config=SimpleNamespace(async_scheduling=True),
            speculative_config=object(),
        ),
        served.torch.device("cpu"),
        False,
    )
    processor.update_state(None)
    logits_BV = served.torch.randn(3, 7)
    assert processor.apply(logits_BV) is logits_BV
    assert CONFIG_VARIABLE not in os.environ
