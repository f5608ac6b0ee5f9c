"""What can go wrong with a purchase, by name."""

__all__ = ["DAVEDWarning", "InfeasibleBudgetError"]


class DAVEDWarning(UserWarning):
    """Something about the data or the settings that makes a selection worse than it looks."""


class InfeasibleBudgetError(ValueError):
    """No record is affordable: every price is above the budget."""
