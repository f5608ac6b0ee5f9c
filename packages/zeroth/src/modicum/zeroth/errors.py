"""The warning of this package, so that one filter silences or escalates exactly its messages."""


class ZerothWarning(UserWarning):
    """A guarantee does not hold or a number looks implausible; the run goes on."""
