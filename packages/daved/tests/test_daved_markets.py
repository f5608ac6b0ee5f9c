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
