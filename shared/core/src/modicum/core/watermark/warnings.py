"""What a watermark warns of: an error bound that does not hold, and power that is not there.

One class for all packages, so that a filter of one is a filter of the other. Knows nothing else.
"""

__all__ = ["PowerWarning", "ValidityWarning"]


class ValidityWarning(UserWarning):
    """The error guarantee does not hold for what was asked."""


class PowerWarning(UserWarning):
    """The detector is valid but cannot be expected to find the watermark."""
