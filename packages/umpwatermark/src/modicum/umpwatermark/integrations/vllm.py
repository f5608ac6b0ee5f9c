r"""The watermark inside vLLM's V1 engine.

Takes a watermark's record and its key files, all named in one JSON file, and marks the requests
that ask for it. What may be combined with a watermark and what is refused stands in
`modicum.core.watermark.adapters.vllm`, which does everything that is not particular to this
watermark.

The file names the record that detectors use as well (`UMPWatermarkConfig.record(...).save`, or what
``modicum umpwatermark generate`` leaves behind) and at least one key file; for the sampler
``"ump-aware"`` also the surrogate as on the command line: ``uniform``, ``tiny``, an n-gram file or
a model's folder. Relative paths start at the file's own folder::

    {"format": 1,
     "keys": {"2025-06": "key.txt"},
     "scheme": {"record": "wm.json"}}

    {..., "scheme": {"record": "wm.json", "surrogate": "tiny", "window": 20, "temperature": 1.0}}

The file is named in the environment and the processor to the engine::

    MODICUM_UMPWATERMARK_CONFIG=engine.json vllm serve MODEL --generation-config vllm \
        --logits-processors modicum.umpwatermark.integrations.vllm:UMPWatermarkLogitsProcessor

Then a request is marked exactly when it says so, in Python or over HTTP::

    SamplingParams(extra_args={"umpwatermark": {"temperature": 0.7, "top_p": 0.95}})
    {"prompt": "…", "temperature": 1, "vllm_xargs": {"umpwatermark": "{\"temperature\": 0.7}"}}

With several keys the record may be that of any of them. With the PRF of vLLM's own watermark the
bytes of a key file are read as a little-endian integer.

Which tokens the key decides. Under ``"gumbel"`` and ``"hazard"`` a marked token follows from key,
context and logits alone: the engine's sampler finds one possible token, whatever its seed. A text
is therefore the same in a batch of 1 and of 32, up to the rounding by which the engine's kernels
differ between batches. Tokens of the warm-up and after a repeated context are the engine's to
sample; with a seed per request they repeat as well. vLLM 0.30 and later watermark by themselves:
start them with ``--watermark-config`` and detect with ``prf="vllm-philox"`` or ``"vllm-hmac"``.

To detect with the engine's model as the surrogate, send the text back as a prompt with
``prompt_logprobs`` and see `modicum.umpwatermark.integrations.logprobs`.
"""

from collections.abc import Mapping
from typing import Any

from modicum.umpwatermark.integrations.loading import load_configs
from modicum.umpwatermark.scheme import UMPWatermarkScheme

try:
    from modicum.core.watermark.adapters.vllm import EngineConfig, WatermarkLogitsProcessor
except ImportError as error:
    raise ImportError(
        'watermarking with vLLM needs vLLM 0.25: pip install "modicum-umpwatermark[vllm]"'
    ) from error

__all__ = ["CONFIG_VARIABLE", "UMPWatermarkEntryPoint", "UMPWatermarkLogitsProcessor"]

CONFIG_VARIABLE = "MODICUM_UMPWATERMARK_CONFIG"
_SETTINGS = {"record": str, "surrogate": str, "window": int, "temperature": int | float}


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name not in _SETTINGS:
            raise ValueError(f"'scheme' has no setting {name!r}; known are {sorted(_SETTINGS)}")
        if isinstance(value, bool) or not isinstance(value, _SETTINGS[name]):
            raise ValueError(f"setting {name!r} of 'scheme' cannot be {value!r}")
    if "record" not in settings:
        raise ValueError("'scheme' must name a 'record'")


class UMPWatermarkLogitsProcessor(WatermarkLogitsProcessor):
    """Marks the requests whose ``extra_args`` hold ``"umpwatermark"``; see the module's text."""

    request_field = "umpwatermark"
    config_variable = CONFIG_VARIABLE

    def build_schemes(self, config: EngineConfig) -> dict[str, UMPWatermarkScheme]:
        """Build one scheme per key.

        Raises
        ------
        ValueError
            If a setting or a file is wrong, or record, keys and surrogate do not belong together.
        """
        folder = config.path.parent
        try:
            _check_settings(config.scheme)
            settings = dict(config.scheme)
            record = folder / settings.pop("record")
            surrogate = settings.pop("surrogate", None)
            if surrogate is not None and (folder / surrogate).exists():
                surrogate = str(folder / surrogate)
            configs = load_configs(
                record, config.keys, surrogate, device=str(self.device), **settings
            )
            return {name: UMPWatermarkScheme(built) for name, built in configs.items()}
        except (TypeError, ValueError, OSError) as error:
            raise ValueError(f"{config.path}: {error}") from error


class UMPWatermarkEntryPoint(UMPWatermarkLogitsProcessor):
    """The same for registration under the entry-point group ``vllm.logits_processors``.

    vLLM loads registered processors into every engine of an environment: this one does nothing
    without a configuration, and nothing where `UMPWatermarkLogitsProcessor` is named explicitly.
    """

    stands_in_for = UMPWatermarkLogitsProcessor
