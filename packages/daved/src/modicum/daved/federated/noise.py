"""Noise on the scores of a seller, so that its best row is reported with some doubt. Experimental.

A seller adds Laplace noise to every score before it looks for the best (report noisy max). A score
depends on one record only, and with rows no longer than ``max_norm`` it lies between 0 and its
sensitivity ‖V‖² max_norm² / (m · lowest price), where ‖V‖ is the largest singular value of the
directions. With noise of scale sensitivity / epsilon, one answer (numbers and noisy scores) is
epsilon-differentially private with respect to the features of one record: whatever a record is
replaced with, one score moves by the sensitivity at most, and the density of that one score by a
factor exp(epsilon) at most. This is about real numbers; what floating-point numbers give away
beyond it (Mironov, "On significance of the least significant bits for differential privacy", CCS
2012) is not dealt with.

That is all: a purchase isn't private. Answers add up over rounds; Gram matrices and the rows of the
winners are told exactly, and so is what is sold. It also costs: with rows of like scores the noise
decides.

The noise is derived from the seller's secret and the question, so that the same question, as after
a lost answer or a restart, gets the same answer and can't be averaged.
"""

import hashlib
import hmac

import numpy as np

__all__ = ["laplace", "sensitivity"]

_WORD_BYTES = 8
# One less than a float64 has, so that adding a half is exact.
_MANTISSA_BITS = 52


def sensitivity(directions_dm: np.ndarray, max_norm: float, lowest_price: float = 1.0) -> float:
    """Give the largest score that a row of bounded length can have, which is how far one can move.

    Parameters
    ----------
    directions_dm
        V, (d, m).
    max_norm
        Largest length of a row.
    lowest_price
        Of all rows: scores are per price.
    """
    m = directions_dm.shape[1]
    return float(np.linalg.norm(directions_dm, 2) ** 2 / m * max_norm**2 / lowest_price)


def laplace(secret: bytes, question: bytes, size: int, scale: float) -> np.ndarray:
    """Give independent draws of mean 0 and density exp(-|x| / scale) / (2 scale), (size,) float64.

    Parameters
    ----------
    secret
        The seller's own.
    question
        What the noise is for; the same gives the same.
    """
    key = hmac.digest(secret, b"noise" + question, "sha256")
    stream = hashlib.shake_256(key).digest(_WORD_BYTES * size)
    words = np.frombuffer(stream, dtype="<u8") >> (64 - _MANTISSA_BITS)
    centred = (words.astype(np.float64) + 0.5) * 2.0**-_MANTISSA_BITS - 0.5
    return -scale * np.sign(centred) * np.log1p(-2 * np.abs(centred))
