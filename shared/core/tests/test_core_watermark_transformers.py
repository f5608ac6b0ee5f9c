"""The transformers adapter inside real `generate()` calls of tiny random models.

The toy scheme removes every token whose parity differs from the context's, so whether a position
was marked can be read off the text without any chance.
"""

import copy
import json
import pickle
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from modicum.core.watermark.adapters.transformers import (  # noqa: E402
    WatermarkingConfig,
    WatermarkProcessor,
)
from modicum.core.watermark.contexts import ContextTracker, distinct_contexts  # noqa: E402

VOCAB = 48
EOS = 1
PAD = 0
WIDTH = 3
SECRET = "correct horse battery staple"


class ParityScheme:
    """Keep only tokens with the parity of the sum of the context, if there is one left."""

    def __init__(self, vocab_size=VOCAB, context_width=WIDTH, warmup=None):
        self.vocab_size = vocab_size
        self.context_width = context_width
        self.warmup = context_width if warmup is None else warmup
        self.secret = SECRET
        self.rows_seen = []
        self.laws_seen = []

    def new_tracker(self):
        return ContextTracker(self.context_width, self.warmup)

    def transform(self, logprobs_BV, trackers):
        assert logprobs_BV.dtype == torch.float32
        assert logprobs_BV.shape == (len(trackers), self.vocab_size)
        self.laws_seen.append(logprobs_BV.clone())
        out_BV = logprobs_BV.clone()
        tokens_V = torch.arange(self.vocab_size)
        for row, tracker in enumerate(trackers):
            context = tracker.context()
            self.rows_seen.append((tuple(tracker.tokens), context))
            if context is not None:
                held_V = (tokens_V + sum(context)) % 2 == 0
                if torch.isfinite(out_BV[row, held_V]).any():
                    out_BV[row, ~held_V] = -torch.inf
        return torch.log_softmax(out_BV, dim=-1)


def config_for(scheme):
    return WatermarkingConfig(scheme, key_id="k-1234", public={"scheme": "parity"})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small only wait for one another's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return _no_end(transformers.LlamaForCausalLM(config).eval())


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        bos_token_id=2,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return _no_end(transformers.GPT2LMHeadModel(config).eval())


def _no_end(model):
    # Responses of full length, and a flat law (temperature 1, no default top-k): nothing implicit.
    model.generation_config = transformers.GenerationConfig(
        top_k=0, pad_token_id=PAD, bos_token_id=2, eos_token_id=None
    )
    return model


def prompts(lengths, seed=0):
    """Return left-padded prompts and their attention mask."""
    rng = np.random.default_rng(seed)
    ids_BL = torch.full((len(lengths), max(lengths)), PAD)
    mask_BL = torch.zeros_like(ids_BL)
    for row, length in enumerate(lengths):
        ids_BL[row, -length:] = torch.from_numpy(rng.integers(3, VOCAB, length))
        mask_BL[row, -length:] = 1
    return {"input_ids": ids_BL, "attention_mask": mask_BL}


def sample(model, inputs, seed=7, **kwargs):
    torch.manual_seed(seed)
    kwargs = {"do_sample": True, "max_new_tokens": 24, **kwargs}
    return model.generate(**inputs, **kwargs)


def response(out_BL, inputs):
    return out_BL[:, inputs["input_ids"].shape[1] :].tolist()


def parity_holds(ids, width=WIDTH, warmup=None):
    """Return, for each scored position, whether the token has its context's parity."""
    contexts_Tc, scored_T = distinct_contexts(ids, width, warmup)
    return [(ids[t] + int(contexts_Tc[t].sum())) % 2 == 0 for t in range(len(ids)) if scored_T[t]]


def assert_marked(ids, expected_at_least=15):
    held = parity_holds(ids)
    assert len(held) >= expected_at_least
    assert all(held)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_scored_position_of_a_left_padded_batch_is_marked(name, request):
    model = request.getfixturevalue(name)
    inputs = prompts([9, 4, 1, 6])
    scheme = ParityScheme()
    marked = response(sample(model, inputs, watermarking_config=config_for(scheme)), inputs)
    plain = response(sample(model, inputs), inputs)
    for ids in marked:
        assert_marked(ids)
    # A plain response of about 20 scored tokens obeys by chance with probability 2^-20 or so.
    assert not any(all(parity_holds(ids)) for ids in plain)
    # The scheme saw the response and nothing else: no prompt token, no padding.
    for ids in marked:
        for t in range(WIDTH, len(ids)):
            tokens, context = tuple(ids[:t]), tuple(ids[t - WIDTH : t])
            first = distinct_contexts(ids, WIDTH)[1][t]
            assert ((tokens, context) in scheme.rows_seen) == bool(first)


def test_warmup_and_repeated_contexts_come_back_bit_for_bit():
    scheme = ParityScheme(context_width=2)
    processor = WatermarkProcessor(scheme)
    torch.manual_seed(0)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    responses = [[11, 12, 11, 12, 13], [20, 21, 22, 23, 24]]
    changed = []
    for t in range(5):
        scores = torch.randn(2, VOCAB)
        scores[:, 40:44] = -torch.inf
        before = scores.clone()
        out = processor(ids, scores)
        assert torch.equal(scores, before), "the caller's scores must not be written to"
        changed.append([not torch.equal(out[row], scores[row]) for row in range(2)])
        ids = torch.cat([ids, torch.tensor([[responses[0][t]], [responses[1][t]]])], dim=1)
    # Row 0 meets (11, 12) a second time before its fifth token.
    assert changed == [[False] * 2, [False] * 2, [True, True], [True, True], [False, True]]


def test_rows_of_a_batch_do_not_depend_on_each_other(llama):
    inputs = prompts([5, 5, 5])
    law = {}
    for batch in ([0], [0, 1, 2]):
        scheme = ParityScheme()
        processor = WatermarkProcessor(scheme)
        ids = inputs["input_ids"][batch]
        torch.manual_seed(3)
        for t in range(10):
            scores = torch.sin(torch.arange(VOCAB) * (t + 1.0)).repeat(len(batch), 1)
            out = processor(ids, scores)
            law.setdefault(t, []).append(out[0])
            step = torch.tensor([[3 + (5 * t) % 40]] + [[4 + t]] * (len(batch) - 1))
            ids = torch.cat([ids, step], dim=1)
    for alone, batched in law.values():
        assert torch.equal(alone, batched)


@pytest.mark.parametrize(
    "cache",
    [
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
        {"prefill_chunk_size": 3},
    ],
)
def test_the_cache_changes_nothing(llama, cache):
    inputs = prompts([9, 9] if "prefill_chunk_size" in cache else [9, 4])
    wanted = sample(llama, inputs, watermarking_config=config_for(ParityScheme()))
    got = sample(llama, inputs, watermarking_config=config_for(ParityScheme()), **cache)
    assert torch.equal(got, wanted)


def test_it_runs_after_the_warpers_and_never_revives_a_removed_token(llama):
    inputs = prompts([6, 3])
    scheme = ParityScheme()
    kwargs = {
        "temperature": 0.8,
        "top_k": 20,
        "top_p": 0.7,
        "repetition_penalty": 1.2,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_logits": True,
    }
    out = sample(llama, inputs, watermarking_config=config_for(scheme), **kwargs)
    for ids in response(out.sequences, inputs):
        assert_marked(ids)
    steps = zip(out.scores[WIDTH:], scheme.laws_seen, strict=True)
    for scores_BV, law_BV in steps:
        if len(law_BV) < 2:
            continue
        kept_BV = torch.isfinite(law_BV)
        assert (kept_BV.sum(dim=1) <= 20).all()
        assert torch.allclose(law_BV.exp().sum(dim=1), torch.ones(2), atol=1e-5)
        assert not torch.isfinite(scores_BV[~kept_BV]).any()
    for step, token_B in enumerate(out.sequences[:, inputs["input_ids"].shape[1] :].T):
        assert torch.isfinite(out.scores[step].gather(1, token_B[:, None])).all()


def test_num_return_sequences_gives_every_sequence_its_own_response(llama):
    inputs = prompts([6, 3])
    scheme = ParityScheme()
    out = sample(llama, inputs, watermarking_config=config_for(scheme), num_return_sequences=3)
    rows = response(out, inputs)
    assert len(rows) == 6 and len({tuple(r) for r in rows}) == 6
    for ids in rows:
        assert_marked(ids)


def test_one_config_serves_many_calls_also_at_the_same_time(llama):
    inputs, other = prompts([6, 3]), prompts([8], seed=5)
    config = config_for(ParityScheme())
    first = sample(llama, inputs, watermarking_config=config)
    sample(llama, other, watermarking_config=config)
    assert torch.equal(sample(llama, inputs, watermarking_config=config), first)
    results = {}

    def work(name, seed):
        results[name] = response(sample(llama, inputs, seed, watermarking_config=config), inputs)

    threads = [threading.Thread(target=work, args=(i, i)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for rows in results.values():
        for ids in rows:
            assert_marked(ids)


def test_finished_rows_are_left_alone_and_the_others_go_on(llama):
    inputs = prompts([5, 5, 5, 5])
    # The padding id lies outside the watermark's vocabulary, as it does when it was added last.
    scheme = ParityScheme(vocab_size=VOCAB - 4)
    out = sample(
        llama,
        inputs,
        seed=2,
        watermarking_config=config_for(scheme),
        eos_token_id=[10, 11, 12, 13],
        pad_token_id=VOCAB - 1,
        max_new_tokens=60,
    )
    rows = response(out, inputs)
    lengths = []
    for row in rows:
        text = [t for t in row if t != VOCAB - 1]
        assert row == text + [VOCAB - 1] * (len(row) - len(text))
        assert all(parity_holds(text))
        lengths.append(len(text))
    assert min(lengths) < max(lengths), "this seed should end the rows at different steps"
    assert all(max(tokens) < VOCAB - 4 for tokens, _ in scheme.rows_seen)
    longest_seen = max(len(tokens) for tokens, _ in scheme.rows_seen)
    assert longest_seen <= max(lengths)


def test_padded_vocabulary_rows_have_probability_zero_at_every_step(llama):
    inputs = prompts([5, 2])
    scheme = ParityScheme(vocab_size=30)
    out = sample(
        llama,
        inputs,
        watermarking_config=config_for(scheme),
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert max(max(row) for row in response(out.sequences, inputs)) < 30
    for scores_BV in out.scores:
        assert (scores_BV[:, 30:] == -torch.inf).all()
        assert torch.isfinite(scores_BV[:, :30]).any(dim=1).all()


def test_inputs_embeds_and_encoder_decoder_prompts(llama):
    inputs = prompts([5, 5])
    embeds = llama.get_input_embeddings()(inputs["input_ids"]).detach()
    out = sample(
        llama,
        {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"]},
        watermarking_config=config_for(ParityScheme()),
    )
    for ids in out.tolist():
        assert_marked(ids)

    torch.manual_seed(0)
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCAB,
            d_model=32,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_decoder_layers=1,
            num_heads=4,
            decoder_start_token_id=PAD,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
    ).eval()
    out = sample(
        t5,
        inputs,
        watermarking_config=config_for(ParityScheme()),
        top_k=0,
        suppress_tokens=[EOS],
    )
    for ids in out[:, 1:].tolist():
        assert_marked(ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_scores_keep_their_dtype(dtype):
    scheme = ParityScheme()
    processor = WatermarkProcessor(scheme)
    ids = torch.tensor([[5, 6]])
    scores = torch.linspace(-3, 3, VOCAB).to(dtype)[None]
    for token in (7, 8, 9):
        out = processor(ids, scores)
        assert out.dtype == dtype and torch.equal(out, scores)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    out = processor(ids, scores)
    assert out.dtype == dtype
    kept_V = torch.arange(VOCAB) % 2 == 0  # 7 + 8 + 9 is even
    assert torch.isfinite(out[0, kept_V]).all() and (out[0, ~kept_V] == -torch.inf).all()
    assert out[0, kept_V].float().exp().sum().item() == pytest.approx(1, abs=0.02)


def test_a_bfloat16_model_works(llama):
    model = copy.deepcopy(llama).to(torch.bfloat16)
    inputs = prompts([6, 3])
    out = sample(model, inputs, watermarking_config=config_for(ParityScheme()))
    for ids in response(out, inputs):
        assert_marked(ids)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("do_sample", [False, True])
def test_beam_search_is_refused_before_the_first_token(llama, do_sample):
    scheme = ParityScheme()
    with pytest.raises(NotImplementedError, match="beam_s"):
        sample(
            llama,
            prompts([4]),
            do_sample=do_sample,
            num_beams=3,
            watermarking_config=config_for(scheme),
        )
    assert not scheme.rows_seen


def test_assisted_decoding_is_refused_before_the_first_token(llama):
    scheme = ParityScheme()
    config = config_for(scheme)
    for extra in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": llama}):
        with pytest.raises(NotImplementedError, match="assisted_generation"):
            sample(llama, prompts([4]), watermarking_config=config, **extra)
    settings_of_an_assistant = transformers.GenerationConfig(
        do_sample=True, watermarking_config=config, is_assistant=True, max_new_tokens=4
    )
    with pytest.raises(NotImplementedError, match="assisted_generation"):
        llama.generate(**prompts([4]), generation_config=settings_of_an_assistant)
    assert not scheme.rows_seen


def test_continuous_batching_is_refused(llama):
    scheme = ParityScheme()
    settings = transformers.GenerationConfig(
        do_sample=True, watermarking_config=config_for(scheme), max_new_tokens=4
    )
    with pytest.raises(NotImplementedError, match="continuous batching"):
        llama.generate_batch([[3, 4, 5]], generation_config=settings)
    with pytest.raises(NotImplementedError, match="continuous batching"):
        sample(
            llama,
            {"input_ids": torch.tensor([[3, 4, 5]])},
            cache_implementation="paged",
            watermarking_config=config_for(scheme),
        )
    with pytest.raises(NotImplementedError, match="continuous batching"):
        WatermarkProcessor(scheme)(torch.tensor([3, 4]), torch.zeros(2, VOCAB))


def test_greedy_decoding_warns_and_changes_nothing(llama):
    inputs = prompts([6, 3])
    scheme = ParityScheme()
    with pytest.warns(UserWarning, match="NOT be marked"):
        out = sample(llama, inputs, do_sample=False, watermarking_config=config_for(scheme))
    assert torch.equal(out, sample(llama, inputs, do_sample=False))
    assert not scheme.rows_seen


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_bare_processor_notices_beams_when_rows_are_shuffled(llama, do_sample):
    processor = WatermarkProcessor(ParityScheme(context_width=8))
    with pytest.raises(NotImplementedError, match="rows changed their order"):
        sample(
            llama,
            prompts([4]),
            do_sample=do_sample,
            num_beams=4,
            max_new_tokens=40,
            logits_processor=[processor],
        )


def test_a_bare_processor_notices_assisted_decoding(llama, gpt2):
    processor = WatermarkProcessor(ParityScheme(context_width=8))
    with pytest.raises(NotImplementedError, match="rows went back"):
        sample(
            llama,
            prompts([4]),
            assistant_model=gpt2,
            max_new_tokens=40,
            logits_processor=[processor],
        )


def _step(processor, ids):
    return processor(torch.tensor(ids), torch.zeros(len(ids), VOCAB))


def test_rows_that_change_within_a_generation_are_refused():
    single = WatermarkProcessor(ParityScheme(), single_generation=True)
    _step(single, [[5, 6], [7, 8]])
    _step(single, [[5, 6, 1], [7, 8, 2]])
    with pytest.raises(NotImplementedError, match="number of rows changed from 2 to 1"):
        _step(single, [[5, 6, 1, 3]])
    with pytest.raises(NotImplementedError, match="changed their order"):
        _step(single, [[7, 8, 2, 3], [5, 6, 1, 3]])
    with pytest.raises(NotImplementedError, match="do not continue"):
        _step(single, [[5, 6], [7, 8]])
    with pytest.raises(NotImplementedError, match="do not continue"):
        _step(single, [[5, 6, 1, 3, 3], [7, 8, 2, 3, 3]])
    _step(single, [[5, 6, 1, 4], [7, 8, 2, 4]])  # a refusal changes no state
    assert [t.tokens for t in single.trackers] == [[1, 4], [2, 4]]


def test_interleaved_generations_on_one_processor_are_refused():
    processor = WatermarkProcessor(ParityScheme())
    _step(processor, [[5, 6], [7, 8]])
    _step(processor, [[9, 9, 9]])
    with pytest.raises(NotImplementedError, match="interleaved"):
        _step(processor, [[5, 6, 1], [7, 8, 1]])
    processor.reset()
    _step(processor, [[5, 6, 1], [7, 8, 1]])


def test_a_bare_processor_starts_over_with_a_new_generate(llama):
    inputs, other = prompts([6, 3]), prompts([8], seed=5)
    processor = WatermarkProcessor(ParityScheme())
    first = sample(llama, inputs, logits_processor=[processor])
    assert torch.equal(sample(llama, inputs, logits_processor=[processor]), first)
    for ids in response(sample(llama, other, logits_processor=[processor]), other):
        assert_marked(ids)
    # The whole output with a new question behind it as the next prompt.
    longer = {"input_ids": torch.cat([first, torch.tensor([[9, 9], [8, 8]])], dim=1)}
    for ids in response(sample(llama, longer, logits_processor=[processor]), longer):
        assert_marked(ids)
    assert all(len(t.tokens) < 24 for t in processor.trackers)


def test_a_warper_inside_a_bare_processor(llama):
    inputs = prompts([6, 3])

    def warp(logits_BV):
        assert logits_BV.dtype == torch.float32
        scaled_BV = logits_BV / 0.5
        floor_B1 = scaled_BV.topk(6, dim=-1).values[:, -1:]
        return torch.log_softmax(scaled_BV.masked_fill(scaled_BV < floor_B1, -torch.inf), dim=-1)

    processor = WatermarkProcessor(ParityScheme(), warper=warp)
    got = sample(llama, inputs, logits_processor=[processor], top_k=0)
    wanted = sample(
        llama, inputs, watermarking_config=config_for(ParityScheme()), temperature=0.5, top_k=6
    )
    assert torch.equal(got, wanted)


# --- bad numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "row 1 .* NaN"), (float("inf"), r"row 1 .* \+inf")],
)
def test_scores_that_are_no_logits_name_their_row(value, message):
    scores = torch.zeros(3, VOCAB)
    scores[1, 4] = value
    with pytest.raises(ValueError, match=message):
        WatermarkProcessor(ParityScheme())(torch.full((3, 2), 5), scores)


def test_a_row_without_any_token_left_names_itself():
    scores = torch.zeros(3, VOCAB)
    scores[2, :40] = -torch.inf
    processor = WatermarkProcessor(ParityScheme(vocab_size=40))
    with pytest.raises(ValueError, match=r"row 2 .* -inf for all of the 40"):
        processor(torch.full((3, 2), 5), scores)


def test_shapes_and_vocabularies_that_do_not_fit(llama):
    processor = WatermarkProcessor(ParityScheme())
    with pytest.raises(ValueError, match=r"got \[2, 4\] and \[3, 48\]"):
        processor(torch.full((2, 4), 5), torch.zeros(3, VOCAB))
    with pytest.raises(ValueError, match="scores 20 token ids"):
        processor(torch.full((2, 4), 5), torch.zeros(2, 20))
    with pytest.raises(ValueError, match="scores 48 token ids"):
        sample(llama, prompts([3]), watermarking_config=config_for(ParityScheme(vocab_size=64)))
    with pytest.raises(TypeError, match="has no vocab_size"):
        WatermarkingConfig(object(), key_id="k").validate()


# --- the configuration object -------------------------------------------------------------------


def test_copies_share_the_scheme():
    config = config_for(ParityScheme())
    settings = transformers.GenerationConfig(do_sample=True, watermarking_config=config)
    assert copy.deepcopy(settings).watermarking_config.scheme is config.scheme
    assert copy.copy(config).scheme is config.scheme


def test_nothing_that_is_written_or_printed_contains_the_key(llama, tmp_path):
    config = config_for(ParityScheme())
    settings = transformers.GenerationConfig(do_sample=True, watermarking_config=config)
    settings.save_pretrained(tmp_path / "settings")
    model = copy.deepcopy(llama)
    model.generation_config = settings
    model.save_pretrained(tmp_path / "model")
    config.to_json_file(tmp_path / "config.json")
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(written) >= 4
    for path in written:
        assert SECRET.encode() not in path.read_bytes()
    for text in (repr(config), str(settings), settings.to_json_string(), str(dict(config))):
        assert SECRET not in text
    saved = json.loads((tmp_path / "settings" / "generation_config.json").read_text())
    assert saved["watermarking_config"] == {
        "watermark": "WatermarkingConfig",
        "key_id": "k-1234",
        "vocab_size": VOCAB,
        "context_width": WIDTH,
        "warmup": WIDTH,
        "scheme": "parity",
    }
    # A file without the key must not load as if it were a watermark (or as if there were none).
    with pytest.raises(TypeError):
        transformers.GenerationConfig.from_pretrained(tmp_path / "settings")
    with pytest.raises(ValueError, match="k-1234"):
        WatermarkingConfig.from_dict(saved["watermarking_config"])


def test_the_config_works_from_a_models_own_settings_and_after_pickling(llama):
    inputs = prompts([6, 3])
    wanted = sample(llama, inputs, watermarking_config=config_for(ParityScheme()))
    model = copy.deepcopy(llama)
    model.generation_config.watermarking_config = pickle.loads(
        pickle.dumps(config_for(ParityScheme()))
    )
    assert torch.equal(sample(model, inputs), wanted)


def test_different_keys_make_different_generation_settings():
    a, b = (
        transformers.GenerationConfig(
            watermarking_config=WatermarkingConfig(ParityScheme(), key_id=key)
        )
        for key in ("k-1", "k-2")
    )
    assert a != b and hash(a) != hash(b)


def test_outside_of_generate_the_config_builds_a_processor():
    processor = config_for(ParityScheme()).construct_processor(VOCAB, "cpu")
    assert isinstance(processor, WatermarkProcessor)


# --- any schedule of rows -----------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    batch=st.integers(1, 4),
    width=st.integers(1, 4),
    extra_warmup=st.integers(-1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_one_processor_over_many_generations_follows_the_scoring_rule(
    lengths, batch, width, extra_warmup, seed
):
    """Exactly the positions that `distinct_contexts` scores are handed over, with that context."""
    rng = np.random.default_rng(seed)
    scheme = ParityScheme(vocab_size=6, context_width=width, warmup=max(0, width + extra_warmup))
    processor = WatermarkProcessor(scheme)
    for number, length in enumerate(lengths):
        prompt = np.full((batch, 3), 10 + number)  # never the continuation of another one
        text = rng.integers(0, 6, (batch, length))
        expected = []
        for t in range(length + 1):
            scheme.rows_seen.clear()
            ids = torch.from_numpy(np.concatenate([prompt, text[:, :t]], axis=1))
            processor(ids, torch.zeros(batch, 8))
            expected = []
            for row in range(batch):
                so_far = [*text[row, :t].tolist(), 0]
                contexts_Tc, scored_T = distinct_contexts(so_far, width, scheme.warmup)
                if scored_T[-1]:
                    expected.append((tuple(so_far[:-1]), tuple(contexts_Tc[-1].tolist())))
            assert scheme.rows_seen == expected
