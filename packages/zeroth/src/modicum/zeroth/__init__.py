"""Noisy function values in, one provably good point out."""

__all__: list[str] = []
