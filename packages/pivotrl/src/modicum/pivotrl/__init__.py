"""Agentic post-training on the turns that matter. Not released yet: the method is not part of this version."""

__all__: list[str] = []
