"""Edit programs rebuild what was said, and say so when they cannot."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from modicum.huper.edits import EditProgram, apply, editops, encode

PHONES = ("K", "AE", "T", "AH", "TH")
sequences = st.lists(st.sampled_from(PHONES), max_size=9)


def substitution_price(p, q):
    if p is None or q is None:
        return 0.9
    return 0.1 * (1 + abs(PHONES.index(p) - PHONES.index(q)))


def price_of(ops, source, target, price):
    total = 0.0
    for kind, i, j in ops:
        total += price(
            None if kind == "insert" else source[i], None if kind == "delete" else target[j]
        )
    return total


@settings(max_examples=400, deadline=None)
@given(sequences, sequences, st.sampled_from(["unit", substitution_price]))
def test_without_a_limit_nothing_is_lost(canonical, realized, cost):
    program = encode(canonical, realized, max_ins=None, cost=cost)
    assert program.lost == 0
    assert apply(program) == tuple(realized)


@settings(max_examples=400, deadline=None)
@given(sequences, sequences, st.integers(0, 3), st.sampled_from(["unit", substitution_price]))
def test_lost_is_the_number_of_phones_missing(canonical, realized, max_ins, cost):
    program = encode(canonical, realized, max_ins=max_ins, cost=cost)
    assert len(apply(program)) == len(realized) - program.lost
    assert all(len(slot) <= max_ins for slot in program.insertions)
    if program.lost == 0:
        assert apply(program) == tuple(realized)
    # What is left is the realized sequence with the lost phones taken out.
    rest = iter(realized)
    assert all(phone in rest for phone in apply(program))


@pytest.mark.filterwarnings("ignore:the reference scheme")
@settings(max_examples=400, deadline=None)
@given(sequences, sequences)
def test_reference_scheme_admits_its_losses(canonical, realized):
    program = encode(canonical, realized, scheme="reference")
    assert all(len(slot) <= 1 for slot in program.insertions)
    assert program.insertions[0] == ()
    if program.lost == 0:
        assert apply(program) == tuple(realized)
    if apply(program) != tuple(realized):
        assert program.lost > 0


@settings(max_examples=300, deadline=None)
@given(sequences, sequences)
def test_unit_cost_needs_the_levenshtein_distance(source, target):
    assert len(editops(source, target)) == Levenshtein.distance(source, target)
    found = editops(source, target, lambda p, q: 1.0)
    assert len(found) == Levenshtein.distance(source, target)


def test_weighted_alignment_is_cheapest_among_all():
    def every_price(source, target):
        if not source and not target:
            return [0.0]
        totals = []
        if source:
            first = substitution_price(source[0], None)
            totals += [first + rest for rest in every_price(source[1:], target)]
        if target:
            first = substitution_price(None, target[0])
            totals += [first + rest for rest in every_price(source, target[1:])]
        if source and target:
            same = source[0] == target[0]
            first = 0.0 if same else substitution_price(source[0], target[0])
            totals += [first + rest for rest in every_price(source[1:], target[1:])]
        return totals

    for n, m in itertools.product(range(4), range(4)):
        source, target = PHONES[:n], PHONES[::-1][:m]
        ops = editops(source, target, substitution_price)
        assert price_of(ops, source, target, substitution_price) == pytest.approx(
            min(every_price(source, target)), abs=1e-12
        )


def test_a_near_phone_is_substituted_and_a_far_one_deleted():
    def price(p, q):
        if p is None or q is None:
            return 0.9
        return 0.04 if {p, q} == {"N", "M"} else 0.4

    canonical, realized = ["HH", "AE", "N", "D"], ["HH", "AE", "M"]
    assert encode(canonical, realized, cost=price).ops == ("KEEP", "KEEP", "SUB:M", "DEL")
    # With equal prices the earliest edit wins.
    flat = encode(canonical, realized, cost=lambda p, q: 1.0)
    assert flat.ops == ("KEEP", "KEEP", "DEL", "SUB:M")


def test_slots_hold_insertions_before_between_and_after():
    program = encode(["K", "AE", "T"], ["AH", "K", "AE", "AE", "AE", "T", "TH"], max_ins=2)
    assert program.insertions[0] == ("AH",)
    assert program.insertions[3] == ("TH",)
    assert program.lost == 0
    assert apply(program) == ("AH", "K", "AE", "AE", "AE", "T", "TH")


def test_reference_scheme_puts_an_insertion_before_the_first_phone_after_it():
    with pytest.warns(UserWarning, match="lost or misplaced 1"):
        program = encode(["K", "AE", "T"], ["AH", "K", "AE", "T"], scheme="reference")
    assert apply(program) == ("K", "AH", "AE", "T")
    assert program.lost == 1


def test_reference_scheme_drops_insertions_after_the_last_phone():
    with pytest.warns(UserWarning, match="lost or misplaced 2"):
        program = encode(["K", "AE", "T"], ["K", "AE", "T", "AH", "TH"], scheme="reference")
    assert apply(program) == ("K", "AE", "T")
    assert program.lost == 2


def test_reference_scheme_keeps_the_last_insertion_of_a_slot():
    with pytest.warns(UserWarning, match="lost or misplaced 1"):
        program = encode(["K", "T"], ["K", "AE", "AH", "T"], scheme="reference")
    assert apply(program) == ("K", "AH", "T")
    assert program.lost == 1


def test_empty_sequences():
    assert apply(encode((), ())) == ()
    assert encode((), ("AH", "K")).insertions == (("AH", "K"),)
    assert encode(("AH", "K"), ()).ops == ("DEL", "DEL")
    with pytest.warns(UserWarning):
        assert encode((), ("AH",), scheme="reference").lost == 1


def test_json_round_trip():
    program = encode(["K", "AE", "T"], ["AH", "K", "TH", "T", "T", "T", "T"])
    assert program.lost > 0
    assert EditProgram.from_dict(json.loads(json.dumps(program.to_dict()))) == program


def test_bad_inputs_are_named():
    with pytest.raises(TypeError, match="tokens"):
        encode("K AE T", ["K"])
    with pytest.raises(ValueError, match="'slot'"):
        encode(["K"], ["K"], scheme="slot")
    with pytest.raises(ValueError, match="max_ins"):
        encode(["K"], ["K"], max_ins=-1)
    with pytest.raises(ValueError, match="'panphon'"):
        encode(["K"], ["K"], cost="panphon")
    with pytest.raises(ValueError, match=r"'K' → None.*-1"):
        encode(["K"], [], cost=lambda p, q: -1)
    with pytest.raises(ValueError, match="2 insertion slots"):
        EditProgram(("K",), ("KEEP",), ((),))
    with pytest.raises(ValueError, match="need 1 ops"):
        EditProgram(("K",), (), ((), ()))
    with pytest.raises(ValueError, match="'SUB:'"):
        EditProgram(("K",), ("SUB:",), ((), ()))
