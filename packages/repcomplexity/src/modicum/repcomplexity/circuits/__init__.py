"""Boolean circuits: built, measured, evaluated, exchanged, compiled and found by search."""
