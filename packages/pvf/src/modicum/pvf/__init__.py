"""Plan-verify-fill decoding of masked diffusion language models.

Not released yet: this version holds the name and the layout of the package, and no method.
"""

__all__: list[str] = []
