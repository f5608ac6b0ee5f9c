"""The vLLM skeleton against vLLM's own batch bookkeeping, without an engine.

A toy scheme that favours a keyed half of the vocabulary stands in for a watermark. Requests run
through vLLM's real `InputBatch` in random orders of arrival, completion, preemption, resumption and
swaps; each must produce, token for token, what it produces alone in a plain loop.

vLLM is imported by a fixture: it takes half a minute, and every xdist worker collects this file.
"""

import json
import logging
import os
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]

V = 24  # vocabulary of the toy scheme
WIDE = V + 3  # vocabulary of the toy model, three ids of padding
WIDTH, WARMUP = 2, 2
FIELD, VARIABLE = "toy", "MODICUM_TOY_CONFIG"
KEYS = {"one": b"the first toy key", "two": b"the second toy key"}


def favoured(key: bytes, context: tuple[int, ...], token: int) -> bool:
    value = int.from_bytes(key, "big")
    for item in (*context, token):
        value = (value * 1_000_003 + item + 7) % 2_147_483_647
    return value % 7 < 3


@pytest.fixture(scope="module")
def engine() -> Iterator[SimpleNamespace]:
    """vLLM's bookkeeping classes and a processor for the toy scheme."""
    torch = pytest.importorskip("torch")
    patch = pytest.MonkeyPatch()
    patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other projects' deprecations, raised while importing
        import vllm
        from vllm import SamplingParams
        from vllm.v1.sample import logits_processor as vllm_processors
        from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch
    from modicum.core.watermark.adapters import vllm as adapter
    from modicum.core.watermark.contexts import ContextTracker

    class ToyScheme:
        vocab_size, context_width, warmup = V, WIDTH, WARMUP

        def __init__(self, key: bytes) -> None:
            self.key = key

        def new_tracker(self) -> ContextTracker:
            return ContextTracker(WIDTH, WARMUP)

        def transform(self, logprobs_BV: Any, trackers: Any) -> Any:
            assert logprobs_BV.shape == (len(trackers), V)
            out_BV = logprobs_BV.clone()
            for row, tracker in enumerate(trackers):
                context = tracker.context()
                if context is not None:
                    bonus_V = [3.0 * favoured(self.key, context, v) for v in range(V)]
                    out_BV[row] += torch.tensor(bonus_V)
            return out_BV

    class ToyProcessor(adapter.WatermarkLogitsProcessor):
        request_field, config_variable = FIELD, VARIABLE

        def build_schemes(self, config: Any) -> dict[str, ToyScheme]:
            assert config.scheme == {"strength": 3}
            return {name: ToyScheme(key) for name, key in config.keys.items()}

    class ToyPlugin(ToyProcessor):
        stands_in_for = ToyProcessor

    yield SimpleNamespace(
        torch=torch,
        vllm=vllm,
        adapter=adapter,
        processors=vllm_processors,
        SamplingParams=SamplingParams,
        CachedRequestState=CachedRequestState,
        InputBatch=InputBatch,
        Processor=ToyProcessor,
        Plugin=ToyPlugin,
        Tracker=ContextTracker,
    )
    patch.undo()


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    for name, key in KEYS.items():
        (folder / f"{name}.key").write_bytes(key)
    path = folder / "toy.json"
    content = {
        "format": 1,
        "keys": {name: f"{name}.key" for name in KEYS},
        "default_key": "one",
        "scheme": {"strength": 3},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def configured(config_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(config_path))
    return config_path


def vllm_config(*listed: Any, asynchronous: bool = False, speculative: Any = None) -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(
            logits_processors=list(listed) or None, get_vocab_size=lambda: WIDE
        ),
        scheduler_config=SimpleNamespace(async_scheduling=asynchronous),
        speculative_config=speculative,
    )


def make(engine: Any, cls: Any = None, *, listed: bool = True, **kwargs: Any) -> Any:
    cls = cls or engine.Processor
    return cls(vllm_config(*([cls] if listed else []), **kwargs), engine.torch.device("cpu"), False)


def params(engine: Any, value: Any = None, **kwargs: Any) -> Any:
    extra_args = None if value is None else {FIELD: value}
    return engine.SamplingParams(extra_args=extra_args, **kwargs)


# --- configuration and requests -------------------------------------------------------------------


def test_config_reads_keys_and_hides_them(engine: Any, config_path: Path) -> None:
    config = engine.adapter.EngineConfig.load(config_path)
    assert config.keys == KEYS
    assert config.default_key == "one"
    assert config.scheme == {"strength": 3}
    assert "toy key" not in repr(config) and "one" in repr(config)


def test_a_single_key_is_the_default(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"sixteen bytes are enough")
    (tmp_path / "c.json").write_text(json.dumps({"format": 1, "keys": {"only": "k"}}))
    assert engine.adapter.EngineConfig.load(tmp_path / "c.json").default_key == "only"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "cannot read the watermark configuration"),
        ("{", "cannot read the watermark configuration"),
        ([], "must hold a JSON object"),
        ({"format": 1, "keys": {"a": "k"}, "extra": 1}, "must hold a JSON object"),
        ({"format": 2, "keys": {"a": "k"}}, "has format 2; this version reads 1"),
        ({"format": 1}, "must map at least one name to a key file"),
        ({"format": 1, "keys": {}}, "must map at least one name to a key file"),
        ({"format": 1, "keys": {"a": 3}}, "must map at least one name to a key file"),
        ({"format": 1, "keys": {"a": "absent"}}, "cannot read key 'a'"),
        ({"format": 1, "keys": {"a": "short"}}, "key 'a' .* has 5 bytes; at least 16 are needed"),
        ({"format": 1, "keys": {"a": "k", "b": "k"}}, "'default_key' .* is None"),
        ({"format": 1, "keys": {"a": "k"}, "default_key": "c"}, "'default_key' .* is 'c'"),
        ({"format": 1, "keys": {"a": "k"}, "scheme": 4}, "'scheme' .* must be an object, got 4"),
    ],
)
def test_config_errors(engine: Any, tmp_path: Path, content: Any, match: str) -> None:
    (tmp_path / "k").write_bytes(b"sixteen bytes are enough")
    (tmp_path / "short").write_bytes(b"short")
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=match):
        engine.adapter.EngineConfig.load(path)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"temperature": 0}, "greedy decoding"),
        ({"temperature": -1.0}, "'temperature' must be positive, got -1.0"),
        ({"temperature": float("inf")}, "'temperature' must be positive, got inf"),
        ({"temperature": True}, "'temperature' must be a number, got True"),
        ({"top_p": 0}, r"'top_p' must lie in \(0, 1\], got 0"),
        ({"top_p": "0.9"}, "'top_p' must be a number, got '0.9'"),
        ({"min_p": 1.5}, r"'min_p' must lie in \[0, 1\], got 1.5"),
        ({"top_k": 2.0}, "'top_k' must be a positive integer, or 0 for all, got 2.0"),
        ({"top_k": -2}, "'top_k' must be a positive integer, or 0 for all, got -2"),
        ({"enabled": 1}, "'enabled' must be true or false, got 1"),
        ({"key": 5}, "'key' must be the name of a configured key"),
        ({"key": "three"}, "there is no key named 'three'"),
        ({"topp": 0.9}, r"unknown fields \['topp'\]"),
        ("{", "not JSON"),
        ("[1]", "must be an object, got list"),
        (True, "must be an object, got bool"),
    ],
)
def test_wrong_settings_are_refused(engine: Any, configured: Path, value: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        engine.Processor.validate_params(params(engine, value))
    assert str(caught.value).startswith("extra_args['toy']")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"temperature": 0.7}, "temperature=0.7 would be applied after the watermark"),
        ({"temperature": 0.0}, "temperature=0.0 would be applied after the watermark"),
        ({"top_p": 0.9}, "top_p=0.9 would be applied"),
        ({"top_k": 5}, "top_k=5 would be applied"),
        ({"min_p": 0.1}, "min_p=0.1 would be applied"),
        ({"presence_penalty": 0.5}, "presence_penalty=0.5 is applied after the watermark"),
        ({"frequency_penalty": 0.5}, "frequency_penalty=0.5 is applied after the watermark"),
        ({"repetition_penalty": 1.1}, "repetition_penalty=1.1 is applied after the watermark"),
        ({"thinking_token_budget": 5}, "thinking_token_budget=5 is applied after"),
    ],
)
def test_what_the_engine_would_do_after_the_mark_is_refused(
    engine: Any, configured: Path, change: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        engine.Processor.validate_params(params(engine, {}, **change))
    engine.Processor.validate_params(params(engine, {"enabled": False}, **change))
    engine.Processor.validate_params(params(engine, None, **change))


def test_what_the_engine_does_before_the_mark_is_accepted(engine: Any, configured: Path) -> None:
    engine.Processor.validate_params(
        params(
            engine,
            '{"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "key": "two"}',
            logit_bias={3: 1.0},
            allowed_token_ids=[1, 2, 3],
            min_tokens=2,
            bad_words=["x"],
            top_k=-1,
            seed=4,
            logprobs=2,
            n=2,
        )
    )


def test_asking_an_engine_without_configuration_is_refused(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    engine.Processor.validate_params(params(engine))
    with pytest.raises(ValueError, match="this engine has none: the environment variable"):
        engine.Processor.validate_params(params(engine, {}))


# --- starting the engine --------------------------------------------------------------------------


def test_inert_without_configuration(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(engine.vllm, "__version__", "9.9.9")
    processor = make(engine, listed=False, asynchronous=True)
    processor.update_state(update(engine, 1, added=[(0, params(engine), [1], [])]))
    logits_BV = engine.torch.randn(1, WIDE)
    assert processor.apply(logits_BV) is logits_BV
    with pytest.raises(RuntimeError, match="this worker has none"):
        processor.update_state(update(engine, 1, added=[(0, params(engine, {}), [1], [])]))


def test_other_versions_are_refused(
    engine: Any, configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.vllm, "__version__", "0.30.2")
    with pytest.raises(RuntimeError, match=r"made for vLLM 0\.25, found 0\.30\.2"):
        make(engine)
    monkeypatch.setattr(engine.vllm, "__version__", "0.250.0")
    with pytest.raises(RuntimeError, match=r"found 0\.250\.0"):
        make(engine)


def test_engine_modes_that_break_a_mark_are_refused(engine: Any, configured: Path) -> None:
    with pytest.raises(NotImplementedError, match="speculative decoding"):
        make(engine, speculative=object())
    with pytest.raises(ValueError, match="listed twice"):
        engine.Processor(
            vllm_config(engine.Processor, f"{__name__}:{engine.Processor.__qualname__}"),
            engine.torch.device("cpu"),
            False,
        )
    with pytest.raises(ValueError, match="asynchronous scheduling hides the output tokens"):
        make(engine, listed=False, asynchronous=True)
    make(engine, listed=False)
    make(engine, asynchronous=True)


def test_vllm_itself_refuses_speculative_decoding_with_a_processor(engine: Any) -> None:
    with pytest.raises(ValueError, match="not supported when speculative decoding"):
        engine.processors.build_logitsprocs(
            vllm_config(speculative=object()),
            engine.torch.device("cpu"),
            False,
            False,
            [engine.Processor],
        )


def test_an_entry_point_stands_back_for_the_class_it_names(engine: Any, configured: Path) -> None:
    both = vllm_config(engine.Processor, asynchronous=True)
    plugin = engine.Plugin(both, engine.torch.device("cpu"), False)
    plugin.update_state(update(engine, 1, added=[(0, params(engine, {}), [1], [])]))
    logits_BV = engine.torch.randn(1, WIDE)
    before = logits_BV.clone()
    assert engine.torch.equal(plugin.apply(logits_BV), before)
    alone = engine.Plugin(vllm_config(), engine.torch.device("cpu"), False)
    alone.update_state(update(engine, 1, added=[(0, params(engine, {}), [1], [])]))
    assert not engine.torch.equal(alone.apply(logits_BV), before)


def test_a_vocabulary_larger_than_the_model_is_refused(
    engine: Any, configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = vllm_config(engine.Processor)
    small.model_config.get_vocab_size = lambda: V - 1
    with pytest.raises(ValueError, match=f"vocabulary of {V}, the model has {V - 1}"):
        engine.Processor(small, engine.torch.device("cpu"), False)


# --- one batch ------------------------------------------------------------------------------------


def update(engine: Any, size: int, removed: Any = (), added: Any = (), moved: Any = ()) -> Any:
    return engine.processors.BatchUpdate(
        batch_size=size, removed=list(removed), added=list(added), moved=list(moved)
    )


def expected_law(engine: Any, logits_V: Any, value: dict[str, Any], ids: list[int]) -> Any:
    """What a row must become, computed for itself and without the adapter."""
    torch = engine.torch
    x_V = logits_V[:V].double() / value.get("temperature", 1.0)
    probs_V = x_V.softmax(0)
    keep_V = probs_V >= value.get("min_p", 0.0) * probs_V.max()
    order = sorted(range(V), key=lambda v: (-float(x_V[v]), -v))
    if 0 < value.get("top_k", 0) < V:
        keep_V &= x_V >= x_V[order[value["top_k"] - 1]]
    if value.get("top_p", 1.0) < 1:
        kept_V = torch.where(keep_V, probs_V, 0.0)
        kept_V = kept_V / kept_V.sum()
        mass = 0.0
        for v in order:
            keep_V[v] &= mass < value["top_p"]
            mass += float(kept_V[v])
    law_V = x_V.masked_fill(~keep_V, -torch.inf).log_softmax(0)
    seen, scored = set(), False
    for t in range(len(ids) + 1):
        context = ((-1,) * WIDTH + tuple(ids[:t]))[-WIDTH:]
        scored = t >= WARMUP and context not in seen
        if t >= WARMUP:
            seen.add(context)
    if scored:
        key = KEYS[value.get("key", "one")]
        law_V += torch.tensor([3.0 * favoured(key, context, v) for v in range(V)])
    return torch.cat([law_V, torch.full((WIDE - V,), -torch.inf, dtype=torch.float64)]).float()


def test_each_row_gets_its_own_warping_key_and_context(engine: Any, configured: Path) -> None:
    torch = engine.torch
    processor = make(engine)
    values: list[Any] = [
        {"temperature": 0.5, "top_p": 0.8},
        None,
        {"key": "two", "top_k": 4},
        {"enabled": False},
        {"min_p": 0.2, "temperature": 1.7, "top_p": 0.9, "top_k": 9},
        {},
    ]
    outputs = [[1, 2, 3, 4], [1, 2, 3], [5, 6], [1, 2], [7, 8, 7, 8], [9]]
    requests = [(i, params(engine, values[i]), [0], outputs[i]) for i in range(6)]
    processor.update_state(update(engine, 6, added=requests))
    logits_BV = 2 * torch.randn(6, WIDE, generator=torch.Generator().manual_seed(0))
    out_BV = processor.apply(logits_BV.clone())
    for row, value in enumerate(values):
        if value is None or value.get("enabled") is False:
            assert torch.equal(out_BV[row], logits_BV[row])
        else:
            want_V = expected_law(engine, logits_BV[row], value, outputs[row])
            torch.testing.assert_close(out_BV[row], want_V, rtol=1e-5, atol=1e-5)
    # The engine's lists are live: one more token changes context and law.
    for ids in outputs:
        ids.append(11)
    processor.update_state(None)
    out_BV = processor.apply(logits_BV.clone())
    for row in (0, 2, 4, 5):
        want_V = expected_law(engine, logits_BV[row], values[row], outputs[row])
        torch.testing.assert_close(out_BV[row], want_V, rtol=1e-5, atol=1e-5)


def test_rows_do_not_depend_on_their_order(engine: Any, configured: Path) -> None:
    torch = engine.torch
    values = [{"key": "one" if i % 2 else "two", "temperature": 0.5 + i / 4} for i in range(6)]
    logits_BV = torch.randn(6, WIDE, generator=torch.Generator().manual_seed(1))
    results = []
    for order in ([0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 2, 4]):
        processor = make(engine)
        processor.update_state(
            update(
                engine,
                6,
                added=[
                    (place, params(engine, values[i]), None, [i, i + 1, i + 2])
                    for place, i in enumerate(order)
                ],
            )
        )
        out_BV = processor.apply(logits_BV[order])
        results.append(torch.stack([out_BV[order.index(i)] for i in range(6)]))
    assert torch.equal(*results)


def test_a_list_that_shrinks_or_is_rewritten_starts_over(engine: Any, configured: Path) -> None:
    torch = engine.torch
    processor = make(engine)
    ids = [1, 2, 3, 1, 2]
    processor.update_state(update(engine, 1, added=[(0, params(engine, {}), [0], ids)]))
    logits_BV = torch.randn(1, WIDE, generator=torch.Generator().manual_seed(2))
    for change in (
        lambda: None,
        lambda: ids.__delitem__(slice(3, None)),  # tokens discarded by the engine
        lambda: ids.extend([1, 2]),
        lambda: ids.__setitem__(-1, 9),  # the last token replaced
        lambda: ids.__setitem__(slice(None), [9, 1, 2]),
        lambda: ids.clear(),
        lambda: ids.extend([4, 5, 6]),
    ):
        change()
        out_BV = processor.apply(logits_BV.clone())
        want_V = expected_law(engine, logits_BV[0], {}, ids)
        torch.testing.assert_close(out_BV[0], want_V, rtol=1e-5, atol=1e-5)


def test_a_placeholder_is_an_error_not_a_token(engine: Any, configured: Path) -> None:
    processor = make(engine)
    ids = [1, 2, 3]
    processor.update_state(update(engine, 1, added=[(0, params(engine, {}), [0], ids)]))
    processor.apply(engine.torch.zeros(1, WIDE))
    ids.append(-1)
    with pytest.raises(RuntimeError, match="placeholder instead of the last output token"):
        processor.apply(engine.torch.zeros(1, WIDE))
    ids[-1] = 4
    processor.apply(engine.torch.zeros(1, WIDE))


def test_more_rows_than_logits_is_an_error(engine: Any, configured: Path) -> None:
    processor = make(engine)
    processor.update_state(update(engine, 3, added=[(2, params(engine, {}), [0], [])]))
    with pytest.raises(RuntimeError, match="row 2 is to be watermarked but vLLM samples 2 rows"):
        processor.apply(engine.torch.zeros(2, WIDE))


def test_rows_without_a_law_are_left_alone_and_reported_once(
    engine: Any, configured: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch = engine.torch
    processor = make(engine)
    requests = [(i, params(engine, {}), [0], [1, 2, 3]) for i in range(4)]
    processor.update_state(update(engine, 4, added=requests))
    logits_BV = torch.randn(4, WIDE, generator=torch.Generator().manual_seed(3))
    logits_BV[0, 5] = torch.nan
    logits_BV[1] = -torch.inf
    logits_BV[2, :V] = -torch.inf  # only padding ids remain
    with caplog.at_level(logging.WARNING, logger="modicum"):
        for _ in range(2):
            out_BV = processor.apply(logits_BV.clone())
            assert torch.equal(
                torch.nan_to_num(out_BV[:3], nan=7.0), torch.nan_to_num(logits_BV[:3], nan=7.0)
            )
            want_V = expected_law(engine, logits_BV[3], {}, [1, 2, 3])
            torch.testing.assert_close(out_BV[3], want_V, rtol=1e-5, atol=1e-5)
    assert len(caplog.records) == 1
    alone = make(engine)
    alone.update_state(update(engine, 1, added=requests[:1]))
    assert torch.equal(alone.apply(logits_BV[1:2].clone()), logits_BV[1:2])


# --- random batch updates against a plain model ---------------------------------------------------


@st.composite
def batch_updates(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Random updates as vLLM documents them: removed, then added, then moved."""
    updates = []
    for _ in range(draw(st.integers(1, 6))):
        index = st.integers(0, 5)
        updates.append(
            {
                "removed": draw(st.lists(index, max_size=3, unique=True)),
                "added": draw(
                    st.lists(
                        st.tuples(index, st.sampled_from([None, "one", "two"])),
                        max_size=3,
                        unique_by=lambda pair: pair[0],
                    )
                ),
                "moved": draw(st.lists(st.tuples(index, index, st.booleans()), max_size=4)),
            }
        )
    return updates


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(updates=batch_updates())
def test_random_updates_keep_rows_where_they_belong(
    engine: Any, configured: Path, updates: list[dict[str, Any]]
) -> None:
    processor = make(engine)
    directions = engine.processors.MoveDirectionality
    model: list[Any] = [None] * 6
    for step, change in enumerate(updates):
        added = []
        for index in change["removed"]:
            model[index] = None
        for index, key in change["added"]:
            ids = [step, index]
            value = None if key is None else {"key": key}
            added.append((index, params(engine, value), [0], ids))
            model[index] = None if key is None else (key, ids)
        moved = []
        for a, b, swap in change["moved"]:
            if a == b:
                continue
            moved.append((a, b, directions.SWAP if swap else directions.UNIDIRECTIONAL))
            model[a], model[b] = (model[b] if swap else None), model[a]
        processor.update_state(update(engine, 6, change["removed"], added, moved))
        got = {index: (row.settings.key, row.output_ids) for index, row in processor._rows.items()}
        want = {index: entry for index, entry in enumerate(model) if entry is not None}
        assert got.keys() == want.keys()
        for index in want:
            assert got[index][0] == want[index][0]
            assert got[index][1] is want[index][1]


# --- vLLM's own persistent batch ------------------------------------------------------------------


def model_logits(engine: Any, prompt: list[int], ids: list[int]) -> Any:
    """A language model: logits that depend on prompt, position and the last token."""
    seed = hash((tuple(prompt), len(ids), ids[-1] if ids else 0)) % 2**31
    return 2 * engine.torch.randn(WIDE, generator=engine.torch.Generator().manual_seed(seed))


def sample(engine: Any, logits_V: Any, generator: Any) -> int:
    noise_V = engine.torch.empty(WIDE).exponential_(generator=generator)
    return int((logits_V.softmax(0) / noise_V).argmax())


@dataclass
class Request:
    name: str
    prompt: list[int]
    value: dict[str, Any] | None
    length: int
    generator: Any
    state: Any
    truth: list[int] = field(default_factory=list)

    def alone(self, engine: Any) -> list[int]:
        generator, ids = engine.torch.Generator().manual_seed(self.generator.initial_seed()), []
        for _ in range(self.length):
            logits_V = model_logits(engine, self.prompt, ids)
            if self.value is not None:
                logits_V = expected_law(engine, logits_V, self.value, ids)
            ids.append(sample(engine, logits_V, generator))
        return ids


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data(), moves=st.integers(0, 2**32), asynchronous=st.booleans())
def test_every_request_in_a_moving_batch_writes_what_it_writes_alone(
    engine: Any, configured: Path, data: st.DataObject, moves: int, asynchronous: bool
) -> None:
    torch, slots, chance = engine.torch, 5, random.Random(moves)
    processor = make(engine, asynchronous=asynchronous)
    batch = engine.InputBatch(
        max_num_reqs=slots,
        max_model_len=64,
        max_num_batched_tokens=64,
        device=torch.device("cpu"),
        vocab_size=WIDE,
        block_sizes=[16],
        kernel_block_sizes=[16],
        logitsprocs=engine.processors.LogitsProcessors([processor]),
        logitsprocs_need_output_token_ids=True,
    )
    setting = st.sampled_from(
        [None, {}, {"key": "two"}, {"temperature": 0.6, "top_p": 0.9}, {"top_k": 3, "key": "one"}]
    )
    waiting: list[Request] = []
    for i, (value, length) in enumerate(
        data.draw(st.lists(st.tuples(setting, st.integers(1, 14)), min_size=1, max_size=9))
    ):
        generator = torch.Generator().manual_seed(100 + i)
        state = engine.CachedRequestState(
            req_id=f"r{i}",
            prompt_token_ids=[i, i + 1],
            mm_features=[],
            sampling_params=params(engine, value, seed=100 + i),
            generator=generator,
            block_ids=([0],),
            num_computed_tokens=0,
            output_token_ids=[],
        )
        waiting.append(Request(f"r{i}", [i, i + 1], value, length, generator, state))
    everything, running = list(waiting), []
    for _ in range(400):
        if not waiting and not running:
            break
        # As in vLLM's model runner: finished, preempted, new or resumed, condensed, reordered.
        for request in [r for r in running if len(r.truth) == r.length]:
            batch.remove_request(request.name)
            running.remove(request)
        for request in [r for r in running if chance.random() < 0.1]:
            batch.remove_request(request.name)
            running.remove(request)
            waiting.insert(0, request)
        while waiting and len(running) < slots and chance.random() < 0.7:
            request = waiting.pop(0)
            if asynchronous and request.truth:
                request.state.output_token_ids = list(request.truth)
            batch.add_request(request.state)
            running.append(request)
        batch.condense()
        if batch.num_reqs >= 2 and chance.random() < 0.5:
            batch.swap_states(*chance.sample(range(batch.num_reqs), 2))
        batch.refresh_metadata()
        if not batch.num_reqs:
            continue
        batch.update_async_output_token_ids()
        by_name = {request.name: request for request in running}
        rows = [by_name[name] for name in batch.req_ids]
        logits_BV = torch.stack([model_logits(engine, r.prompt, r.truth) for r in rows])
        out_BV = processor.apply(logits_BV)
        sampled = [sample(engine, out_BV[i], r.generator) for i, r in enumerate(rows)]
        for i, (request, token) in enumerate(zip(rows, sampled, strict=True)):
            request.truth.append(token)
            request.state.output_token_ids.append(-1 if asynchronous else token)
            batch.num_tokens_no_spec[i] += 1
        if asynchronous:
            batch.prev_req_id_to_index = {name: i for i, name in enumerate(batch.req_ids)}
            batch.set_async_sampled_token_ids(
                torch.tensor(sampled)[:, None], SimpleNamespace(synchronize=lambda: None)
            )
    assert not waiting and not running
    for request in everything:
        assert request.truth == request.alone(engine), request.name


def test_the_environment_is_as_it_was() -> None:
    assert VARIABLE not in os.environ
