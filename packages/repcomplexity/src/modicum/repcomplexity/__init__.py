"""Model-based against model-free representation complexity.

Not released yet: this version holds the name and the layout of the package, and no method.
"""

__all__: list[str] = []
