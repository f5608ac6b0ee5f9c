"""Configurations brought back from records, key files and names of surrogates."""

import subprocess
import sys

import pytest

from modicum.core.watermark.anchors import NGramAnchor
from modicum.core.watermark.record import WatermarkRecord, save_key
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.integrations.loading import (
    key_for,
    load_config,
    load_configs,
    load_watermark_key,
)

KEYS = {"first": b"first key, 24 bytes long", "second": b"second key, 24 bytes too"}


def write(folder, config, key):
    config.record().save(folder / "wm.json")
    save_key(folder / "key.txt", key)
    return folder / "wm.json", folder / "key.txt"


@pytest.mark.parametrize(
    "changes",
    [{}, {"sampler": "hazard", "context_width": 2}, {"sampler": "greenlist", "gamma": 0.25}],
)
def test_a_record_and_a_key_file_give_back_the_configuration(tmp_path, changes):
    config = UMPWatermarkConfig(key=KEYS["first"], vocab_size=50, **changes)
    loaded = load_config(*write(tmp_path, config, KEYS["first"]))
    assert loaded.parameters == config.parameters and loaded.key_id == config.key_id


def test_a_surrogate_goes_where_one_is_needed(tmp_path):
    surrogate = NGramAnchor(vocab_size=50).fit([[i * i % 50 for i in range(200)]])
    files = write(tmp_path, UMPWatermarkConfig(KEYS["first"], 50), KEYS["first"])
    assert load_config(*files, surrogate).surrogate is None
    aware = UMPWatermarkConfig(KEYS["first"], 50, sampler="ump-aware", surrogate=surrogate)
    aware.record().save(tmp_path / "wm.json")
    assert load_config(*files, surrogate).surrogate is surrogate
    with pytest.raises(ValueError, match="needs a surrogate"):
        load_config(*files)


def test_another_scheme_and_another_key_are_refused(tmp_path):
    config = UMPWatermarkConfig(KEYS["first"], 50)
    record, key_file = write(tmp_path, config, KEYS["second"])
    with pytest.raises(ValueError, match="key_id"):
        load_config(record, key_file)
    WatermarkRecord.for_key("ewatermark", KEYS["second"]).save(record)
    with pytest.raises(ValueError, match="modicum-ewatermark"):
        load_config(record, key_file)
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "absent.json", key_file)


def test_keys_of_engines_are_integers(tmp_path):
    """A decimal file, or the bytes of a key file read from the low end."""
    path = tmp_path / "key.txt"
    path.write_text("42\n")
    assert load_watermark_key(path, "vllm-philox") == 42
    assert load_watermark_key(path, "vllm-hmac") == 42
    with pytest.raises(ValueError, match="at least 16"):
        load_watermark_key(path, "philox")
    path.write_text((42).to_bytes(16, "little").hex())
    assert load_watermark_key(path, "vllm-philox") == 42
    path.write_text((2**200 + 7).to_bytes(32, "little").hex())
    assert load_watermark_key(path, "vllm-hmac") == 2**200 + 7
    assert load_watermark_key(path, "philox") == (2**200 + 7).to_bytes(32, "little")
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\*\*64\)") as caught:
        load_watermark_key(path, "vllm-philox")
    assert str(2**200 + 7) not in str(caught.value)
    config = UMPWatermarkConfig(42, 50, prf="vllm-philox")
    config.record().save(tmp_path / "wm.json")
    path.write_text("42")
    assert load_config(tmp_path / "wm.json", path).key_id == config.key_id


@pytest.mark.parametrize("prf", ["philox", "vllm-philox"])
def test_one_record_serves_several_keys(tmp_path, prf):
    raw = {"a": (42).to_bytes(16, "little"), "b": (43).to_bytes(16, "little")}
    config = UMPWatermarkConfig(key_for(prf, raw["a"]), 50, prf=prf)
    config.record().save(tmp_path / "wm.json")
    loaded = load_configs(tmp_path / "wm.json", raw)
    assert {name: c.parameters for name, c in loaded.items()} == dict.fromkeys(
        raw, config.parameters
    )
    assert loaded["a"].key_id == config.key_id != loaded["b"].key_id
    with pytest.raises(ValueError, match=f"the record is for the key {config.key_id}"):
        load_configs(tmp_path / "wm.json", {"b": raw["b"]})


def test_a_named_surrogate_is_loaded(tmp_path):
    surrogate = NGramAnchor(vocab_size=50).fit([[i * i % 50 for i in range(200)]])
    surrogate.save(tmp_path / "law.safetensors")
    config = UMPWatermarkConfig(
        KEYS["first"], 50, sampler="ump-aware", surrogate=surrogate, gamma=0.1
    )
    config.record().save(tmp_path / "wm.json")
    loaded = load_configs(tmp_path / "wm.json", KEYS, str(tmp_path / "law.safetensors"))
    assert loaded["second"].surrogate.fingerprint == surrogate.fingerprint
    with pytest.raises(ValueError, match="anchor_fingerprint"):
        load_configs(tmp_path / "wm.json", KEYS, "uniform")
    with pytest.raises(ValueError, match="needs a surrogate"):
        load_configs(tmp_path / "wm.json", KEYS)


def test_loading_takes_no_engine_into_memory():
    code = (
        "import sys, modicum.umpwatermark.integrations.loading\n"
        "print([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
