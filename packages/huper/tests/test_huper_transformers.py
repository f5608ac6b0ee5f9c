"""Models of transformers with random weights: what comes out is what they give by hand."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from modicum.huper.audio import frame_count, read  # noqa: E402
from modicum.huper.integrations.transformers import (  # noqa: E402
    PHONES_NAME,
    PhonePipeline,
    TransformersCTC,
    pipeline,
)
from modicum.huper.phones import CORRECTOR_INSERTIONS, PhoneSet  # noqa: E402
from modicum.huper.recognizer import Recognizer  # noqa: E402
from modicum.huper.tiny import TinyConfig, TinyConvCTC  # noqa: E402

FOLDER = Path(__file__).parent / "data" / "huper_world"
FILES = sorted((FOLDER / "audio").glob("test-*.flac"))
PHONES = PhoneSet.arpabet39()
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "pad_token_id": 0,
}
CONVOLUTIONS = {
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
KINDS = {
    "WavLM": CONVOLUTIONS | {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "Wav2Vec2": CONVOLUTIONS | {"feat_extract_norm": "layer"},
    "Hubert": CONVOLUTIONS | {"feat_extract_norm": "layer"},
    "Wav2Vec2Conformer": CONVOLUTIONS | {"feat_extract_norm": "layer"},
    "Wav2Vec2Bert": {"feature_projection_input_dim": 160},
}
GROUPED = {"WavLM", "Wav2Vec2", "Hubert", "Wav2Vec2Conformer"}


def build(kind, seed=0, **changes):
    sizes = SIZES | KINDS[kind] | {"vocab_size": 44} | changes
    config = getattr(transformers, f"{kind}Config")(**sizes)
    torch.manual_seed(seed)
    return getattr(transformers, f"{kind}ForCTC")(config).eval()


def vocabulary(folder, symbols=PHONES.symbols):
    path = folder / "vocab.json"
    path.write_text(json.dumps({symbol: number for number, symbol in enumerate(symbols)}))
    return path


def make_processor(folder, **changes):
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(vocabulary(folder)),
        **{
            "pad_token": "<PAD>",
            "unk_token": "<UNK>",
            "bos_token": "<BOS>",
            "eos_token": "<EOS>",
            "word_delimiter_token": "|",
            **changes,
        },
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    return transformers.Wav2Vec2Processor(extractor, tokenizer)


def _noise(size, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def by_hand(model, samples):
    """Log-probabilities (T, C) of one recording, straight from the documentation."""
    if model.config.model_type == "wav2vec2-bert":
        extractor = transformers.SeamlessM4TFeatureExtractor()
        inputs = extractor([samples], sampling_rate=16_000, return_tensors="pt")
    else:
        normal = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        inputs = {"input_values": torch.from_numpy(normal)[None]}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(**inputs).logits.log_softmax(-1)[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["layer", "group"])
def test_ragged_batches_are_the_model_called_by_hand(kind, norm):
    changes = {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    model = build(kind, **(changes if kind in GROUPED else {}))
    ours = TransformersCTC(model, phones=PHONES)
    recordings = [_noise(size, size) for size in (16_000, 720, 12_345, 9000, 16_000, 8999)]
    recordings.append(read(FILES[0])[0])
    together = ours.emissions(recordings, 16_000, batch_size=4)
    assert together.frame_shift == 0.02
    for number, samples in enumerate(recordings):
        wanted = by_hand(model, samples)
        found = together.utterance(number)
        assert len(found) == ours.frames_of(len(samples))
        if kind == "Wav2Vec2Bert":
            # It attends to whole pairs of feature frames only; padded ones mean nothing.
            assert len(found) == ((len(samples) - 400) // 160 + 1) // 2
        else:
            assert len(found) == frame_count(len(samples)) == len(wanted)
        np.testing.assert_allclose(found, wanted[: len(found)], atol=1e-4)
    assert np.ptp(together.utterance(0), axis=0).max() > 0.01


def test_padding_without_a_mask_would_change_the_result():
    """Else the test above could not fail."""
    model = build("WavLM")
    ours = TransformersCTC(model, phones=PHONES)
    recordings = [_noise(16_000, 1), _noise(9000, 2)]
    batch = ours.inputs(recordings)
    assert set(batch) == {"input_values", "attention_mask"}
    with torch.no_grad():
        wrong = model(batch["input_values"]).logits[1].log_softmax(-1)
    right = ours.emissions(recordings, 16_000).utterance(1)
    assert np.abs(wrong[: len(right)].numpy() - right).max() > 1e-3


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Wav2Vec2Bert"])
def test_adapters_make_frames_longer(kind):
    sizes = {"add_adapter": True, "num_adapter_layers": 2, "adapter_stride": 2}
    ours = TransformersCTC(build(kind, **sizes), phones=PHONES)
    assert ours.frame_shift == 0.08 and not ours.pads
    recordings = [_noise(16_000, 1), _noise(9000, 2)]
    together = ours.emissions(recordings, 16_000)
    for number, one in enumerate(recordings):
        alone = ours.emissions(one, 16_000).utterance(0)
        np.testing.assert_allclose(together.utterance(number), alone, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_float32_emissions(tmp_path, dtype):
    whole = TransformersCTC(build("WavLM"), phones=PHONES)
    whole.save_pretrained(tmp_path)
    half = TransformersCTC.from_pretrained(tmp_path, device="cpu", dtype=dtype)
    assert half.model.dtype == getattr(torch, dtype)
    found, wanted = (one.emissions(FILES[:2]) for one in (half, whole))
    assert found.logprobs.dtype == torch.float32
    np.testing.assert_allclose(found.logprobs.exp(), wanted.logprobs.exp(), atol=0.02)
    totals = found.logprobs[0].exp().sum(-1)
    np.testing.assert_allclose(totals, np.ones(len(totals)), atol=1e-5)


# Vocabularies and files -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_the_same(tmp_path, kind):
    ours = TransformersCTC(build(kind, seed=4), phones=PHONES)
    recognizer = Recognizer(ours)
    recognizer.save_pretrained(tmp_path / "model")
    again = Recognizer.from_pretrained(tmp_path / "model", device="cpu")
    assert isinstance(again.model, TransformersCTC) and again.phones == PHONES
    a, b = (one.emissions(FILES[:2]).logprobs for one in (recognizer, again))
    assert torch.equal(a, b)
    assert not list((tmp_path / "model").glob("tmp*"))


def test_a_processor_brings_its_phones_and_is_kept(tmp_path):
    processor = make_processor(tmp_path)
    ours = TransformersCTC(build("WavLM"), processor)
    assert ours.phones == PHONES
    ours.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / PHONES_NAME).exists()
    again = TransformersCTC.from_pretrained(tmp_path / "model", device="cpu")
    assert again.phones == PHONES and again.processor is not None
    read_back = transformers.AutoModelForCTC.from_pretrained(tmp_path / "model")
    assert torch.equal(read_back.lm_head.weight, ours.model.lm_head.weight)
    phones = ("L", "AE", "S", "DX")
    ids = again.processor.tokenizer(" ".join(phones)).input_ids
    # A space in the text is the word delimiter, no phone.
    assert [one for one in ids if one != 4] == PHONES.encode(phones).tolist()


def test_special_tokens_that_a_tokenizer_adds_are_no_outputs(tmp_path):
    """Wav2Vec2CTCTokenizer adds <s> and </s> behind the 44 symbols unless it is told others."""
    processor = make_processor(tmp_path, bos_token="<s>", eos_token="</s>")
    assert len(processor.tokenizer.get_vocab()) == 46
    ours = TransformersCTC(build("WavLM"), processor)
    assert ours.phones == PHONES


@pytest.mark.parametrize(
    ("symbols", "blank"),
    [(PHONES.symbols, 0), (CORRECTOR_INSERTIONS, 1), (("a", "b", "_"), 2)],
    ids=["recognizer", "corrector", "unnamed"],
)
def test_a_bare_vocabulary_is_enough(tmp_path, symbols, blank):
    model = build("WavLM", vocab_size=len(symbols), pad_token_id=blank)
    model.save_pretrained(tmp_path)
    vocabulary(tmp_path, symbols)
    ours = TransformersCTC.from_pretrained(tmp_path, device="cpu")
    assert ours.phones.symbols == symbols and ours.phones.blank == blank
    assert not {"<PAD>", "<NONE>", "_", "|", "<UNK>"} & set(ours.phones.phones)
    assert ours.emissions(FILES[0]).blank == blank


def test_another_blank_or_size_is_refused(tmp_path):
    path = vocabulary(tmp_path)
    with pytest.raises(ValueError, match=r"'<PAD>' with the id 0.*is 5"):
        TransformersCTC(build("WavLM", pad_token_id=5), phones=path)
    with pytest.raises(ValueError, match="40 outputs and the vocabulary 44"):
        TransformersCTC(build("WavLM", vocab_size=40), phones=path)
    with pytest.raises(ValueError, match="which phones"):
        TransformersCTC(build("WavLM"))
    slow = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000)
    with pytest.raises(ValueError, match="8000 samples per second"):
        TransformersCTC(build("WavLM"), slow, phones=path)
    with pytest.raises(TypeError, match="Linear has no config"):
        TransformersCTC(torch.nn.Linear(2, 2), phones=path)


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        TransformersCTC.from_pretrained(tmp_path)
    for load in (TransformersCTC.from_pretrained, Recognizer.from_pretrained):
        with pytest.raises(FileNotFoundError, match="nobody/nothing cannot be read"):
            load("nobody/nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="BertConfig"):
        TransformersCTC.from_pretrained(tmp_path)


def test_bad_input_is_refused():
    ours = TransformersCTC(build("Wav2Vec2Bert"), phones=PHONES)
    with pytest.raises(ValueError, match="recording 1 has 500 samples, too few"):
        ours.emissions([_noise(9000), _noise(500)], 16_000)
    with pytest.raises(TypeError, match="sampling_rate"):
        ours.emissions(_noise(9000))
    ours.model.train()
    with pytest.raises(ValueError, match="training mode"):
        ours.emissions(_noise(9000), 16_000)


# Recognizers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WavLM", "Wav2Vec2Bert"])
def test_long_recordings_go_through_in_windows(kind):
    ours = TransformersCTC(build(kind), phones=PHONES)
    audio = _noise(80_123)
    cut = Recognizer(ours, seconds=2.0, overlap=0.5).emissions([audio, audio[:9000]], 16_000)
    assert cut.lengths.tolist() == [ours.frames_of(80_123), ours.frames_of(9000)]
    first = ours.emissions(audio[: 99 * 320 + 80], 16_000).utterance(0)
    np.testing.assert_allclose(cut.utterance(0)[:80], first[:80], atol=1e-4)
    silent = Recognizer(ours).emissions([np.zeros(16_160, np.float32), audio], 16_000)
    assert silent.lengths[0] == ours.frames_of(16_160)


# The pipeline -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phones_of():
    return PhonePipeline(
        Recognizer(TransformersCTC(build("WavLM", seed=8), phones=PHONES), overlap=0.5)
    )


def test_a_pipeline_answers_as_those_of_transformers(phones_of):
    found = phones_of(str(FILES[0]))
    (wanted,) = phones_of.recognizer.transcribe(FILES[0])
    assert found["text"] == " ".join(wanted.phones) and wanted.phones
    assert found["ipa"] == " ".join(wanted.ipa) and found["confidence"] == wanted.confidence
    assert [one["text"] for one in found["chunks"]] == list(wanted.phones)
    for chunk, span, score in zip(found["chunks"], wanted.spans, wanted.confidences, strict=True):
        assert chunk["timestamp"] == (span.start, span.end) and chunk["score"] == score
    assert phones_of([str(FILES[0])], batch_size=1) == [found]
    assert "chunks" not in phones_of(FILES[0], return_timestamps=False)
    json.dumps(found)


def test_a_pipeline_takes_arrays_and_mappings(phones_of):
    samples, _ = read(FILES[0])
    wanted = phones_of(FILES[0])
    assert phones_of(samples) == wanted
    assert phones_of({"raw": samples, "sampling_rate": 16_000}) == wanted
    assert phones_of({"array": samples, "sampling_rate": 16_000, "path": None}) == wanted
    assert phones_of([samples, FILES[0]], batch_size=1) == [wanted, wanted]
    doubled = np.repeat(samples, 2)
    assert len(phones_of(doubled, sampling_rate=32_000)["text"].split()) > 0
    silent = phones_of(np.zeros(8000, np.float32))
    assert silent == {"text": "", "ipa": "", "confidence": None, "chunks": []}


def test_a_pipeline_is_made_by_name(tmp_path):
    TinyConvCTC(config=TinyConfig(width=8, dilations=(1,))).save_pretrained(tmp_path)
    made = pipeline("phone-recognition", tmp_path, device="cpu")
    assert made.task == "phone-recognition" and made(FILES[0])["chunks"] is not None
    with pytest.raises(ValueError, match="'text-classification'"):
        pipeline("text-classification", tmp_path)
    with pytest.raises(ValueError, match="'word'"):
        made(FILES[0], return_timestamps="word")
