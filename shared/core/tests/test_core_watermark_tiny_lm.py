"""The shipped models load, agree on a vocabulary and write English; training resumes exactly."""

import itertools
import json
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from modicum.core.watermark import corpus_text
from modicum.core.watermark.adapters import tiny_lm
from modicum.core.watermark.adapters.tiny_lm import load_tiny, tiny_path, train_tiny

NAMES = ("target", "anchor")
# The validation text of the training: no document of it was trained on.
HELD_OUT = tiny_lm._VALIDATION_SEED_OFFSET


@pytest.fixture(scope="module")
def shipped():
    return {name: load_tiny(name, device="cpu") for name in NAMES}


@pytest.fixture(scope="module")
def tokenizer(shipped):
    return shipped["target"][1]


def batch_of_texts(tokenizer, documents, length):
    texts = itertools.islice(corpus_text.documents(HELD_OUT), documents)
    return torch.stack([tokenizer(t, return_tensors="pt").input_ids[0, :length] for t in texts])


def bigram_loss(tokenizer, ids_BT):
    """Nats per token of an add-0.01 bigram model counted on 400 training documents."""
    counts = torch.full((len(tokenizer), len(tokenizer)), 0.01)
    for text in itertools.islice(corpus_text.documents(0), 400):
        ids = torch.tensor(tokenizer(text).input_ids)
        counts.index_put_((ids[:-1], ids[1:]), torch.ones(len(ids) - 1), accumulate=True)
    log_probs = (counts / counts.sum(1, keepdim=True)).log()
    return -log_probs[ids_BT[:, :-1], ids_BT[:, 1:]].mean().item()


@torch.inference_mode()
def losses(model, ids_BT):
    logits_BTV = model(input_ids=ids_BT[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())


@pytest.mark.parametrize("name", NAMES)
def test_files_are_small_and_complete(name):
    sizes = {path.name: path.stat().st_size for path in tiny_path(name).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= set(sizes)
    assert max(sizes.values()) < 5_000_000


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="must be one of target, anchor, got 'big'"):
        tiny_path("big")
    with pytest.raises(ValueError, match="got 'big'"):
        load_tiny("big")


def test_missing_data_files_are_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(tiny_lm.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        tiny_path("anchor")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_models_load_in_the_type_asked_for(dtype):
    model, _ = load_tiny("anchor", device="cpu", dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not model.training


def test_target_and_anchor_share_one_vocabulary(shipped):
    (target, tokenizer), (anchor, other) = shipped["target"], shipped["anchor"]
    assert tokenizer.get_vocab() == other.get_vocab()
    assert len(tokenizer) == target.config.vocab_size == anchor.config.vocab_size == 2048
    assert target(torch.tensor([[1, 2]])).logits.shape == (1, 2, 2048)
    assert anchor.num_parameters() < target.num_parameters() / 4
    files = [(tiny_path(name) / "tokenizer.json").read_bytes() for name in NAMES]
    assert files[0] == files[1]
    assert tokenizer.eos_token_id == target.generation_config.eos_token_id == 0


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_every_text_survives_the_tokenizer(tokenizer, text):
    # The end-of-text marker is the one string that means a token and not its characters.
    text = text.replace(tiny_lm.END_OF_TEXT, "")
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert 0 not in ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  spaces ",
        "tab\tand\r\nlines\n\n",
        "naïve café",
        "日本語",
        "🦊\u200d🔥",
        "\x00",
    ],
)
def test_awkward_texts_survive_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_held_out_text_is_predicted_better_than_by_its_pairs_of_tokens(shipped, tokenizer):
    ids_BT = batch_of_texts(tokenizer, documents=12, length=100)
    target, anchor = (losses(shipped[name][0], ids_BT) for name in NAMES)
    assert target < anchor < bigram_loss(tokenizer, ids_BT) - 0.3


def test_training_record_is_what_the_models_do(shipped, tokenizer):
    first, second = (json.loads((tiny_path(name) / "training.json").read_text()) for name in NAMES)
    assert first == second
    models = {name: model for name, (model, _) in shipped.items()}
    again = tiny_lm._measure(models, tokenizer.backend_tokenizer, first["seed"])
    # Recorded on one processor, computed on another: float32 sums may differ in the fourth digit.
    assert again == pytest.approx(first["measured"], abs=2e-3)
    assert first["parameters"] == {name: m.num_parameters() for name, m in models.items()}


def test_the_shipped_models_leave_room_for_a_watermark():
    measured = json.loads((tiny_path("target") / "training.json").read_text())["measured"]
    assert 1.5 < measured["target_entropy_nats_at_temperature_1.0"] < 2.5
    assert 0.02 < measured["anchor_target_total_variation_at_temperature_1.0"] < 0.4
    gap = (
        measured["target_validation_nats_per_token"]
        - measured["target_entropy_nats_at_temperature_1.0"]
    )
    assert abs(gap) < 0.15


def test_generation_repeats_with_its_seed_and_reads_like_the_corpus(shipped):
    model, tokenizer = shipped["target"]
    prompt = tokenizer(["The Copper Key\n\n"] * 4, return_tensors="pt")

    def generate(seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return model.generate(**prompt, do_sample=True, min_new_tokens=150, max_new_tokens=150)

    first, again, other = generate(1), generate(1), generate(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, prompt.input_ids.shape[1] + 150)
    corpus = " ".join(itertools.islice(corpus_text.documents(0), 2000))
    known = set(re.findall(r"[A-Za-z]+", corpus))
    # The last word may be cut off.
    words = [w for row in first for w in re.findall(r"[A-Za-z]+", tokenizer.decode(row))[:-1]]
    assert sum(word in known for word in words) > 0.95 * len(words)


def test_cached_and_full_forward_passes_agree(shipped):
    model, tokenizer = shipped["target"]
    ids_BT = batch_of_texts(tokenizer, documents=2, length=60)
    greedy = model.generate(ids_BT, do_sample=False, min_new_tokens=20, max_new_tokens=20)
    logits_BTV = model(greedy).logits[:, 59:-1].detach()
    logits_BTV[..., 0] = -math.inf
    chosen = logits_BTV.gather(-1, greedy[:, 60:, None])[..., 0]
    assert (logits_BTV.max(-1).values - chosen).max() < 1e-3


def test_all_positions_were_trained(shipped):
    model, tokenizer = shipped["target"]
    ids_BT = tiny_lm._rows(tokenizer.backend_tokenizer, HELD_OUT, range(4), tiny_lm.MAX_POSITIONS)
    early, late = losses(model, ids_BT[:, 64:256]), None
    with torch.inference_mode():
        logits_BTV = model(input_ids=ids_BT[:, :-1]).logits[:, 800:]
        late = torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), ids_BT[:, 801:].flatten()
        )
    assert late < early + 0.25


def test_rows_depend_only_on_seed_and_number(tokenizer):
    backend = tokenizer.backend_tokenizer
    rows = tiny_lm._rows(backend, 3, [5, 6, 7], 200)
    assert rows.shape == (3, 200)
    assert torch.equal(tiny_lm._rows(backend, 3, [6], 200)[0], rows[1])
    assert torch.equal(tiny_lm._rows(backend, 3, [6], 90)[0], rows[1, :90])
    assert not torch.equal(tiny_lm._rows(backend, 4, [6], 200)[0], rows[1])


def test_learning_rate_rises_stays_and_falls():
    rates = [tiny_lm._schedule(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 40)
    assert rates[39:501] == [1.0] * 462
    assert rates[750] == 0.5
    assert 0 < rates[-1] < 0.01


@pytest.fixture
def quick(monkeypatch):
    """A training of seconds: a small tokenizer corpus, small batches, one validation row."""
    monkeypatch.setattr(tiny_lm, "_TOKENIZER_DOCUMENTS", 300)
    monkeypatch.setattr(tiny_lm, "_TOKENS_PER_STEP", 256)
    monkeypatch.setattr(tiny_lm, "MAX_POSITIONS", 256)
    monkeypatch.setattr(tiny_lm, "_VALIDATION_ROWS", 1)
    monkeypatch.setattr(tiny_lm, "_CHECKPOINT_STEPS", 2)


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(quick, monkeypatch, tmp_path):
    random_state = torch.get_rng_state()
    summary = train_tiny(tmp_path / "whole", steps=5, seed=4, progress=False)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert summary["steps"] == 5
    assert math.isfinite(summary["measured"]["target_validation_nats_per_token"])

    step, calls = tiny_lm._step, []

    def interrupted_step(*arguments):
        calls.append(None)
        # Inside the target, after a checkpoint at step 2, and inside the anchor, at its step 4.
        if len(calls) in (4, 11):
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(tiny_lm, "_step", interrupted_step)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path / "parts", steps=5, seed=4, progress=False)
        assert not (tmp_path / "parts" / "target").exists()
    with pytest.raises(ValueError, match=r"steps=5, seed=4, not steps=6, seed=4"):
        train_tiny(tmp_path / "parts", steps=6, seed=4, progress=False)
    train_tiny(tmp_path / "parts", steps=5, seed=4, progress=False)

    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["anchor", "target"]
    for name in NAMES:
        for file in ("model.safetensors", "tokenizer.json", "config.json"):
            whole, parts = (tmp_path / run / name / file for run in ("whole", "parts"))
            assert whole.read_bytes() == parts.read_bytes()


def test_restart_drops_an_unfinished_training(quick, monkeypatch, tmp_path, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(tiny_lm, "_train", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_tiny(tmp_path, steps=9, progress=False)
    tiny_lm.main(["train", "--out", str(tmp_path), "--steps", "1", "--seed", "2", "--restart"])
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "anchor" / "training.json").read_text())
    assert record["steps"] == 1
    assert record["seed"] == 2
    assert json.loads(printed[printed.index("{\n") :]) == record


def test_training_needs_a_step(tmp_path):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        train_tiny(tmp_path, steps=0)


def test_the_shipped_tokenizer_is_what_the_corpus_gives(tokenizer, tmp_path):
    again = tiny_lm._tokenizer(tmp_path / "tokenizer.json", 0, progress=False)
    assert again.get_vocab() == tokenizer.get_vocab()
    text = corpus_text.document(HELD_OUT, 0)
    assert again.encode(text).ids == tokenizer(text).input_ids
