"""The watermark inside real `generate()` calls of a small trained language model."""

import base64
import copy
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from modicum.core.watermark import CausalLMAnchor, Warper  # noqa: E402
from modicum.core.watermark.adapters.tiny_lm import load_tiny  # noqa: E402
from modicum.core.watermark.adapters.transformers import WatermarkingConfig  # noqa: E402
from modicum.umpwatermark.agnostic import greedy_law  # noqa: E402
from modicum.umpwatermark.config import UMPWatermarkConfig  # noqa: E402
from modicum.umpwatermark.detector import UMPWatermarkDetector  # noqa: E402
from modicum.umpwatermark.integrations.transformers import (  # noqa: E402
    UMPWatermarkingConfig,
    UMPWatermarkLogitsProcessor,
    score_token_logprobs,
)
from modicum.umpwatermark.scheme import UMPWatermarkScheme  # noqa: E402
from modicum.umpwatermark.uniforms import make_uniforms  # noqa: E402

KEY = b"a key of thirty-two random bytes"
LENGTHS = (3, 12, 1, 7, 5, 9, 2, 12)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small only wait for one another's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny():
    model, tokenizer = load_tiny(device="cpu")
    # Nothing implicit: a full law, and responses of full length unless a test asks otherwise.
    model.generation_config = transformers.GenerationConfig(
        top_k=0, pad_token_id=0, eos_token_id=None
    )
    return model, tokenizer


@pytest.fixture(scope="module")
def model(tiny):
    return tiny[0]


@pytest.fixture(scope="module")
def exact_model(model):
    """The model in float64: padding, batching and caching then change no sampled token."""
    return copy.deepcopy(model).to(torch.float64)


@pytest.fixture(scope="module")
def config(model):
    return UMPWatermarkConfig(key=KEY, vocab_size=model.config.vocab_size)


@pytest.fixture(scope="module")
def prompts(tiny):
    """Left-padded prompts cut from a sentence, and their attention mask."""
    _, tokenizer = tiny
    ids = tokenizer.encode("The miller of Silverdale walked to the old bridge before supper. " * 4)
    ids_BL = torch.zeros((len(LENGTHS), max(LENGTHS)), dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, length in enumerate(LENGTHS):
        ids_BL[row, -length:] = torch.tensor(ids[row : row + length])
        mask_BL[row, -length:] = 1
    return {"input_ids": ids_BL, "attention_mask": mask_BL}


def generate(model, inputs, watermark=None, seed=1, **kwargs):
    torch.manual_seed(seed)
    kwargs = {"do_sample": True, "max_new_tokens": 60, **kwargs}
    return model.generate(**inputs, watermarking_config=watermark, **kwargs)


def responses(out_BL, inputs):
    return out_BL[:, inputs["input_ids"].shape[1] :]


# --- token for token -----------------------------------------------------------------------------


def keyed_law(config, log_q_V, context):
    """The law of one token given the key, written down again without scheme and samplers."""
    uniforms = make_uniforms(config)
    u_V = uniforms.uniforms(uniforms.context_state(np.array([context])), config.vocab_size)[0]
    q_V = np.exp(log_q_V.astype(np.float64))
    q_V /= q_V.sum()
    if config.sampler == "greenlist":
        return greedy_law(q_V[None], u_V[None] > 1 - config.gamma, config.gamma)[0]
    if config.sampler == "gumbel":
        with np.errstate(divide="ignore"):
            chosen = int(np.argmax(np.log(u_V) / q_V))
    else:
        order, left = np.argsort(-q_V, kind="stable"), 1.0
        chosen = int(order[q_V[order] > 0][-1])
        for token in order:
            if u_V[token] > 1 - q_V[token] / left:
                chosen = int(token)
                break
            left -= q_V[token]
    return np.eye(config.vocab_size)[chosen]


@pytest.mark.parametrize(
    ("changes", "kwargs"),
    [
        ({}, {}),
        ({"context_width": 1}, {"temperature": 0.7, "top_k": 50, "top_p": 0.9}),
        ({"sampler": "hazard"}, {"temperature": 0.8, "top_p": 0.95}),
        ({"sampler": "greenlist", "gamma": 0.3}, {}),
        ({"prf": "vllm-philox", "key": 42}, {"min_p": 0.02}),
    ],
)
def test_equals_a_plain_loop_with_the_same_draws(exact_model, config, prompts, changes, kwargs):
    """The loop knows no padding, no cache, no adapter and no scheme.

    Contexts, warm-up and repetition are followed anew; private draws are taken from torch in the
    order of `generate`.
    """
    steps = 16
    config = config.replace(**({"warmup": None} | changes))
    width, V = config.context_width, config.vocab_size
    warper = Warper(**kwargs)
    texts = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(prompts["input_ids"], prompts["attention_mask"], strict=True)
    ]
    written = [[-1] * width for _ in texts]
    seen = [set() for _ in texts]
    repeated = 0
    torch.manual_seed(5)
    for step in range(steps):
        with torch.no_grad():
            logits_BV = torch.cat([exact_model(torch.tensor([t])).logits[:, -1] for t in texts])
        law_BV = warper(logits_BV.float()).softmax(dim=-1)
        for row, response in enumerate(written):
            context = tuple(response[-width:])
            repeated += context in seen[row]
            if step >= config.warmup and context not in seen[row]:
                seen[row].add(context)
                keyed_V = keyed_law(
                    config, warper(logits_BV[row : row + 1].float())[0].numpy(), context
                )
                law_BV[row] = torch.from_numpy(keyed_V).float()
        assert law_BV.shape == (len(LENGTHS), V)
        tokens = torch.multinomial(law_BV, num_samples=1)[:, 0].tolist()
        for token, text, response in zip(tokens, texts, written, strict=True):
            text.append(token)
            response.append(token)
    assert repeated or width > 1
    for use_cache in (True, False) if not changes else (True,):
        got = generate(
            exact_model,
            prompts,
            config.for_transformers(),
            seed=5,
            max_new_tokens=steps,
            use_cache=use_cache,
            **kwargs,
        )
        assert responses(got, prompts).tolist() == [response[width:] for response in written]


@pytest.mark.parametrize("sampler", ["gumbel", "hazard"])
def test_the_key_alone_decides_from_the_first_marked_token_on(
    exact_model, config, prompts, sampler
):
    """Without a warm-up no draw of torch is left, until a context comes again."""
    config = config.replace(sampler=sampler, warmup=0)
    texts = {
        tuple(
            map(
                tuple,
                responses(
                    generate(
                        exact_model, prompts, config.for_transformers(), seed=s, max_new_tokens=12
                    ),
                    prompts,
                ).tolist(),
            )
        )
        for s in range(3)
    }
    assert len(texts) == 1
    (rows,) = texts
    for row in rows:
        contexts = [((-1,) * 4 + row)[t : t + 4] for t in range(len(row))]
        assert len(set(contexts)) == len(contexts)


def test_a_row_is_the_same_alone_and_in_a_batch(exact_model, config, prompts):
    """Left padding and neighbours change nothing; no warm-up, so torch's draws play no part."""
    watermark = config.replace(warmup=0, context_width=8).for_transformers()
    batched = responses(generate(exact_model, prompts, watermark, max_new_tokens=30), prompts)
    for row in (0, 2, 7):
        length = LENGTHS[row]
        alone = {name: value[row : row + 1, -length:] for name, value in prompts.items()}
        out = generate(exact_model, alone, watermark, seed=9, max_new_tokens=30)
        assert torch.equal(out[0, length:], batched[row])


def test_num_return_sequences_go_on_alike_where_contexts_agree(exact_model, config, prompts):
    """Sequences of a prompt differ in their warm-up; who shares a context shares the token."""
    few = {name: value[:2] for name, value in prompts.items()}
    out = generate(exact_model, few, config.for_transformers(), num_return_sequences=5)
    rows = responses(out, few)
    assert len(rows) == 10
    assert len({tuple(row[:4].tolist()) for row in rows}) > 5
    free = generate(
        exact_model, few, config.replace(warmup=0).for_transformers(), num_return_sequences=5
    )
    alike = responses(free, few)[:, :4].reshape(2, 5, 4)
    assert (alike == alike[:, :1]).all()


def test_the_stand_alone_processor_with_its_own_warper_is_the_same(exact_model, config, prompts):
    draws = {"seed": 8, "max_new_tokens": 30}
    wanted = generate(
        exact_model, prompts, config.for_transformers(), temperature=0.7, top_p=0.9, **draws
    )
    processor = UMPWatermarkLogitsProcessor(config, warper=Warper(temperature=0.7, top_p=0.9))
    for _ in range(2):
        got = generate(exact_model, prompts, logits_processor=[processor], **draws)
        assert torch.equal(got, wanted)


# --- what the text is worth ----------------------------------------------------------------------


class OneKeyPerRow:
    """Marks each row of a batch with a key of its own."""

    def __init__(self, config):
        self.vocab_size, self.context_width = config.vocab_size, config.context_width
        self.warmup = config.warmup
        self.config = config
        self.schemes = {}

    def new_tracker(self):
        number = len(self.schemes)
        scheme = UMPWatermarkScheme(self.config.replace(key=number.to_bytes(32, "big")))
        tracker = scheme.new_tracker()
        self.schemes[id(tracker)] = tracker, scheme
        return tracker

    def transform(self, logprobs_BV, trackers):
        return torch.cat(
            [
                self.schemes[id(tracker)][1].transform(logprobs_BV[row : row + 1], [tracker])
                for row, tracker in enumerate(trackers)
            ]
        )


@pytest.mark.parametrize(
    ("changes", "kwargs"),
    [
        ({}, {}),
        ({"sampler": "hazard"}, {"temperature": 0.8, "top_k": 40}),
        ({"sampler": "greenlist"}, {}),
        ({"sampler": "ump-aware"}, {}),
    ],
)
def test_over_keys_a_token_has_the_law_of_the_model(model, config, prompts, changes, kwargs):
    """Chi-square of the first token of 700 keys; wrong with probability 1e-7 per case."""
    from scipy.stats import chi2

    keys = 700
    if changes.get("sampler") == "ump-aware":
        changes = changes | {"surrogate": CausalLMAnchor(load_tiny("anchor", device="cpu")[0])}
    scheme = OneKeyPerRow(config.replace(warmup=0, **changes))
    many = {name: value[1:2].repeat(keys, 1) for name, value in prompts.items()}
    out = generate(model, many, WatermarkingConfig(scheme, key_id="x"), max_new_tokens=1, **kwargs)
    tokens = responses(out, many)[:, 0].numpy()
    with torch.no_grad():
        logits_1V = model(prompts["input_ids"][1:2]).logits[:, -1]
    law_V = Warper(**kwargs)(logits_1V)[0].double().exp().numpy()
    expected_V, seen_V = keys * law_V, np.bincount(tokens, minlength=len(law_V))
    assert seen_V[law_V == 0].sum() == 0
    large_V = expected_V >= 10
    expected = np.append(expected_V[large_V], expected_V[~large_V].sum())
    seen = np.append(seen_V[large_V], seen_V[~large_V].sum())
    expected, seen = expected[expected > 0], seen[expected > 0]
    assert len(expected) > 5
    statistic = ((seen - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, len(expected) - 1) > 1e-7


def test_no_token_that_a_warper_removed_is_emitted(model, config, prompts):
    kwargs = {"temperature": 0.9, "top_k": 30, "top_p": 0.8, "min_p": 0.02}
    for sampler in ("gumbel", "hazard", "greenlist"):
        out = generate(
            model,
            prompts,
            config.replace(sampler=sampler).for_transformers(),
            return_dict_in_generate=True,
            output_logits=True,
            max_new_tokens=25,
            **kwargs,
        )
        warper = Warper(**kwargs)
        for t, token_B in enumerate(responses(out.sequences, prompts).T):
            law_BV = warper(out.logits[t])
            assert torch.isfinite(law_BV.gather(1, token_B[:, None])).all()


def test_a_bfloat16_model_and_responses_that_end_early(model, config, prompts):
    half = copy.deepcopy(model).to(torch.bfloat16)
    plain = responses(generate(model, prompts), prompts)
    end = torch.bincount(plain.flatten()).argsort(descending=True)[10:20].tolist()
    out = generate(half, prompts, config.for_transformers(), eos_token_id=end, pad_token_id=0)
    lengths = set()
    for row in responses(out, prompts).tolist():
        stops = [t for t, token in enumerate(row) if token in end]
        cut = stops[0] + 1 if stops else len(row)
        assert set(row[cut:]) <= {0}
        lengths.add(cut)
    assert len(lengths) > 3


# --- what it is for: marked text is found, plain text is not -------------------------------------


@pytest.mark.parametrize("sampler", ["gumbel", "hazard"])
def test_marked_responses_are_found_with_and_without_the_model(
    exact_model, config, prompts, sampler
):
    """In float64 the same seed writes the same text on every machine: the marked half is fixed.

    A p-value of plain text, or of another key, lies below 1e-8 with probability 1e-8: 32 of them,
    3.2e-7 in all.
    """
    config = config.replace(sampler=sampler)
    law = {"temperature": 0.9, "top_p": 0.95}
    size = {"max_new_tokens": 120, **law}
    texts = {
        "marked": generate(exact_model, prompts, config.for_transformers(), **size),
        "plain": generate(exact_model, prompts, **size),
    }
    detector = UMPWatermarkDetector(config, alpha=1e-3)
    other = UMPWatermarkDetector(config.replace(key=b"another key of 32 random bytes.."))
    p_values = {}
    for name, out_BL in texts.items():
        for row, ids in enumerate(responses(out_BL, prompts)):
            prompt = prompts["input_ids"][row][prompts["attention_mask"][row].bool()]
            logprobs = score_token_logprobs(exact_model, prompt, ids, **law)
            for reader, who in ((detector, name), (other, "other key")):
                found = reader.detect_logprobs(ids, logprobs).p_value[0]
                p_values.setdefault((who, "model"), []).append(found)
            p_values.setdefault((name, "alone"), []).append(detector(ids).p_value[0])
    assert max(p_values["marked", "model"]) < 1e-3
    assert max(p_values["marked", "alone"]) < (1e-3 if sampler == "gumbel" else 1.0)
    # Half as much evidence again, at least, out of the same text.
    informed, blind = (np.log(p_values["marked", how]).sum() for how in ("model", "alone"))
    assert informed < 1.5 * blind
    for who in (("plain", "model"), ("plain", "alone"), ("other key", "model")):
        assert min(p_values[who]) > 1e-8


# --- refusals, secrets, errors -------------------------------------------------------------------


def test_what_cannot_be_marked_is_refused_or_said(model, config, prompts):
    watermark = config.for_transformers()
    with pytest.raises(NotImplementedError, match="beam_sample"):
        generate(model, prompts, watermark, num_beams=2)
    with pytest.raises(NotImplementedError, match="beam_search"):
        generate(model, prompts, watermark, num_beams=2, do_sample=False)
    with pytest.raises(NotImplementedError, match="assisted_generation"):
        generate(model, prompts, watermark, prompt_lookup_num_tokens=3)
    with pytest.warns(UserWarning, match="NOT be marked"):
        greedy = generate(model, prompts, watermark, do_sample=False, max_new_tokens=8)
    assert torch.equal(greedy, generate(model, prompts, do_sample=False, max_new_tokens=8))


def test_the_key_is_in_no_file_and_no_printout(config, tmp_path):
    anchor = CausalLMAnchor(load_tiny("anchor", device="cpu")[0])
    aware = config.replace(sampler="ump-aware", surrogate=anchor)
    watermark = aware.for_transformers()
    assert isinstance(watermark, UMPWatermarkingConfig)
    settings = transformers.GenerationConfig(do_sample=True, watermarking_config=watermark)
    settings.save_pretrained(tmp_path)
    written = (tmp_path / "generation_config.json").read_text()
    assert aware.key_id in written and anchor.fingerprint in written
    spellings = (
        KEY.decode(),
        KEY.hex(),
        base64.b64encode(KEY).decode(),
        str(int.from_bytes(KEY, "big")),
        ", ".join(map(str, KEY)),
    )
    for text in (written, repr(watermark), str(settings), repr(vars(watermark)["public"])):
        squeezed = " ".join(text.split())
        assert not any(s in squeezed for s in spellings)
    assert copy.deepcopy(settings).watermarking_config.scheme is watermark.scheme


def test_padded_output_rows_of_the_model_get_no_probability(model, prompts):
    vocab_size = model.config.vocab_size - 40
    few = {name: value[:2].clamp(max=vocab_size - 1) for name, value in prompts.items()}
    config = UMPWatermarkConfig(key=KEY, vocab_size=vocab_size)
    out = responses(generate(model, few, config.for_transformers(), max_new_tokens=60), few)
    assert int(out.max()) < vocab_size


def test_errors_speak_to_the_caller(model, config, prompts):
    too_wide = UMPWatermarkConfig(key=KEY, vocab_size=model.config.vocab_size + 1)
    with pytest.raises(ValueError, match=f"scores {model.config.vocab_size} token ids"):
        generate(model, prompts, too_wide.for_transformers())
    for build in (UMPWatermarkingConfig, UMPWatermarkLogitsProcessor):
        with pytest.raises(TypeError, match="must be a UMPWatermarkConfig, got dict"):
            build({"key": KEY})


def test_without_transformers_the_error_names_the_extra():
    for absent in ("transformers", "torch"):
        code = (
            f"import sys; sys.modules[{absent!r}] = None\n"
            "import modicum.umpwatermark.integrations.transformers"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert run.returncode == 1
        assert 'pip install "modicum-umpwatermark[transformers]"' in run.stderr


# --- log-probabilities of a text -----------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs", [{}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 20, "min_p": 0.05}]
)
def test_scores_are_those_of_the_laws_that_were_sampled_from(exact_model, prompts, kwargs):
    one = {name: value[1:2] for name, value in prompts.items()}
    out = generate(
        exact_model,
        one,
        return_dict_in_generate=True,
        output_logits=True,
        max_new_tokens=20,
        **kwargs,
    )
    response = responses(out.sequences, one)[0]
    laws_TV = Warper(**kwargs)(torch.cat(out.logits))
    wanted = laws_TV.gather(1, response[:, None])[:, 0].double().numpy()
    got = score_token_logprobs(exact_model, one["input_ids"][0], response, **kwargs)
    assert got.dtype == np.float64 and got.shape == (20,)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_scores_without_a_prompt_in_blocks_and_of_short_texts(model, monkeypatch):
    from modicum.umpwatermark.integrations import transformers as module

    ids = [5, 90, 700, 33, 8]
    free = score_token_logprobs(model, [], ids)
    assert free[0] == 0.0
    np.testing.assert_allclose(free[1:], score_token_logprobs(model, ids[:1], ids[1:]), atol=1e-6)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * model.config.vocab_size)
    np.testing.assert_array_equal(score_token_logprobs(model, [], ids), free)
    assert score_token_logprobs(model, [], [7]).tolist() == [0.0]
    assert score_token_logprobs(model, [3], []).shape == (0,)
    assert len(score_token_logprobs(model, [3], [7])) == 1


def test_scores_over_a_smaller_vocabulary_are_larger(model):
    ids = [5, 90, 700, 33, 8]
    whole = score_token_logprobs(model, [2], ids)
    cut = score_token_logprobs(model, [2], ids, vocab_size=1000)
    assert (cut > whole).all() and (cut <= 0).all()
    assert score_token_logprobs(model, [2], [5, 90], top_k=1).tolist() == [-np.inf, -np.inf]


def test_scores_refuse_what_makes_no_sense(model):
    with pytest.raises(ValueError, match="outside the vocabulary of 1000"):
        score_token_logprobs(model, [2], [1000], vocab_size=1000)
    with pytest.raises(ValueError, match="outside the vocabulary of 2048"):
        score_token_logprobs(model, [2], [2048])
    with pytest.raises(ValueError, match="temperature must be"):
        score_token_logprobs(model, [2], [3], temperature=0.0)
    with pytest.raises(TypeError, match="must be integers"):
        score_token_logprobs(model, [2], [3.5])
