"""Self-consistency, best-of-n and self-correction with stopping guarantees. Not released yet: the method is not part of this version."""

__all__: list[str] = []
