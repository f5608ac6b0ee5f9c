"""Fused GPU kernels of purchases, each beside a plain-torch reference.

One folder per op: ``reference.py`` is the short, obviously right version, ``triton.py`` the fused
one and the folder's ``__init__`` the front door that chooses between them. This package itself
imports nothing. It knows nothing of designs, prices and budgets.
"""
