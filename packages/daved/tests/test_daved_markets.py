import numpy as np
import pytest

from modicum.daved import markets


def test_gaussian_market_is_the_published_one():
    market = markets.gaussian_market(20_000, 7, 50, validation=13, rng=np.random.default_rng(3))
    assert market.rows_nd.shape == (20_000, 7)
    assert market.queries_md.shape == (50, 7)
    assert market.validation_vd.shape == (13, 7)
    for rows in (market.rows_nd, market.queries_md, market.validation_vd):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)
    theta_d = np.linalg.lstsq(market.rows_nd, market.clean_n, rcond=None)[0]
    np.testing.assert_allclose(market.rows_nd @ theta_d, market.clean_n, atol=1e-12)
    # The buyers' answers have no noise; the labels of sellers and judges have.
    np.testing.assert_allclose(market.queries_md @ theta_d, market.answers_m, atol=1e-12)
    assert not np.allclose(market.validation_vd @ theta_d, market.validation_labels_v, atol=1e-3)
    # Six standard errors of a standard deviation: fails once in 10⁹.
    noise = (market.labels_n - market.clean_n).std()
    assert abs(noise - 0.1) < 6 * 0.1 / np.sqrt(2 * 20_000)
    assert market.prices_n.tolist() == [1.0] * 20_000


def test_coefficients_have_an_exponential_size_and_both_signs():
    market = markets.gaussian_market(900, 800, 1, rng=np.random.default_rng(0))
    theta_d = np.linalg.lstsq(market.rows_nd, market.clean_n, rcond=None)[0]
    # Exp(1) has mean 1 and standard deviation 1, the sign's standard error is 1 / (2 √800).
    assert abs(np.abs(theta_d).mean() - 1) < 6 / np.sqrt(800)
    assert abs((theta_d > 0).mean() - 0.5) < 6 * 0.5 / np.sqrt(800)
    assert abs((np.abs(theta_d) > 1).mean() - np.exp(-1)) < 6 * 0.5 / np.sqrt(800)


def test_rows_without_normalisation_are_standard_gaussian():
    rows = markets.gaussian_market(
        5000, 4, 1, normalize=False, rng=np.random.default_rng(0)
    ).rows_nd
    assert abs(np.square(rows).mean() - 1) < 6 * np.sqrt(2 / 20_000)


@pytest.mark.parametrize(("quality", "exponent"), [("sqrt", 0.5), ("linear", 1.0), ("square", 2.0)])
def test_dearer_records_have_less_noise(quality, exponent):
    rng = np.random.default_rng(1)
    plain = markets.gaussian_market(50_000, 3, 2, rng=rng)
    market = markets.priced_market(plain, quality, rng=rng)
    assert sorted(set(market.prices_n)) == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(market.noise_var_n, (0.5 / market.prices_n**exponent) ** 2)
    for price in (1, 3, 5):
        noise = (market.labels_n - market.clean_n)[market.prices_n == price]
        expected = 0.5 / price**exponent
        assert abs(noise.std() / expected - 1) < 6 / np.sqrt(2 * len(noise))
    assert market.rows_nd is plain.rows_nd
    assert plain.prices_n.tolist() == [1.0] * 50_000


def test_unknown_quality_lists_the_known_ones():
    plain = markets.gaussian_market(5, 3, 2, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"\['linear', 'sqrt', 'square'\], not 'cube'"):
        markets.priced_market(plain, "cube", rng=np.random.default_rng(0))


def test_inflated_rows_are_longer_and_the_others_stay():
    plain = markets.gaussian_market(100, 5, 2, rng=np.random.default_rng(0))
    market, indices = markets.inflate_rows(plain, 7, 4.0, np.random.default_rng(1))
    assert len(set(indices)) == 7
    expected = np.ones(100)
    expected[indices] = 4
    np.testing.assert_allclose(np.linalg.norm(market.rows_nd, axis=1), expected)
    np.testing.assert_allclose(np.linalg.norm(plain.rows_nd, axis=1), 1)
    assert market.labels_n is plain.labels_n


@pytest.mark.parametrize("name", markets.BUNDLED)
def test_bundled_tables_are_prepared_by_the_sellers_figures(name):
    market = markets.bundled_market(name, 40, validation=30, rng=np.random.default_rng(2))
    rows = market.rows_nd
    scale = rows[0, -1]
    assert scale > 0
    assert set(rows[:, -1]) == set(market.queries_md[:, -1]) == {scale}
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1).mean(), 1)
    features = rows[:, :-1] / scale
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-12)
    spread = features.std(axis=0)
    assert np.all(np.isclose(spread, 1) | (spread == 0))
    np.testing.assert_allclose([market.labels_n.mean(), market.labels_n.std()], [0, 1], atol=1e-12)
    # Figures of all rows would have made these exact.
    assert abs(market.answers_m.mean()) > 1e-4
    assert len(market.queries_md) == 40
    assert len(market.validation_vd) == 30
    assert np.isfinite(market.queries_md).all()


def test_bundled_split_loses_and_shares_no_row():
    market = markets.bundled_market("diabetes", 40, validation=30, rng=np.random.default_rng(2))
    parts = [market.rows_nd, market.queries_md, market.validation_vd]
    assert len(np.unique(np.concatenate(parts), axis=0)) == sum(map(len, parts)) == 442
    labels = markets.bundled_market("breast_cancer", rng=np.random.default_rng(0)).labels_n
    assert len(set(labels)) == 2
    assert len(set(markets.bundled_market("wine", rng=np.random.default_rng(0)).labels_n)) == 3


@pytest.mark.parametrize("part", ["buyers", "validation"])
def test_bundled_answers_belong_to_their_queries(part):
    # A linear table with noise of a few per cent: a model of the sellers' rows knows the answers.
    market = markets.bundled_market("make_regression", 40, rng=np.random.default_rng(5))
    theta_d = np.linalg.lstsq(market.rows_nd, market.labels_n, rcond=None)[0]
    rows, answers = {
        "buyers": (market.queries_md, market.answers_m),
        "validation": (market.validation_vd, market.validation_labels_v),
    }[part]
    assert np.square(rows @ theta_d - answers).mean() < 0.01 * np.square(answers).mean()


def test_seeds_repeat_and_differ():
    def made(seed):
        return markets.bundled_market("friedman1", rng=np.random.default_rng(seed))

    assert np.array_equal(made(4).rows_nd, made(4).rows_nd)
    assert not np.array_equal(made(4).rows_nd, made(5).rows_nd)


def test_bundled_refuses_what_it_has_not():
    with pytest.raises(ValueError, match=r"diabetes, breast_cancer, .*, not 'iris'"):
        markets.bundled_market("iris", rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="wine has 178 rows; 150 buyers and 28 validation"):
        markets.bundled_market("wine", 150, validation=28, rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_folds_make_every_row_a_buyer_once(name):
    total = {"wine": 178, "diabetes": 442}[name]
    made = list(markets.bundled_folds(name, 5, validation=20, rng=np.random.default_rng(0)))
    assert sum(len(market.queries_md) for market in made) == total
    for market in made:
        parts = [market.rows_nd, market.queries_md, market.validation_vd]
        assert len(market.validation_vd) == 20
        assert sum(map(len, parts)) == len(np.unique(np.concatenate(parts), axis=0)) == total
        # By the sellers of this fold, not of another.
        scale = market.rows_nd[0, -1]
        np.testing.assert_allclose((market.rows_nd[:, :-1] / scale).mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(market.labels_n.std(), 1)
    # A fold's preparation is affine: back in one fold's units, the buyers of all are all rows.
    raw = np.concatenate([_in_units_of(made[0], market) for market in made])
    assert len(np.unique(raw.round(6), axis=0)) == total


def _in_units_of(first, market):
    """Map a fold's buyers to another fold's units by rows that both know."""
    shared = np.concatenate([market.rows_nd, market.validation_vd, market.queries_md])
    target = np.concatenate([first.rows_nd, first.validation_vd, first.queries_md])
    shared_order = np.lexsort(shared.T)
    target_order = np.lexsort(target.T)
    matrix = np.linalg.lstsq(shared[shared_order], target[target_order], rcond=None)[0]
    return market.queries_md @ matrix


def test_folds_cover_the_table_and_answer_truly():
    # In this table every row has a different label, and labels are linear but for some noise.
    made = markets.bundled_folds("make_regression", 4, buyers=25, rng=np.random.default_rng(3))
    for market in made:
        assert len(market.queries_md) == 25
        assert len(market.rows_nd) == 2000 * 3 // 4 - 30
        theta_d = np.linalg.lstsq(market.rows_nd, market.labels_n, rcond=None)[0]
        missed = market.queries_md @ theta_d - market.answers_m
        assert np.square(missed).mean() < 0.01 * np.square(market.answers_m).mean()


def test_folds_refuse_what_cannot_be_dealt():
    def first(**settings):
        next(markets.bundled_folds("wine", rng=np.random.default_rng(0), **settings))

    for settings, message in (
        ({"folds": 1}, "folds must be from 2 to the 178 rows of wine, not 1"),
        ({"folds": 179}, "not 179"),
        ({"buyers": 0}, "buyers must be positive, not 0"),
        ({"folds": 2, "validation": 89}, "2 folds and 89 validation rows leave none"),
    ):
        with pytest.raises(ValueError, match=message):
            first(**settings)
    with pytest.raises(ValueError, match="not 'iris'"):
        next(markets.bundled_folds("iris", rng=np.random.default_rng(0)))


def test_corrupted_labels_are_as_many_and_as_wrong_as_said():
    plain = markets.gaussian_market(20_000, 5, 3, rng=np.random.default_rng(0))
    spread = plain.labels_n.std()
    for kind in markets.CORRUPTIONS:
        market, bad = markets.corrupt_labels(plain, 0.3, kind, np.random.default_rng(1))
        assert len(set(bad.tolist())) == 6000
        good = np.setdiff1d(np.arange(20_000), bad)
        assert np.array_equal(market.labels_n[good], plain.labels_n[good])
        assert market.rows_nd is plain.rows_nd
        assert market.answers_m is plain.answers_m
        if kind == "shift":
            np.testing.assert_allclose(market.labels_n[bad] - plain.labels_n[bad], 2 * spread)
        else:
            # Six standard errors, of a correlation and of a standard deviation.
            both = np.corrcoef(market.labels_n[bad], plain.labels_n[bad])[0, 1]
            assert abs(both) < 6 / np.sqrt(6000)
            assert abs(market.labels_n[bad].std() / spread - 1) < 6 / np.sqrt(2 * 6000)
    same, bad = markets.corrupt_labels(plain, 0.0, "shift", np.random.default_rng(1))
    assert len(bad) == 0
    assert np.array_equal(same.labels_n, plain.labels_n)


def test_corruption_refuses_what_it_does_not_know():
    plain = markets.gaussian_market(5, 3, 2, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="noise, shift, not 'flip'"):
        markets.corrupt_labels(plain, 0.1, "flip", np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"from 0 to 1, not 1\.5"):
        markets.corrupt_labels(plain, 1.5, "noise", np.random.default_rng(0))


@pytest.mark.parametrize(("quality", "exponent"), [("sqrt", 0.5), ("linear", 1.0), ("square", 2.0)])
def test_published_pricing_multiplies_labels_alone(quality, exponent):
    plain = markets.gaussian_market(500, 4, 3, rng=np.random.default_rng(0))
    market = markets.mislabelled_market(plain, quality, rng=np.random.default_rng(1))
    np.testing.assert_allclose(market.labels_n, market.prices_n**exponent * plain.labels_n)
    assert set(market.prices_n) == {1, 2, 3, 4, 5}
    assert market.rows_nd is plain.rows_nd
    assert market.answers_m is plain.answers_m
    assert market.noise_var_n is None
    with pytest.raises(ValueError, match="not 'cube'"):
        markets.mislabelled_market(plain, "cube", rng=np.random.default_rng(1))
