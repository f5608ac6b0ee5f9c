"""Corpora through batches of columns: alone, and through Ray."""

from pathlib import Path

import numpy as np
import pytest

from modicum.huper.audio import read
from modicum.huper.integrations.ray import Transcriber, transcribe

FILES = sorted((Path(__file__).parent / "data" / "huper_world" / "audio").glob("test-*.flac"))


@pytest.fixture(scope="module")
def transcriber():
    return Transcriber(device="cpu")


def test_a_batch_has_what_the_recognizer_hears(transcriber):
    batch = {"id": np.arange(3), "audio_path": np.array([str(one) for one in FILES[:3]])}
    found = transcriber(batch)
    assert found["id"] is batch["id"] and found["audio_path"] is batch["audio_path"]
    wanted = transcriber.recognizer.transcribe(FILES[:3])
    for at, one in enumerate(wanted):
        assert found["phones"][at] == " ".join(one.phones)
        assert found["ipa"][at] == " ".join(one.ipa)
        assert found["starts"][at].tolist() == [span.start for span in one.spans]
        assert found["ends"][at].tolist() == [span.end for span in one.spans]
        assert found["confidences"][at].tolist() == list(one.confidences)
        assert found["confidence"][at] == one.confidence and found["score"][at] == one.score


def test_columns_of_samples_and_silence():
    transcriber = Transcriber(audio="sound", sampling_rate=16_000, device="cpu", decode="beam")
    samples = read(FILES[0])[0]
    found = transcriber({"sound": [samples, np.zeros(8000, np.float32)]})
    assert found["phones"][0] and found["phones"][1] == ""
    assert np.isnan(found["confidence"][1]) and len(found["starts"][1]) == 0


def test_another_column_is_said(transcriber):
    with pytest.raises(KeyError, match="no column 'audio_path', there are id"):
        transcriber({"id": [1]})


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_gives_the_same(transcriber):
    ray = pytest.importorskip("ray")
    data = pytest.importorskip("ray.data")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        dataset = data.from_items([{"audio_path": str(one)} for one in FILES[:4]])
        rows = transcribe(dataset, rows=2, device="cpu").take_all()
    finally:
        ray.shutdown()
    wanted = transcriber.recognizer.transcribe(FILES[:4])
    found = {row["audio_path"]: row for row in rows}
    for file, one in zip(FILES[:4], wanted, strict=True):
        assert found[str(file)]["phones"] == " ".join(one.phones)
        assert list(found[str(file)]["starts"]) == [span.start for span in one.spans]
