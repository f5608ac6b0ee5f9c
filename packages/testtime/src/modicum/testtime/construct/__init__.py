"""Transformers that run online learning over the experts glued into them."""
