"""Moment conditions of the kernels by exact integration in rational numbers."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from modicum.zeroth.kernels import bach_perchet

CLOSED_FORMS = {1: [0, 3], 2: [0, 3], 3: [0, 75 / 4, 0, -105 / 4], 4: [0, 75 / 4, 0, -105 / 4]}


def polynomial(kernel):
    """Coefficients of powers as fractions: Legendre polynomials by their recurrence."""
    legendre = [[Fraction(1)], [Fraction(0), Fraction(1)]]
    for n in range(1, len(kernel.legendre)):
        up = [Fraction(0), *(Fraction(2 * n + 1, n + 1) * c for c in legendre[n])]
        down = [Fraction(n, n + 1) * c for c in legendre[n - 1]] + [Fraction(0)] * 2
        legendre.append([a - b for a, b in zip(up, down, strict=True)])
    total = [Fraction(0)] * len(kernel.legendre)
    for weight, powers in zip(kernel.legendre, legendre, strict=False):
        for power, c in enumerate(powers):
            total[power] += Fraction(weight) * c
    return total


def moment(powers, j):
    """``E[ζ^j K(ζ)]`` for ζ uniform on [-1, 1]."""
    return sum(c / (i + j + 1) for i, c in enumerate(powers) if (i + j) % 2 == 0)


@pytest.mark.parametrize("order", CLOSED_FORMS)
def test_closed_forms(order):
    powers = polynomial(bach_perchet(order))
    assert [float(c) for c in powers if c] == [c for c in CLOSED_FORMS[order] if c]
    zeta = np.linspace(-1, 1, 41)
    np.testing.assert_allclose(
        bach_perchet(order)(zeta), np.polynomial.Polynomial(CLOSED_FORMS[order])(zeta), atol=1e-14
    )


@pytest.mark.parametrize("order", range(1, 14))
def test_moments_are_exact(order):
    kernel = bach_perchet(order)
    powers = polynomial(kernel)
    assert [moment(powers, j) for j in range(order + 1)] == [int(j == 1) for j in range(order + 1)]
    # The next odd power is not cancelled, and K(ζ)² has the mean that is said.
    following = order + 1 + order % 2
    assert moment(powers, following) != 0
    squared = sum(c * moment(powers, j) for j, c in enumerate(powers))
    assert float(squared) == pytest.approx(kernel.second_moment, rel=1e-15)


def test_second_moments():
    assert [bach_perchet(k).second_moment for k in (1, 2, 3, 4, 5)] == [
        3,
        3,
        18.75,
        18.75,
        57.421875,
    ]


@pytest.mark.parametrize("order", [9, 31, 61])
def test_high_orders_evaluate_without_cancellation(order):
    nodes, weights = np.polynomial.legendre.leggauss(order + 5)
    values = bach_perchet(order)(nodes)
    for j in range(order + 1):
        assert weights @ (nodes**j * values) / 2 == pytest.approx(float(j == 1), abs=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_gradients_of_polynomials_are_unbiased(order):
    # Along one line, f of degree order (and one more, if that is even): no bias at any distance h.
    degree = order + order % 2
    f = np.polynomial.Polynomial(np.arange(1.0, degree + 2))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    kernel = bach_perchet(order)
    for h in (0.1, 2.0):
        slope = (f(0.3 + h * nodes) - f(0.3 - h * nodes)) / (2 * h) * kernel(nodes)
        assert weights @ slope / 2 == pytest.approx(f.deriv()(0.3), rel=1e-11)


def test_any_array_library_and_shape():
    kernel = bach_perchet(3)
    zeta = np.linspace(-1, 1, 12).reshape(3, 4)
    values = kernel(zeta)
    assert values.shape == (3, 4)
    np.testing.assert_allclose(kernel(-zeta), -values, rtol=1e-12, atol=1e-14)
    on_torch = kernel(torch.from_numpy(zeta))
    assert on_torch.dtype == torch.float64
    np.testing.assert_allclose(on_torch.numpy(), values, rtol=1e-15)
    assert kernel(torch.ones(2)).dtype == torch.float32
    assert kernel(1.0) == pytest.approx(-7.5)


def test_orders_that_make_no_sense():
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        bach_perchet(0)
    with pytest.raises(TypeError):
        bach_perchet(2.5)
