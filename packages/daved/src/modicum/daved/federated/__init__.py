"""Purchases from sellers who keep their rows: messages, both sides, and a run in one process."""
