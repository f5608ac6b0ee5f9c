"""Data selection for data markets, central and federated. Not released yet: the method is not part of this version."""

__all__: list[str] = []
