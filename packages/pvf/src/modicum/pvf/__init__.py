"""Plan-verify-fill decoding of masked diffusion language models. Not released yet: the method is not part of this version."""

__all__: list[str] = []
