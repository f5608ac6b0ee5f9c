"""How good phones are: error rates, confusions, feature distances, reports.

`per` counts wrong phones, `pfer` wrong features, `wper` with any matrix of similarities; `report`
has everything with intervals; `PhoneMetric` collects batches. Rates are ratios, not percentages.
"""

from modicum.huper.metrics.feature_errors import FeatureErrors, feature_errors, fed, pfer
from modicum.huper.metrics.ipa import Normalised, Normaliser
from modicum.huper.metrics.phones import (
    PhoneErrors,
    align,
    per,
    phone_errors,
    ratio_interval,
    wper,
)
from modicum.huper.metrics.reports import (
    InventoryEffect,
    InventoryRow,
    PhoneMetric,
    Report,
    compute,
    inventory_effect,
    nearest,
    report,
)

__all__ = [
    "FeatureErrors",
    "InventoryEffect",
    "InventoryRow",
    "Normalised",
    "Normaliser",
    "PhoneErrors",
    "PhoneMetric",
    "Report",
    "align",
    "compute",
    "feature_errors",
    "fed",
    "inventory_effect",
    "nearest",
    "per",
    "pfer",
    "phone_errors",
    "ratio_interval",
    "report",
    "wper",
]
