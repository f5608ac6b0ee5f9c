"""Uniformly most powerful text watermark. Not released yet: the method is not part of this version."""

__all__: list[str] = []
