"""Model-based against model-free representation complexity. Not released yet: the method is not part of this version."""

__all__: list[str] = []
