"""The watermark inside real `generate()` calls of a small trained language model."""

import base64
import copy
import math
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from modicum.core.watermark import CausalLMAnchor, Warper  # noqa: E402
from modicum.core.watermark.adapters.tiny_lm import load_tiny  # noqa: E402
from modicum.core.watermark.adapters.transformers import WatermarkingConfig  # noqa: E402
from modicum.ewatermark import EWatermarkConfig, EWatermarkDetector, EWatermarkScheme  # noqa: E402
from modicum.ewatermark.integrations.transformers import (  # noqa: E402
    EWatermarkingConfig,
    EWatermarkLogitsProcessor,
)

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
    return EWatermarkConfig(key=KEY, vocab_size=model.config.vocab_size)


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
    kwargs = {"do_sample": True, "max_new_tokens": 150, **kwargs}
    return model.generate(**inputs, watermarking_config=watermark, **kwargs)


def responses(out_BL, inputs):
    return out_BL[:, inputs["input_ids"].shape[1] :]


def sample_row_by_row(monkeypatch, rows):
    """Replace the sampler by one whose noise depends on (row, step) only, not on the batch."""
    steps = iter(range(10_000))

    def multinomial(probs_BV, num_samples):
        assert num_samples == 1
        step = next(steps)
        noise_BV = torch.stack(
            [
                torch.empty(probs_BV.shape[1]).exponential_(
                    generator=torch.Generator().manual_seed(1000 * row + step)
                )
                for row in rows
            ]
        )
        return (probs_BV / noise_BV).argmax(dim=-1, keepdim=True)

    monkeypatch.setattr(torch, "multinomial", multinomial)


def assert_many_matches(config, rows):
    """Unmarked positions match with probability 1/16: twice that in a thousand is 8 sigma up.

    Marked ones match with probability 1 - TV, about 0.35 here: 2/16 is as far away from below.
    """
    out = EWatermarkDetector(config)(rows)
    assert out.num_tokens_scored.sum() > 1000
    assert out.num_matches.sum() > 2 / 16 * out.num_tokens_scored.sum()


# --- what it is for: marked text is found, plain text is not -------------------------------------


@pytest.fixture(scope="module")
def anchored(model):
    """A configuration whose anchor is a language model."""
    anchor = CausalLMAnchor(load_tiny("anchor", device="cpu")[0], window=20)
    return EWatermarkConfig(key=KEY, vocab_size=model.config.vocab_size, anchor=anchor)


@pytest.mark.parametrize(
    ("which", "kwargs"),
    [
        ("config", {}),
        ("config", {"temperature": 1.2, "top_k": 40, "repetition_penalty": 1.1}),
        ("anchored", {"temperature": 0.8, "top_p": 0.95}),
    ],
)
def test_every_marked_response_of_a_batch_is_found_and_no_plain_one(
    exact_model, prompts, which, kwargs, request
):
    """Read from the response ids alone.

    Marked: in float64 the same seed writes the same text on every machine, so nothing is left to
    chance. A plain row, or one read with another key, gets ``p <= alpha`` with probability at most
    alpha over keys: 16 rows, 8e-7 in all.
    """
    config = request.getfixturevalue(which)
    detector = EWatermarkDetector(config, alpha=1e-3)
    marked = responses(generate(exact_model, prompts, config.for_transformers(), **kwargs), prompts)
    plain = responses(generate(exact_model, prompts, **kwargs), prompts)
    assert detector(marked).prediction.all()
    assert (detector(plain).p_value > 5e-8).all()
    other_key = EWatermarkDetector(config.replace(key=b"another key of 32 random bytes.."))
    assert (other_key(marked).p_value > 5e-8).all()


def test_num_return_sequences(exact_model, config, prompts):
    out = generate(exact_model, prompts, config.for_transformers(), num_return_sequences=2)
    detector = EWatermarkDetector(config, alpha=1e-3)
    assert len(out) == 2 * len(LENGTHS)
    assert detector(responses(out, prompts)).prediction.all()


def test_responses_that_end_early(model, config, prompts):
    """Ended rows are padded; what stands before the padding is marked."""
    frequent = torch.bincount(
        responses(generate(model, prompts), prompts).flatten(), minlength=8
    ).argsort(descending=True)
    end = frequent[20:23].tolist()  # ends most of the rows within the limit, at different steps
    inputs = {name: value.repeat(3, 1) for name, value in prompts.items()}
    out = generate(
        model, inputs, config.for_transformers(), eos_token_id=end, pad_token_id=0, seed=4
    )
    rows = []
    for row in responses(out, inputs).tolist():
        stops = [t for t, token in enumerate(row) if token in end]
        cut = stops[0] + 1 if stops else len(row)
        assert set(row[cut:]) <= {0}
        rows.append(row[:cut])
    lengths = {len(row) for row in rows}
    assert len(lengths) > 3 and max(lengths) > 30
    assert_many_matches(config, rows)


def test_a_bfloat16_model(model, config, prompts):
    half = copy.deepcopy(model).to(torch.bfloat16)
    out = responses(generate(half, prompts, config.for_transformers()), prompts)
    assert_many_matches(config, out)


# --- token for token -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_groups", "kwargs"), [(16, {}), (2, {"temperature": 0.7, "top_k": 50, "top_p": 0.9})]
)
def test_equals_a_plain_loop_with_the_same_draws(exact_model, config, prompts, num_groups, kwargs):
    """The loop knows no padding, no cache and no adapter: one forward pass per row and token."""
    steps = 30
    config = config.replace(num_groups=num_groups)
    scheme = EWatermarkScheme(config)
    warper = Warper(**kwargs)
    trackers = [scheme.new_tracker() for _ in LENGTHS]
    texts = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(prompts["input_ids"], prompts["attention_mask"], strict=True)
    ]
    torch.manual_seed(5)
    for _ in range(steps):
        with torch.no_grad():
            logits_BV = torch.cat([exact_model(torch.tensor([t])).logits[:, -1] for t in texts])
        law_BV = scheme.transform(warper(logits_BV.float()), trackers)
        tokens = torch.multinomial(law_BV.softmax(dim=-1), num_samples=1)[:, 0].tolist()
        for token, text, tracker in zip(tokens, texts, trackers, strict=True):
            text.append(token)
            tracker.push(token)
    for use_cache in (True, False):
        got = generate(
            exact_model,
            prompts,
            config.for_transformers(),
            seed=5,
            max_new_tokens=steps,
            use_cache=use_cache,
            **kwargs,
        )
        assert responses(got, prompts).tolist() == [text[-steps:] for text in texts]


def test_a_row_is_the_same_alone_and_in_a_batch(exact_model, config, prompts, monkeypatch):
    """Left padding and neighbours change nothing."""
    watermark = config.for_transformers()
    with monkeypatch.context() as patch:
        sample_row_by_row(patch, range(len(LENGTHS)))
        batched = responses(generate(exact_model, prompts, watermark, max_new_tokens=50), prompts)
    for row in (0, 2, 7):
        length = LENGTHS[row]
        alone = {name: value[row : row + 1, -length:] for name, value in prompts.items()}
        with monkeypatch.context() as patch:
            sample_row_by_row(patch, [row])
            out = generate(exact_model, alone, watermark, max_new_tokens=50)
        assert torch.equal(out[0, length:], batched[row])


def test_the_stand_alone_processor_with_its_own_warper_is_the_same(exact_model, config, prompts):
    draws = {"seed": 8, "max_new_tokens": 40}
    wanted = generate(
        exact_model, prompts, config.for_transformers(), temperature=0.7, top_p=0.9, **draws
    )
    processor = EWatermarkLogitsProcessor(config, warper=Warper(temperature=0.7, top_p=0.9))
    for _ in range(2):
        got = generate(exact_model, prompts, logits_processor=[processor], **draws)
        assert torch.equal(got, wanted)


# --- what the text is worth ----------------------------------------------------------------------


def _nll(model, out_BL, inputs):
    """Return each row's mean negative log-likelihood per token under the unmarked target."""
    ids_BT = responses(out_BL, inputs)
    mask_BL = torch.cat([inputs["attention_mask"], torch.ones_like(ids_BT)], dim=1)
    position_BL = (mask_BL.cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(out_BL, attention_mask=mask_BL, position_ids=position_BL).logits
    law = torch.log_softmax(logits[:, -ids_BT.shape[1] - 1 : -1].double(), dim=-1)
    return -law.gather(2, ids_BT[:, :, None])[:, :, 0].mean(dim=1).numpy()


class OneKeyPerGroup:
    """Marks each group of rows of a batch with a key of its own."""

    def __init__(self, config, rows_per_key):
        self.vocab_size = config.vocab_size
        self.context_width = config.context_width
        self.warmup = config.warmup
        self.config = config
        self.rows_per_key = rows_per_key
        self.keyed = []  # tracker and its key's scheme, in the order of the rows

    def new_tracker(self):
        number = len(self.keyed) // self.rows_per_key
        if len(self.keyed) % self.rows_per_key == 0:
            scheme = EWatermarkScheme(self.config.replace(key=number.to_bytes(32, "big")))
        else:
            scheme = self.keyed[-1][1]
        self.keyed.append((scheme.new_tracker(), scheme))
        return self.keyed[-1][0]

    def transform(self, logprobs_BV, trackers):
        out_BV = logprobs_BV.clone()
        scheme_of = {id(tracker): scheme for tracker, scheme in self.keyed}
        rows_of = {}
        for row, tracker in enumerate(trackers):
            rows_of.setdefault(scheme_of[id(tracker)], []).append(row)
        for scheme, rows in rows_of.items():
            out_BV[rows] = scheme.transform(logprobs_BV[rows], [trackers[r] for r in rows])
        return out_BV


def test_the_text_is_as_likely_as_unmarked_text(model, config, prompts):
    """Equal means over 20 keys within 8 standard errors; a bias is seen to be distortion.

    The unit is the mean of one key's rows, so that rows under one key need not be independent. By
    Student's t with at least 19 degrees of freedom a miss has probability below 2e-7.
    """
    num_keys, rows_per_key = 20, len(LENGTHS)
    many = {name: value.repeat(num_keys, 1) for name, value in prompts.items()}
    means = {}
    for name, bias in (("plain", None), ("marked", 0.0), ("biased", 3.0)):
        watermark = None
        if bias is not None:
            scheme = OneKeyPerGroup(config.replace(bias=bias), rows_per_key)
            watermark = WatermarkingConfig(scheme, key_id="many")
        out = generate(model, many, watermark, seed=21, max_new_tokens=30)
        means[name] = _nll(model, out, many).reshape(num_keys, rows_per_key).mean(axis=1)
    average = {name: values.mean() for name, values in means.items()}
    spread = math.sqrt(sum(means[n].var(ddof=1) / num_keys for n in ("plain", "marked")))
    assert spread < 0.05
    assert abs(average["marked"] - average["plain"]) < 8 * spread
    assert average["biased"] - average["plain"] > 8 * spread


def test_no_token_that_a_warper_removed_is_emitted(model, config, prompts):
    kwargs = {"temperature": 0.9, "top_k": 30, "top_p": 0.8, "min_p": 0.02}
    out = generate(
        model,
        prompts,
        config.for_transformers(),
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        max_new_tokens=60,
        **kwargs,
    )
    warper = Warper(**kwargs)
    for t, token_B in enumerate(responses(out.sequences, prompts).T):
        law_BV = warper(out.logits[t])
        assert torch.isfinite(law_BV.gather(1, token_B[:, None])).all()
        assert not torch.isfinite(out.scores[t][~torch.isfinite(law_BV)]).any()


# --- refusals, secrets, errors -------------------------------------------------------------------


def test_what_cannot_be_marked_is_refused_or_said(model, config, prompts):
    watermark = config.for_transformers()
    with pytest.raises(NotImplementedError, match="beam_sample"):
        generate(model, prompts, watermark, num_beams=2)
    with pytest.raises(NotImplementedError, match="assisted_generation"):
        generate(model, prompts, watermark, prompt_lookup_num_tokens=3)
    with pytest.warns(UserWarning, match="NOT be marked"):
        greedy = generate(model, prompts, watermark, do_sample=False, max_new_tokens=8)
    assert torch.equal(greedy, generate(model, prompts, do_sample=False, max_new_tokens=8))


def test_the_key_is_in_no_file_and_no_printout(config, tmp_path):
    watermark = config.for_transformers()
    assert isinstance(watermark, EWatermarkingConfig)
    settings = transformers.GenerationConfig(do_sample=True, watermarking_config=watermark)
    settings.save_pretrained(tmp_path)
    written = (tmp_path / "generation_config.json").read_text()
    assert config.key_id in written and config.anchor.fingerprint in written
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
    config = EWatermarkConfig(key=KEY, vocab_size=vocab_size)
    out = responses(generate(model, few, config.for_transformers(), max_new_tokens=60), few)
    assert int(out.max()) < vocab_size
    EWatermarkDetector(config)(out)  # every id lies inside the watermark's vocabulary


def test_errors_speak_to_the_caller(model, config, prompts):
    too_wide = EWatermarkConfig(key=KEY, vocab_size=model.config.vocab_size + 1)
    with pytest.raises(ValueError, match=f"scores {model.config.vocab_size} token ids"):
        generate(model, prompts, too_wide.for_transformers())
    for build in (EWatermarkingConfig, EWatermarkLogitsProcessor):
        with pytest.raises(TypeError, match="must be an EWatermarkConfig, got dict"):
            build({"key": KEY})


def test_without_transformers_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "import modicum.ewatermark.integrations.transformers"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert 'pip install "modicum-ewatermark[transformers]"' in run.stderr
