"""Noisy function values in, one provably good point out: minimax-optimal zeroth-order optimisation."""

__all__: list[str] = []
