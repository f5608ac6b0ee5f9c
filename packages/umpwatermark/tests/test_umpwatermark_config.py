"""The configuration: defaults, records, and every bad input with its sentence."""

import json

import numpy as np
import pytest

from modicum.core.watermark.anchors import UniformAnchor
from modicum.core.watermark.record import WatermarkRecord
from modicum.umpwatermark.config import KNOWN_PRFS, UMPWatermarkConfig

KEY = b"0123456789abcdef"


def make(**changes):
    return UMPWatermarkConfig(**{"key": KEY, "vocab_size": 50} | changes)


def test_defaults():
    cfg = make()
    assert (cfg.sampler, cfg.warmup, cfg.gamma, cfg.epsilon) == ("gumbel", 4, None, 0.0)
    assert make(context_width=2).warmup == 2
    assert make(sampler="greenlist").gamma == 0.5
    assert make(sampler="ump-aware", surrogate=UniformAnchor(50)).gamma == 0.2
    for prf, key in (("vllm-philox", 7), ("vllm-hmac", 7)):
        assert make(prf=prf, key=key).warmup == 0
        assert make(prf=prf, key=key, warmup=3).warmup == 3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": b"short"}, ValueError, "at least 16"),
        ({"key": 3.0}, TypeError, "key must be"),
        ({"key": KEY, "prf": "vllm-philox"}, TypeError, "must be an int, got bytes"),
        ({"key": True, "prf": "vllm-philox"}, TypeError, "must be an int, got bool"),
        ({"key": 2**64, "prf": "vllm-philox"}, ValueError, r"\[0, 2\*\*64\)"),
        ({"key": -1, "prf": "vllm-philox"}, ValueError, r"\[0, 2\*\*64\)"),
        ({"key": 2**256, "prf": "vllm-hmac"}, ValueError, r"\[0, 2\*\*256\)"),
        ({"key": b"x" * 31, "prf": "vllm-hmac"}, ValueError, "exactly 32 bytes, got 31"),
        ({"key": "x" * 32, "prf": "vllm-hmac"}, TypeError, "an int or 32 bytes, got str"),
        ({"vocab_size": 1}, ValueError, "at least 2, got 1"),
        ({"vocab_size": 50.0}, TypeError, "vocab_size must be an int"),
        ({"sampler": "kgw"}, ValueError, "unknown sampler 'kgw'"),
        ({"sampler": 3}, TypeError, "sampler must be a string"),
        ({"prf": "md5"}, ValueError, "unknown prf 'md5'"),
        ({"epsilon": 1.0}, ValueError, r"epsilon must lie in \[0, 1\), got 1.0"),
        ({"epsilon": -0.1}, ValueError, "epsilon"),
        ({"epsilon": float("nan")}, ValueError, "epsilon"),
        ({"epsilon": "0.1"}, TypeError, "epsilon must be a number"),
        ({"context_width": 0}, ValueError, "context_width"),
        ({"warmup": -1}, ValueError, "warmup"),
        ({"gamma": 0.5}, ValueError, "has no region level"),
        ({"sampler": "greenlist", "gamma": 0.0}, ValueError, r"gamma must lie in \(0, 1\), got 0"),
        ({"sampler": "greenlist", "gamma": 1.0}, ValueError, "gamma"),
        ({"sampler": "greenlist", "gamma": float("nan")}, ValueError, "gamma"),
        ({"sampler": "greenlist", "coupling": "best"}, ValueError, "unknown coupling 'best'"),
        ({"coupling": "exact"}, ValueError, "belongs to sampler='greenlist'"),
        (
            {"sampler": "greenlist", "coupling": "exact", "vocab_size": 4097},
            ValueError,
            "up to 4096, got 4097",
        ),
        ({"sampler": "ump-aware"}, ValueError, "needs a surrogate"),
        ({"sampler": "ump-aware", "surrogate": "gpt"}, TypeError, "Anchor"),
        ({"sampler": "ump-aware", "surrogate": UniformAnchor(51)}, ValueError, "51 differs"),
        ({"surrogate": UniformAnchor(50)}, ValueError, "uses no surrogate"),
    ],
)
def test_bad_input_is_named(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes)


def test_no_message_or_printout_holds_the_key():
    secret = 0x1234567890ABCDEF
    cfg = make(key=secret, prf="vllm-philox")
    assert str(secret) not in repr(cfg)
    with pytest.raises(TypeError) as raised:
        UMPWatermarkConfig(1000, b"a secret key of some length")
    assert "secret" not in str(raised.value)


def test_values_are_plain():
    cfg = make(
        vocab_size=np.int64(50), sampler="greenlist", gamma=np.float32(0.25), warmup=np.int8(1)
    )
    assert json.loads(json.dumps(cfg.parameters)) == cfg.parameters
    assert "key" not in cfg.parameters
    assert "surrogate" not in cfg.parameters


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": "hazard", "prf": "blake2b", "epsilon": 0.125, "context_width": 2},
        {"sampler": "greenlist", "coupling": "exact", "gamma": 0.25, "deduplicate": False},
        {"sampler": "ump-aware", "surrogate": UniformAnchor(50)},
        {"prf": "vllm-philox", "key": 2**64 - 1},
        {"prf": "vllm-hmac", "key": bytes(range(32))},
    ],
)
def test_a_record_gives_the_configuration_back(changes, tmp_path):
    cfg = make(**changes)
    path = tmp_path / "wm.json"
    cfg.record("t" * 32).save(path)
    record = WatermarkRecord.load(path, known_prfs=KNOWN_PRFS)
    key = changes.get("key", KEY)
    again = UMPWatermarkConfig.from_record(record, key, changes.get("surrogate"))
    assert again.parameters == cfg.parameters
    assert again.key_id == cfg.key_id == record.key_id
    with pytest.raises(ValueError, match="key_id"):
        UMPWatermarkConfig.from_record(record, 12345, changes.get("surrogate"))


def test_an_engines_prf_is_refused_where_it_is_not_known(tmp_path):
    make(prf="vllm-philox", key=1).record().save(tmp_path / "wm.json")
    with pytest.raises(ValueError, match="needs PRF 'vllm-philox'"):
        WatermarkRecord.load(tmp_path / "wm.json")


def test_a_record_of_another_scheme_is_refused_with_its_reader():
    other = WatermarkRecord.for_key("ewatermark", KEY)
    with pytest.raises(ValueError, match=r"'ewatermark'.*read it with modicum-ewatermark"):
        UMPWatermarkConfig.from_record(other, KEY)
    unknown = WatermarkRecord.for_key("kgw", KEY)
    with pytest.raises(ValueError, match=r"'kgw', expected 'umpwatermark'"):
        UMPWatermarkConfig.from_record(unknown, KEY)
    with pytest.raises(TypeError, match="WatermarkRecord"):
        UMPWatermarkConfig.from_record({}, KEY)


def test_another_surrogate_is_refused_unless_allowed():
    class Other(UniformAnchor):
        fingerprint = "other"

    record = make(sampler="ump-aware", surrogate=UniformAnchor(50)).record()
    with pytest.raises(ValueError, match="anchor_fingerprint"):
        UMPWatermarkConfig.from_record(record, KEY, Other(50))
    cfg = UMPWatermarkConfig.from_record(record, KEY, Other(50), allow_mismatch=True)
    assert cfg.surrogate.fingerprint == "other"


def test_unknown_parameters_and_versions_are_refused():
    record = make().record()
    strange = WatermarkRecord.for_key("umpwatermark", KEY, parameters={**record.parameters, "x": 1})
    with pytest.raises(ValueError, match=r"unknown parameters \['x'\]"):
        UMPWatermarkConfig.from_record(strange, KEY)
    newer = WatermarkRecord.for_key(
        "umpwatermark", KEY, parameters=record.parameters, prf_version=99
    )
    with pytest.raises(ValueError, match="prf_version is 99"):
        UMPWatermarkConfig.from_record(newer, KEY)


def test_replace_checks_anew():
    assert make().replace(epsilon=0.25).epsilon == 0.25
    with pytest.raises(ValueError, match="epsilon"):
        make().replace(epsilon=2.0)
