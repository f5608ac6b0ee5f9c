"""Detection in batches, on plain dictionaries and as a stage of a real Ray Data pipeline."""

import subprocess
import sys

import numpy as np
import pytest

from modicum.core.watermark.anchors import NGramAnchor
from modicum.core.watermark.record import save_key
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.detector import UMPWatermarkDetector
from modicum.umpwatermark.integrations.ray import COLUMNS, DetectBatch
from modicum.umpwatermark.scheme import UMPWatermarkScheme

KEY = b"a key of thirty-two random bytes"
V = 64


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Record, key, surrogate and three documents of ids, the first of them marked."""
    folder = tmp_path_factory.mktemp("ray")
    config = UMPWatermarkConfig(key=KEY, vocab_size=V)
    config.record().save(folder / "wm.json")
    save_key(folder / "key.txt", KEY)
    rng = np.random.default_rng(0)
    NGramAnchor(V, order=1).fit([rng.integers(V, size=500)]).save(folder / "law.safetensors")
    scheme = UMPWatermarkScheme(config)
    tracker = scheme.new_tracker()
    flat_1V = np.full((1, V), -np.log(V))
    for _ in range(50):
        law = np.exp(scheme.transform(flat_1V, [tracker])[0])
        tracker.push(int(rng.choice(V, p=law / law.sum())))
    ids = np.empty(3, dtype=object)
    ids[:] = [np.array(tracker.tokens), rng.integers(V, size=40), np.zeros(0, dtype=np.int64)]
    return folder, config, ids


def test_a_batch_gets_the_columns_of_the_detector(files):
    folder, config, ids = files
    law = NGramAnchor.load(folder / "law.safetensors")
    names = {"record": folder / "wm.json", "key_file": folder / "key.txt", "column": "ids"}
    for surrogate in (None, law):
        stage = DetectBatch(
            **names,
            tokenizer=None,
            surrogate=None if surrogate is None else str(folder / "law.safetensors"),
            alpha=1e-6,
        )
        batch = {"ids": ids, "name": np.array(["a", "b", "c"])}
        found = stage(batch)
        wanted = UMPWatermarkDetector(config, alpha=1e-6, surrogate=surrogate)(list(ids))
        assert list(found) == ["ids", "name", *COLUMNS]
        assert found["prediction"].tolist() == [True, False, False]
        for name in COLUMNS:
            np.testing.assert_array_equal(found[name], getattr(wanted, name))
        assert list(batch) == ["ids", "name"]


def test_texts_are_tokenised(files):
    pytest.importorskip("transformers")
    from modicum.core.watermark.adapters.loading import load_tokenizer

    folder, config, _ = files
    tokenizer = load_tokenizer("tiny")
    config.replace(vocab_size=len(tokenizer)).record().save(folder / "text.json")
    stage = DetectBatch(folder / "text.json", folder / "key.txt")
    texts = ["The miller walked to the old bridge before supper.", ""]
    found = stage({"text": np.array(texts)})
    detector = UMPWatermarkDetector(config.replace(vocab_size=len(tokenizer)))
    wanted = [detector.detect_text(text, tokenizer).p_value[0] for text in texts]
    assert found["p_value"].tolist() == wanted
    assert found["num_tokens_scored"][0] > 0 == found["num_tokens_scored"][1]


def test_what_is_missing_is_named(files):
    folder, _, ids = files
    stage = DetectBatch(folder / "wm.json", folder / "key.txt", tokenizer=None)
    with pytest.raises(ValueError, match=r"no column 'text'; it has \['ids'\]"):
        stage({"ids": ids})
    with pytest.raises(FileNotFoundError):
        DetectBatch(folder / "absent.json", folder / "key.txt", tokenizer=None)


def test_the_stage_needs_no_ray():
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import modicum.umpwatermark.integrations.ray\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_pipeline_of_ray_data(files):
    """In a process of its own: Ray starts servers and raises warnings of other projects."""
    pytest.importorskip("ray.data")
    folder, _, ids = files
    code = f"""
import numpy as np, ray
from modicum.umpwatermark.integrations.ray import DetectBatch
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = [{{"ids": np.array(x, dtype=np.int64)}} for x in {[x.tolist() for x in ids[:2]]!r}]
found = ray.data.from_items(rows).map_batches(
    DetectBatch,
    fn_constructor_kwargs={{
        "record": {str(folder / "wm.json")!r},
        "key_file": {str(folder / "key.txt")!r},
        "column": "ids",
        "tokenizer": None,
    }},
    batch_format="numpy",
    concurrency=1,
)
print([bool(row["prediction"]) for row in found.take_all()])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[True, False]"
