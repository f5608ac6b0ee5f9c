import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modicum.daved.features import (
    CallableFeatures,
    Identity,
    MinMax,
    RandomFourier,
    Shaped,
    Standardize,
    append_intercept,
    check_fingerprints,
    clip_norms,
    features_from_dict,
    logistic_row_weight,
    make_features,
    normalize_rows,
    one_hot,
)


def rows_of(seed=0, n=50, d=4, scale=(1.0, 10.0, 0.01, 1000.0)):
    return np.random.default_rng(seed).normal(3.0, 1.0, (n, d)) * np.asarray(scale[:d])


def test_identity_does_not_copy():
    rows = rows_of()
    assert Identity().transform(rows) is rows
    assert make_features().transform(rows) is rows


def test_integers_and_booleans_become_floats_and_half_precision_single():
    assert Identity().transform(np.ones((2, 3), dtype=bool)).dtype == np.float64
    assert Identity().transform([[1, 2], [3, 4]]).dtype == np.float64
    assert Identity().transform(np.ones((2, 3), dtype=np.float16)).dtype == np.float32


def test_standardize_equals_numpy_and_uses_the_sellers_moments_for_the_buyer():
    rows, queries = rows_of(), rows_of(seed=1, n=5)
    fitted = Standardize().fit(rows)
    np.testing.assert_allclose(
        fitted.transform(queries), (queries - rows.mean(0)) / rows.std(0), rtol=1e-10
    )
    found = fitted.transform(rows)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(found.std(0), 1, rtol=1e-10)


@pytest.mark.parametrize("kind", [Standardize, MinMax])
def test_constant_columns_become_zero(kind):
    rows = np.column_stack([np.full(6, 7.25), np.arange(6.0)])
    found = kind().fit_transform(rows)
    assert (found[:, 0] == 0).all()
    assert np.ptp(found[:, 1]) > 0


def test_min_max_is_within_0_and_1_and_reaches_both():
    found = MinMax().fit_transform(rows_of())
    assert (found.min(0) == 0).all()
    np.testing.assert_allclose(found.max(0), 1)


@pytest.mark.parametrize(
    "make", [Standardize, MinMax, lambda: RandomFourier(7)], ids=["standardize", "minmax", "rff"]
)
def test_shards_and_chunks_give_what_the_whole_gives(make, monkeypatch):
    rows = rows_of(n=53)
    whole = make().fit_transform(rows)
    monkeypatch.setattr("modicum.daved.pool._VALUES_OF_A_CHUNK", 20)
    found = make().fit_transform([rows[:1], rows[1:30], rows[30:]])
    assert [len(shard) for shard in found] == [1, 29, 23]
    np.testing.assert_allclose(np.concatenate(found), whole, atol=1e-9)


def test_moments_survive_an_offset_far_above_the_spread():
    rows = rows_of() + 1e8
    np.testing.assert_allclose(Standardize().fit(rows).scale_, rows.std(0), rtol=1e-6)


def test_a_memory_map_is_fitted_to_and_stays_one_under_identity(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, rows_of())
    mapped = np.load(path, mmap_mode="r")
    assert np.shares_memory(Identity().transform(mapped), mapped)
    np.testing.assert_array_equal(
        Standardize().fit_transform(mapped), Standardize().fit_transform(rows_of())
    )


def test_random_fourier_inner_products_approximate_the_kernel():
    rows, gamma, dim = np.random.default_rng(0).normal(size=(30, 3)), 0.4, 40_000
    found = RandomFourier(dim, gamma=gamma, seed=3).fit_transform(rows)
    apart = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    # A product is a mean of dim terms within ±2, so it deviates from exp(-gamma apart) by t with
    # probability 2 exp(-dim t²/8): 1e-6 for all 900 pairs at this t.
    bound = math.sqrt(8 / dim * math.log(2 * 900 / 1e-6))
    assert np.abs(found @ found.T - np.exp(-gamma * apart)).max() < bound


def test_random_fourier_scale_is_one_over_d_times_the_variance_of_all_values():
    rows = rows_of()
    assert RandomFourier(3).fit(rows).gamma_ == pytest.approx(1 / (4 * rows.var()), rel=1e-12)
    assert RandomFourier(3).fit(np.ones((5, 2))).gamma_ == 1.0


def test_random_fourier_features_depend_on_the_seed_only():
    rows = rows_of()
    first, again = (RandomFourier(5, seed=1).fit_transform(rows) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, RandomFourier(5, seed=2).fit_transform(rows))


def test_shape_is_norm_then_clip_then_ones():
    rows = np.array([[3.0, 4.0], [0.0, 0.0], [0.3, 0.4]])
    found = Shaped(Identity(), max_norm=1.0, fit_intercept=True).transform(rows)
    np.testing.assert_allclose(found, [[0.6, 0.8, 1], [0, 0, 1], [0.3, 0.4, 1]])
    found = make_features("identity", normalize="l2", max_norm=0.5).transform(rows)
    np.testing.assert_allclose(found, [[0.3, 0.4], [0, 0], [0.3, 0.4]])


def test_shape_keeps_single_precision_and_shards():
    shards = [rows_of(n=3).astype(np.float32), rows_of(n=2).astype(np.float32)]
    found = Shaped(Standardize(), "l2", 0.5, True).fit_transform(shards)
    assert [shard.shape for shard in found] == [(3, 5), (2, 5)]
    assert all(shard.dtype == np.float32 for shard in found)


floats = st.floats(-1e150, 1e150, allow_subnormal=False)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(arrays(np.float64, (3, 2), elements=floats), st.floats(1e-3, 1e3))
def test_norms_are_bounded_and_directions_kept(rows, max_norm):
    for found in (clip_norms(rows, max_norm), normalize_rows(rows)):
        # Parallel and not reversed: cross product 0 and no sign flipped, checked on scaled rows.
        assert (np.sign(found) * np.sign(rows) >= 0).all()
    assert np.hypot(*clip_norms(rows, max_norm).T).max() <= max_norm * (1 + 1e-12)
    norms = np.hypot(*normalize_rows(rows).T)
    given_norms = np.hypot(*rows.T)
    np.testing.assert_allclose(norms[given_norms > 0], 1, rtol=1e-12)
    assert (norms[given_norms == 0] == 0).all()


def test_rows_within_the_limit_keep_their_values_to_the_bit():
    rows = rows_of(scale=(0.1, 0.1, 0.1, 0.1))
    np.testing.assert_array_equal(clip_norms(rows, 100.0), rows)


def test_a_seller_who_inflates_rows_gains_nothing_under_l2_or_a_limit():
    rows = rows_of(n=6)
    for shape in ({"normalize": "l2"}, {"max_norm": 0.01}):
        features = make_features("identity", fit_intercept=True, **shape)
        np.testing.assert_allclose(
            features.transform(rows), features.transform(1000 * rows), rtol=1e-9
        )


def test_ones_are_appended_last():
    np.testing.assert_array_equal(append_intercept(np.zeros((2, 2))), [[0, 0, 1], [0, 0, 1]])


# Fingerprints.


def test_parties_with_the_same_map_share_a_fingerprint_and_others_do_not():
    rows = rows_of()
    made = {
        "identity": make_features("identity"),
        "l2": make_features("identity", normalize="l2"),
        "clip": make_features("identity", max_norm=1.0),
        "clip 2": make_features("identity", max_norm=2.0),
        "intercept": make_features("identity", fit_intercept=True),
        "standardize": make_features("standardize").fit(rows),
        "standardize of others": make_features("standardize").fit(rows[:-1]),
        "minmax": make_features("minmax").fit(rows),
        "rff": make_features("rff:8").fit(rows),
        "rff 9": make_features("rff:9").fit(rows),
        "rff seed": make_features("rff:8", seed=1).fit(rows),
        "rff gamma": make_features("rff:8", gamma=0.5).fit(rows),
        "callable": CallableFeatures(np.log, name="log"),
    }
    found = {name: features.fingerprint() for name, features in made.items()}
    assert len(set(found.values())) == len(found)
    assert all(len(value) == 64 and int(value, 16) >= 0 for value in found.values())
    assert make_features("rff:8").fit(rows.copy()).fingerprint() == found["rff"]
    assert make_features(max_norm=1).fingerprint() == found["clip"]


def test_a_fingerprint_stays_from_version_to_version():
    # sha256 of {"map":"identity"}, as sha256sum prints it.
    assert Identity().fingerprint() == hashlib.sha256(b'{"map":"identity"}').hexdigest()


@pytest.mark.parametrize("name", ["identity", "standardize", "minmax", "rff:6"])
@pytest.mark.parametrize("shape", [{}, {"normalize": "l2", "max_norm": 2, "fit_intercept": True}])
def test_a_map_travels_as_json(name, shape):
    rows = rows_of()
    sent = make_features(name, **shape).fit(rows)
    received = features_from_dict(json.loads(json.dumps(sent.describe())))
    assert received.fingerprint() == sent.fingerprint()
    np.testing.assert_array_equal(received.transform(rows[:9]), sent.transform(rows[:9]))


def test_other_frequencies_are_refused_and_functions_do_not_travel():
    sent = RandomFourier(4).fit(rows_of()).describe()
    with pytest.raises(ValueError, match="frequencies drawn here differ"):
        features_from_dict({**sent, "frequencies_sha256": "0" * 64})
    with pytest.raises(ValueError, match="not of 'callable'"):
        features_from_dict(CallableFeatures(np.log, name="log").describe())


def test_a_mismatch_names_the_parties_who_differ():
    assert check_fingerprints({"a": "x", "b": "x"}) == "x"
    with pytest.raises(ValueError, match="c do not have that of a"):
        check_fingerprints({"a": "x", "b": "x", "c": "y"})
    with pytest.raises(ValueError, match="no fingerprints"):
        check_fingerprints({})


def public_function(records):
    return np.asarray([[len(text), text.count("a")] for text in records])


def test_a_function_is_a_map_and_its_name_its_fingerprint():
    features = make_features(public_function, fit_intercept=True)
    np.testing.assert_array_equal(features.transform(["banana", "fig"]), [[6, 3, 1], [3, 0, 1]])
    description = CallableFeatures(public_function).describe()
    assert description["name"].endswith("public_function")
    with pytest.raises(ValueError, match="no name that parties can compare"):
        make_features(lambda records: records).fingerprint()
    named = CallableFeatures(lambda records: records, name="raw")
    assert named.fingerprint() == CallableFeatures(public_function, name="raw").fingerprint()


# Mistakes.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rff", "one of identity"),
        ("rff:", "one of identity"),
        ("rff:many", "whole number above 0"),
        ("rff:0", "whole number above 0"),
        ("identity:3", "one of identity"),
        ("hf:", "one of identity"),
        ("pca", "not 'pca'"),
        ("entk", "give module="),
        ("hook:0", "give module="),
    ],
)
def test_a_wrong_name_is_named(name, message):
    with pytest.raises(ValueError, match=message):
        make_features(name)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="not 'l1'"):
        make_features(normalize="l1")
    for max_norm in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_norm is a positive finite number"):
            make_features(max_norm=max_norm)
    for gamma in ("auto", 0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="gamma is a positive number"):
            RandomFourier(3, gamma=gamma)
    with pytest.raises(ValueError, match="asked for 0"):
        RandomFourier(0)
    with pytest.raises(TypeError, match="not 3"):
        make_features(3)
    with pytest.raises(TypeError, match="gamma"):
        make_features(Identity(), gamma=3)
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        Identity().transform(np.ones(3))


@pytest.mark.parametrize("name", ["standardize", "minmax", "rff:3"])
def test_maps_that_learn_ask_to_be_fitted_and_check_the_number_of_features(name):
    features = make_features(name)
    with pytest.raises(ValueError, match="call fit"):
        features.transform(rows_of())
    with pytest.raises(ValueError, match="call fit"):
        features.fingerprint()
    with pytest.raises(ValueError, match="0 rows"):
        features.fit(np.ones((0, 4)))
    with pytest.raises(ValueError, match="fitted to 4 features, the rows have 3"):
        features.fit(rows_of()).transform(np.ones((2, 3)))


# Classification.


def test_weighted_rows_have_the_information_matrix_of_a_logistic_model():
    rows = rows_of(scale=(1, 1, 1, 1))
    beta = np.array([0.2, -0.4, 0.1, 0.3])

    def minus_log_likelihood_gradient(b):
        return rows.T @ (1 / (1 + np.exp(-rows @ b)))

    step = 1e-5
    hessian = np.column_stack(
        [
            (
                minus_log_likelihood_gradient(beta + step * axis)
                - minus_log_likelihood_gradient(beta - step * axis)
            )
            / (2 * step)
            for axis in np.eye(4)
        ]
    )
    weighted = rows * np.sqrt(logistic_row_weight(1 / (1 + np.exp(-rows @ beta))))[:, None]
    np.testing.assert_allclose(weighted.T @ weighted, hessian, rtol=1e-6)


def test_probabilities_outside_are_named():
    with pytest.raises(ValueError, match=r"number 1 is 1\.5"):
        logistic_row_weight([0.5, 1.5])
    with pytest.raises(ValueError, match="number 0 is nan"):
        logistic_row_weight([math.nan])


def test_one_hot_names_its_columns():
    targets, classes = one_hot(["b", "a", "b"])
    assert list(classes) == ["a", "b"]
    np.testing.assert_array_equal(targets, [[0, 1], [1, 0], [0, 1]])


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123.456, 1e6 + 0.1])
@pytest.mark.parametrize("n", [3, 10, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_column_is_constant_whatever_its_mean_is_rounded_to(value, n, dtype):
    rows = np.column_stack([np.full(n, value), np.arange(n)]).astype(dtype)
    for records in (rows, [rows[:2], rows[2:]]):
        made = Standardize().fit(records)
        assert made.scale_ is not None and made.scale_[0] == 1.0
        np.testing.assert_array_equal(made.transform(rows)[:, 0], 0.0)
