"""ONNX files give what the models give, and run where torch is not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from modicum.huper.audio import read
from modicum.huper.integrations.onnx import OnnxModel, export
from modicum.huper.phones import PhoneSet
from modicum.huper.recognizer import Recognizer
from modicum.huper.tiny import TinyConfig, TinyConvCTC

FOLDER = Path(__file__).parent / "data" / "huper_world"
FILES = sorted((FOLDER / "audio").glob("test-*.flac"))
SIZES = {
    "vocab_size": 44,
    "pad_token_id": 0,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
CONVOLUTIONS = {
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
KINDS = {
    "WavLM": {"feat_extract_norm": "layer", "do_stable_layer_norm": True},
    "Wav2Vec2": {"feat_extract_norm": "group"},
    "Hubert": {"feat_extract_norm": "layer"},
    "Wav2Vec2Conformer": {"feat_extract_norm": "layer"},
    "Wav2Vec2Bert": {},
}


def _noise(size, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    recognizer = Recognizer.from_pretrained(device="cpu")
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return recognizer, OnnxModel(export(recognizer, path), threads=1), path


@pytest.mark.parametrize("size", [400, 719, 720, 5001, 16_000, 40_123])
def test_the_tiny_model_is_the_same(shipped, size):
    recognizer, ours, _ = shipped
    samples = _noise(size, size)
    wanted = recognizer.emissions(samples, 16_000).utterance(0)
    found = ours.logprobs(samples)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    np.testing.assert_allclose(np.exp(found), np.exp(wanted), atol=1e-3)
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_its_transcripts_are_the_same(shipped):
    recognizer, ours, _ = shipped
    for file, wanted in zip(FILES, recognizer.transcribe(FILES), strict=True):
        found = ours.transcribe(file)
        assert found.phones == wanted.phones and found.ipa == wanted.ipa
        assert found.spans == wanted.spans
        np.testing.assert_allclose(found.confidences, wanted.confidences, atol=1e-3)
    again = Recognizer(ours).transcribe(FILES[:3], decode="beam")
    for found, wanted in zip(again, recognizer.transcribe(FILES[:3], decode="beam"), strict=True):
        assert found.phones == wanted.phones
        assert found.score == pytest.approx(wanted.score, abs=0.05)


def test_long_and_silent_recordings(shipped):
    recognizer, ours, _ = shipped
    audio = np.concatenate([read(file)[0] for file in FILES])
    found = ours.transcribe(audio, 16_000, seconds=2.0, overlap=0.5)
    cutter = Recognizer(recognizer.model, seconds=2.0, overlap=0.5)
    (wanted,) = cutter.transcribe(audio, 16_000)
    assert found.phones == wanted.phones and found.spans == wanted.spans
    assert ours.transcribe(np.zeros(9000, np.float32), 16_000).phones == ()


def test_it_runs_without_torch(shipped):
    """In a process of its own, in which importing torch fails."""
    recognizer, _, path = shipped
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchaudio", "transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from modicum.huper.integrations.onnx import OnnxModel
print(*OnnxModel({str(path)!r}, threads=1).transcribe({str(FILES[0])!r}).phones)
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.split()) == recognizer.transcribe(FILES[0])[0].phones


@pytest.mark.parametrize(
    "kind",
    [
        one if one in ("WavLM", "Wav2Vec2Bert") else pytest.param(one, marks=pytest.mark.slow)
        for one in KINDS
    ],
)
def test_models_of_transformers_are_the_same(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    from modicum.huper.integrations.transformers import TransformersCTC

    sizes = SIZES | ({} if kind == "Wav2Vec2Bert" else CONVOLUTIONS) | KINDS[kind]
    torch.manual_seed(0)
    network = getattr(transformers, f"{kind}ForCTC")(
        getattr(transformers, f"{kind}Config")(**sizes)
    )
    model = TransformersCTC(network.eval(), phones=PhoneSet.arpabet39())
    ours = OnnxModel(export(model, tmp_path / "a.onnx"), threads=1)
    assert ours.phones == model.phones and ours.frame_shift == model.frame_shift
    for samples in (_noise(9000, 1), _noise(16_160, 2), read(FILES[0])[0]):
        wanted = model.emissions(samples, 16_000).utterance(0)
        np.testing.assert_allclose(ours.logprobs(samples), wanted, atol=2e-4)
    shortest = 720 if kind == "Wav2Vec2Bert" else 400
    assert model.frames_of(ours.shortest) == 1 and ours.shortest <= shortest
    with pytest.raises(ValueError, match=f"this model needs {ours.shortest}"):
        ours.logprobs(_noise(ours.shortest - 1))


def test_what_cannot_be_written_or_read_is_said(tmp_path):
    model = TinyConvCTC(config=TinyConfig(width=8, dilations=(1,)))
    with pytest.raises(ValueError, match=r"float32, not in torch\.float16"):
        export(TinyConvCTC(config=TinyConfig(width=8)).half(), tmp_path / "a.onnx")
    with pytest.raises(ValueError, match="training mode"):
        export(model.train(), tmp_path / "a.onnx")
    with pytest.raises(TypeError, match="a Linear cannot be written"):
        export(torch.nn.Linear(2, 2), tmp_path / "a.onnx")
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        OnnxModel(tmp_path / "nothing.onnx")
    (tmp_path / "b.onnx").write_text("hello")
    with pytest.raises(ValueError, match="cannot be run"):
        OnnxModel(tmp_path / "b.onnx")
    import onnx

    path = export(model.eval(), tmp_path / "c.onnx")
    made = onnx.load(path)
    del made.metadata_props[:]
    onnx.save(made, tmp_path / "d.onnx")
    with pytest.raises(ValueError, match="phones are not known"):
        OnnxModel(tmp_path / "d.onnx")
