"""Keys of answers and groups of equal ones."""

import itertools
import json
import math
import operator
import pickle
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.testtime import equality
from modicum.testtime.equality import (
    NonTransitive,
    PairwiseKeys,
    as_canonicaliser,
    casefold,
    exact,
    group_equivalent,
    numeric,
    single_link,
)


def test_exact():
    assert exact("A b") == "A b" and exact(" a ") == " a "
    assert exact(7) == 7 and exact(np.int64(7)) == 7 and type(exact(np.float32(0.5))) is float
    assert exact(True) is True
    assert exact(Fraction(1, 3)) == Fraction(1, 3)
    assert exact(("f", 1)) == ("f", 1) and exact(frozenset({1})) == frozenset({1})


@pytest.mark.parametrize(
    "nothing", [None, "", " \n", math.nan, np.nan, np.float32("nan"), Decimal("nan")]
)
def test_no_answers(nothing):
    for canonicaliser in (exact, casefold, numeric(), numeric(link="single")):
        assert canonicaliser(nothing) is None
    assert exact(("f", nothing)) == ("f", None)


def test_what_cannot_be_a_key_becomes_json():
    assert exact([1, 2.0, "a"]) == '[1,2,"a"]'
    assert exact({"b": 1, "a": [None, True]}) == '{"a":[null,true],"b":1}'
    assert exact({"b": 1, "a": 2}) == exact({"a": 2.0, "b": 1})
    assert exact({3, 1, 2}) == exact({2, 3, 1}) == "[1,2,3]"
    assert exact(np.arange(4).reshape(2, 2)) == exact([[0, 1], [2, 3]]) == "[[0,1],[2,3]]"
    assert exact(([1], "x")) == ("[1]", "x")
    assert exact([[]]) != exact([{}])
    assert exact({"é": np.float64(0.5)}) == '{"é":0.5}'
    with pytest.raises(TypeError, match="object"):
        exact([object()])

    class Unhashable:
        __hash__ = None

    with pytest.raises(TypeError, match="Unhashable"):
        exact(Unhashable())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(a=st.lists(VALUES, max_size=3), b=st.lists(VALUES, max_size=3))
def test_json_keys_are_equal_exactly_for_equal_answers(a, b):
    assert json.loads(exact(a)) == a
    # True == 1 in Python but not in JSON.
    assert (exact(a) == exact(b)) == (
        json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    )
    hash(exact(a))


def test_casefold():
    assert casefold("  Straße \n 5") == casefold("STRASSE 5") == "strasse 5"
    assert casefold("ﬁne") == "fine"
    assert casefold("a") != casefold("b")
    assert casefold(5) == 5 and casefold(["A"]) == '["A"]'


@pytest.mark.parametrize(
    ("answers", "key"),
    [
        (
            ["1,234", "$1234", "1234.0", 1234, 1234.0, np.int32(1234), "1234.00000001", "**1234**"],
            1234,
        ),
        (["0.5", "1/2", ".5", "50e-2", 0.5, Fraction(1, 2), "0.50000001", "$0.5$"], 0.5),
        (["-3", "\N{MINUS SIGN}3", -3, "-$3.00", "-3."], -3),
        (["0", "-0", 0.0, "1e-12", -1e-10], 0),
        (["1e23", "1.0000001e23", 10**23], 10**23),
    ],
)
def test_numbers_with_one_key(answers, key):
    keys = [numeric()(answer) for answer in answers]
    assert keys == [key] * len(answers)
    assert all(isinstance(found, int) for found in keys) == isinstance(key, int)


@pytest.mark.parametrize(
    "other", ["blue", "12 apples", "2024-05-17", "1 2", True, math.inf, "1e9999", [1], object()]
)
def test_what_is_no_number(other):
    assert numeric()(other) is None


FINITE = st.floats(-1e20, 1e20) | st.integers(-(10**18), 10**18) | st.floats(-2, 2)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(a=FINITE, nudge=st.floats(-3e-6, 3e-6), keep=st.booleans())
def test_one_key_means_within_tolerance(a, nudge, keep):
    key_of = numeric(keep_integers=keep)
    b = a * (1 + nudge) + nudge * 1e-3
    if key_of(a) == key_of(b):
        # Rounding to doubles is the slack.
        assert abs(a - b) <= max(1e-9, 1e-6 * max(abs(a), abs(b))) * (1 + 1e-9)
    for number in (a, b):
        key = key_of(number)
        assert key_of(key) == key and hash(key) == hash(key_of(key))
        assert abs(key - number) <= max(1e-9, 1e-6 * abs(number)) * (0.5 + 1e-9)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(number=st.integers(-(2**53) + 1, 2**53 - 2))
def test_integers_stay_apart(number):
    assert numeric()(number) == number and numeric()(str(number)) == number
    assert numeric()(number + 1) != numeric()(number)


def test_integers_may_be_merged():
    loose = numeric(rtol=0.01, keep_integers=False)
    assert loose(1005) == loose(1001) == 1000 and loose(1016) == 1020
    assert numeric(rtol=0.01)(1005) == 1005
    assert numeric(rtol=0, atol=0)(0.1) == 0.1
    assert numeric(rtol=0, atol=0)("0.1000000001") != 0.1
    assert numeric(rtol=0, atol=0.5, keep_integers=False)(7.3) == 7.5
    assert numeric(rtol=0, atol=0)("18.00") == 18 and numeric(rtol=0, atol=0)(10**30) == 10**30


def test_integers_beyond_the_doubles():
    huge = 10**400
    assert numeric()(huge + 1) == huge and numeric(rtol=0, atol=0)(huge + 1) == huge + 1
    assert single_link([huge, huge + 1, huge, 1.5]) == [huge, huge + 1, huge, 1.5]


def test_the_grid_has_boundaries():
    # As close as two doubles can be about the boundary between two cells.
    middle = 1.0000005
    low, high = np.nextafter(middle, 0), np.nextafter(middle, 2)
    assert high - low < 1e-15
    assert numeric()(low) == 1 and numeric()(high) == 1.000001


@pytest.mark.parametrize("options", [{"rtol": -1}, {"atol": math.inf}, {"rtol": math.nan}])
def test_bad_tolerances(options):
    for make in (
        numeric,
        lambda **o: single_link([1], **o),
        lambda **o: numeric(link="single", **o),
    ):
        with pytest.raises(ValueError, match="tol must be finite"):
            make(**options)
    with pytest.raises(ValueError, match="link"):
        numeric(link="double")


def test_single_link_chains():
    chain = [1 + i * 0.009 for i in range(101)]
    assert single_link(chain, rtol=0, atol=0.01) == [1.0] * 101
    assert chain[-1] - chain[0] > 0.8
    # Without one link in the middle it is two groups, each named by its first member.
    broken = [*reversed(chain[:50]), *chain[51:]]
    keys = single_link(broken, rtol=0, atol=0.01)
    assert keys == [chain[49]] * 50 + [chain[51]] * 50
    assert single_link(["2", "x", 1, "1.0", None, 2.0000001]) == [2, None, 1, 1, None, 2]
    assert single_link([]) == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(numbers=st.lists(st.integers(0, 60), max_size=12))
def test_single_link_is_the_closure_of_closeness(numbers):
    keys = single_link(numbers, rtol=0, atol=2)
    assert keys == group_by_definition(numbers, lambda a, b: abs(a - b) <= 2)


def group_by_definition(answers, equal):
    """Return the first answer that is reachable from each, by merging sets while any can be."""
    distinct = list(dict.fromkeys(answers))
    groups = [{answer} for answer in distinct]
    merged = True
    while merged:
        merged = False
        for a, b in itertools.combinations(range(len(groups)), 2):
            if any(equal(x, y) and equal(y, x) for x in groups[a] for y in groups[b]):
                groups[a] |= groups.pop(b)
                merged = True
                break
    first = {member: min(group, key=distinct.index) for group in groups for member in group}
    return [first[answer] for answer in answers]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    answers=st.lists(st.integers(0, 7), max_size=12),
    edges=st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=24),
    seed=st.randoms(use_true_random=False),
)
def test_group_equivalent(answers, edges, seed):
    def equal(a, b):
        return a == b or (a, b) in edges

    both = {(a, b) for a in range(8) for b in range(8) if equal(a, b) and equal(b, a)}
    keys, caught = grouped(answers, equal)
    assert keys == group_by_definition(answers, lambda a, b: (a, b) in both)
    asked = set(answers)
    transitive = all(
        (a, c) in both
        for a, b, c in itertools.product(asked, repeat=3)
        if (a, b) in both and (b, c) in both
    )
    assert bool(caught) == (not transitive)
    # The partition is a matter of the answers, and not of their order.
    order = list(range(len(answers)))
    seed.shuffle(order)
    again, _ = grouped([answers[i] for i in order], equal)
    together = {(i, j) for i in order for j in order if keys[i] == keys[j]}
    place = {index: position for position, index in enumerate(order)}
    assert together == {(i, j) for i in order for j in order if again[place[i]] == again[place[j]]}


def grouped(answers, equal):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keys = group_equivalent(answers, equal)
    assert all(item.category is NonTransitive for item in caught) and len(caught) <= 1
    return keys, caught


def test_group_equivalent_asks_for_distinct_answers_only():
    asked = []

    def equal(a, b):
        asked.append((a, b))
        return a % 3 == b % 3

    keys = group_equivalent([4, 1, 4, 4, math.nan, 1, 2, None, 7], equal)
    assert keys == [4, 4, 4, 4, None, 4, 2, None, 4]
    assert {frozenset(pair) for pair in asked} == {
        frozenset(pair) for pair in itertools.combinations([4, 1, 2, 7], 2)
    }
    assert group_equivalent([["a"], ["a"], {"x": 1}], operator.eq) == ['["a"]', '["a"]', '{"x":1}']


def test_asymmetric_equality_counts_only_both_ways():
    assert group_equivalent([1, 2, 3], operator.le) == [1, 2, 3]
    keys = PairwiseKeys(operator.le)
    assert [keys(n) for n in (1, 2, 3, 1)] == [1, 2, 3, 1]


def close(a, b):
    return abs(a - b) <= 1


def test_not_transitive():
    with pytest.warns(NonTransitive, match="0 and 2 are both equal"):
        assert group_equivalent([0, 1, 2], close) == [0, 0, 0]
    keys = PairwiseKeys(close)
    assert keys(0) == 0 and keys(1) == 0
    with pytest.warns(NonTransitive, match="0 and 2"):
        assert keys(2) == 0
    # Said once; and of what was seen before nothing is looked up again.
    assert keys(3) == 0 and keys(1) == 0
    # The order decides: 0 and 2 are two groups, and 1 joins the first.
    keys = keys.fresh()
    assert keys(0) == 0 and keys(2) == 2
    with pytest.warns(NonTransitive):
        assert keys(1) == 0
    with pytest.warns(NonTransitive):
        numbers = numeric(rtol=0, atol=1, link="single")
        assert [numbers(x) for x in ("0", "1", 2.0, "blue")] == [0, 0, 0, None]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(answers=st.lists(st.integers(0, 40), max_size=20), modulus=st.integers(1, 7))
def test_one_at_a_time_as_all_at_once(answers, modulus):
    def equal(a, b):
        return a % modulus == b % modulus

    keys = PairwiseKeys(equal)
    assert [keys(answer) for answer in answers] == group_equivalent(answers, equal)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    answers=st.lists(st.integers(0, 5), max_size=8),
    edges=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=15),
)
def test_one_at_a_time_warns_exactly_if_groups_disagree(answers, edges):
    def equal(a, b):
        return a == b or (a, b) in edges or (b, a) in edges

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keys = PairwiseKeys(equal)
        named = {answer: keys(answer) for answer in answers}
    consistent = all(
        equal(a, b) == (named[a] == named[b]) for a, b in itertools.combinations(named, 2)
    )
    assert len(caught) == (0 if consistent else 1)


def test_pairwise_keys_are_for_one_prompt():
    asked = []

    def equal(a, b):
        asked.append((a, b))
        return a.lower() == b.lower()

    keys = PairwiseKeys(equal)
    assert [keys(a) for a in ("Yes", "yes", "YES", "no", " ", None)] == [
        "Yes", "Yes", "Yes", "no", None, None,
    ]  # fmt: skip
    count = len(asked)
    assert keys("yes") == "Yes" and len(asked) == count
    fresh = keys.fresh()
    assert fresh("yes") == "yes" and keys("yes") == "Yes" and len(asked) == count


def test_as_canonicaliser():
    assert as_canonicaliser(None) is exact
    assert as_canonicaliser(casefold) is casefold
    grid = numeric()
    assert as_canonicaliser(grid) is grid
    assert as_canonicaliser(int)("7") == 7
    assert as_canonicaliser(str.lower)("A") == "a"
    assert as_canonicaliser(lambda a, digits=2: round(a, digits))(0.123) == 0.12
    for pairwise in (operator.eq, math.isclose, lambda a, b: a == b, close):
        assert isinstance(as_canonicaliser(pairwise), PairwiseKeys)
    used = PairwiseKeys(close)
    used(5)
    fresh = as_canonicaliser(used)
    assert fresh is not used and fresh(6) == 6
    with pytest.raises(TypeError, match="equal must be"):
        as_canonicaliser("exact")


def test_canonicalisers_can_be_pickled():
    for canonicaliser in (exact, casefold, numeric(1e-3), numeric(link="single")):
        again = pickle.loads(pickle.dumps(canonicaliser))
        assert [again(a) for a in ("1.0", "1", "2")] == [
            canonicaliser(a) for a in ("1.0", "1", "2")
        ]


def test_the_door_to_math_verify_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    monkeypatch.setattr("modicum.testtime.integrations.math_verify.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "modicum-testtime\[math\]"'):
        equality.math_verify()


@pytest.mark.parametrize("text", ["9" * 500 + ".5", "9" * 400 + " 1/2", "-" + "9" * 310 + ".25"])
def test_numbers_beyond_the_doubles_have_no_key(text):
    assert numeric()(text) is None
    assert numeric()(Fraction(10**400 + 1, 2)) is None
