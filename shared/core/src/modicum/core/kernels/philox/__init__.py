"""The keyed words of `modicum.core.prf.PhiloxPRF` inside a Triton kernel.

No operation of its own but a part of others: a kernel that calls `triton.philox_words` hashes the
tokens of a tile where it reads them, and no word is ever stored. The reference is
``PhiloxPRF.words_range``.
"""
