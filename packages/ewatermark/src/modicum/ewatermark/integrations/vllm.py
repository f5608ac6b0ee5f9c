r"""The watermark inside vLLM's V1 engine.

Takes a watermark's record, its key files and its anchor, all named in one JSON file, and marks the
requests that ask for it. What may be combined with a watermark and what is refused stands in
`modicum.core.watermark.adapters.vllm`, which does everything that is not particular to this
watermark.

The file names the record that detectors use as well (`EWatermarkConfig.record(...).save`, or what
``modicum ewatermark generate`` leaves behind), at least one key file, and the anchor as on the
command line: ``uniform``, ``tiny``, an n-gram file or a model's folder. Relative paths start at the
file's own folder::

    {"format": 1,
     "keys": {"2025-06": "key.txt"},
     "scheme": {"record": "wm.json", "anchor": "tiny", "window": 20, "temperature": 1.0}}

The file is named in the environment and the processor to the engine::

    MODICUM_EWATERMARK_CONFIG=engine.json vllm serve MODEL --generation-config vllm \
        --logits-processors modicum.ewatermark.integrations.vllm:EWatermarkLogitsProcessor

Then a request is marked exactly when it says so, in Python or over HTTP::

    SamplingParams(extra_args={"ewatermark": {"temperature": 0.7, "top_p": 0.95}})
    {"prompt": "…", "temperature": 1, "vllm_xargs": {"ewatermark": "{\"temperature\": 0.7}"}}

With several keys the record may be that of any of them. A language-model anchor costs one forward
pass over its window per step.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modicum.core.prf import key_id
from modicum.core.watermark.adapters.loading import load_anchor
from modicum.core.watermark.record import WatermarkRecord
from modicum.ewatermark.config import EWatermarkConfig
from modicum.ewatermark.scheme import EWatermarkScheme

try:
    from modicum.core.watermark.adapters.vllm import EngineConfig, WatermarkLogitsProcessor
except ImportError as error:
    raise ImportError(
        'watermarking with vLLM needs vLLM 0.25: pip install "modicum-ewatermark[vllm]"'
    ) from error

__all__ = ["CONFIG_VARIABLE", "EWatermarkEntryPoint", "EWatermarkLogitsProcessor"]

CONFIG_VARIABLE = "MODICUM_EWATERMARK_CONFIG"
_SETTINGS = {"record": str, "anchor": str, "window": int, "temperature": int | float}


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name not in _SETTINGS:
            raise ValueError(f"'scheme' has no setting {name!r}; known are {sorted(_SETTINGS)}")
        if isinstance(value, bool) or not isinstance(value, _SETTINGS[name]):
            raise ValueError(f"setting {name!r} of 'scheme' cannot be {value!r}")
    if "record" not in settings:
        raise ValueError("'scheme' must name a 'record'")


class EWatermarkLogitsProcessor(WatermarkLogitsProcessor):
    """Marks the requests whose ``extra_args`` hold ``"ewatermark"``; see the module's text."""

    request_field = "ewatermark"
    config_variable = CONFIG_VARIABLE

    def build_schemes(self, config: EngineConfig) -> dict[str, EWatermarkScheme]:
        """Build one scheme per key over one common anchor.

        Raises
        ------
        ValueError
            If a setting or a file is wrong, or record, keys and anchor do not belong together.
        """
        folder = config.path.parent
        try:
            _check_settings(config.scheme)
            settings = dict(config.scheme)
            record = WatermarkRecord.load(folder / settings.pop("record"))
            ids = {name: key_id(key) for name, key in config.keys.items()}
            if record.key_id not in ids.values():
                raise ValueError(
                    f"the record is for the key {record.key_id}, the keys here are {ids}"
                )
            name = settings.pop("anchor", "uniform")
            anchor = load_anchor(
                str(folder / name) if (folder / name).exists() else name,
                int(record.parameters.get("vocab_size", 0)),
                device=str(self.device),
                **settings,
            )
            return {
                name: EWatermarkScheme(
                    EWatermarkConfig.from_record(replace(record, key_id=ids[name]), key, anchor)
                )
                for name, key in config.keys.items()
            }
        except (TypeError, ValueError, OSError) as error:
            raise ValueError(f"{config.path}: {error}") from error


class EWatermarkEntryPoint(EWatermarkLogitsProcessor):
    """The same for registration under the entry-point group ``vllm.logits_processors``.

    vLLM loads registered processors into every engine of an environment: this one does nothing
    without a configuration, and nothing where `EWatermarkLogitsProcessor` is named explicitly.
    """

    stands_in_for = EWatermarkLogitsProcessor
