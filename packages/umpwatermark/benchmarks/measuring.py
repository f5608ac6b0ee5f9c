"""What the benchmarks of this package share: where results are written, seed and key."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
KEY = b"a key for benchmarks only"
