"""Evidence: shapes, floors, joining, saving."""

import json

import numpy as np
import pytest

from modicum.umpwatermark.evidence import PROB_FLOOR, Evidence


def test_floor_and_order_of_probabilities():
    evidence = Evidence([0.5, 0.1], prob_S=[0.0, 1.0 + 5e-7], reach_S=[0.0, 0.4])
    assert evidence.prob_S.tolist() == [PROB_FLOOR, 1.0]
    # The sampler reaches a token at least as often as it takes it.
    assert evidence.reach_S.tolist() == [PROB_FLOOR, 1.0]


def test_take_concatenate_and_json():
    one = Evidence([0.25, 0.5, 0.75], prob_S=[0.1, 0.2, 0.3], match_S=[True, False, True])
    both = Evidence.concatenate([one.take([0]), Evidence.empty(), one.take(np.array([1, 2]))])
    assert len(both) == 3 and both.match_S.dtype == np.bool_
    back = Evidence.from_dict(json.loads(json.dumps(both.to_dict())))
    np.testing.assert_array_equal(back.y_S, one.y_S)
    np.testing.assert_array_equal(back.prob_S, one.prob_S)
    assert back.hit_S is None and len(Evidence.concatenate([])) == 0
    # A field that one part lacks is not made up.
    assert Evidence.concatenate([one, Evidence([0.5])]).prob_S is None
    assert len(Evidence.from_dict(json.loads(json.dumps(Evidence.empty().to_dict())))) == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"y_S": [0.0]}, "strictly between"),
        ({"y_S": [1.0]}, "strictly between"),
        ({"y_S": [np.nan]}, "strictly between"),
        ({"y_S": [0.5], "prob_S": [0.1, 0.2]}, "shape"),
        ({"y_S": [[0.5]]}, "shape"),
        ({"y_S": [0.5], "prob_S": [-0.1]}, "prob_S"),
        ({"y_S": [0.5], "prob_S": [np.nan]}, "prob_S"),
        ({"y_S": [0.5], "hit_prob_S": [1.5]}, "hit_prob_S"),
        ({"y_S": [0.5], "reach_S": [0.5]}, "needs prob_S"),
    ],
)
def test_bad_fields(fields, words):
    with pytest.raises(ValueError, match=words):
        Evidence(**fields)


def test_missing_fields_are_named():
    with pytest.raises(ValueError, match="match_S"):
        Evidence([0.5], prob_S=[0.5]).require("prob_S", "match_S")
    Evidence.empty().require("match_S")
    with pytest.raises(ValueError, match="fields"):
        Evidence.from_dict({"y_S": []})
