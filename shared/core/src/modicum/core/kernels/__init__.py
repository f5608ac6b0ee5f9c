"""Fused GPU kernels that several packages use, each beside a plain-torch reference.

One folder per op: ``reference.py`` is the short, obviously right version, ``triton.py`` the fused
one and the folder's ``__init__`` the front door that chooses between them. This package itself
imports nothing; ``from modicum.core.kernels.logits_summary import logits_summary`` brings one op
(and torch) into memory. It knows nothing about models, tokenizers or decoding strategies.
"""
