"""Zeroth-order optimisation of torch modules."""
