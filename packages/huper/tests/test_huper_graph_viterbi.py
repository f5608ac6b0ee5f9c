"""The decoder finds what enumerating every CTC path and every edit path finds."""

import itertools
import math
import warnings
from functools import lru_cache

import numpy as np
import pytest

from modicum.huper.channel import EditChannel, Weights
from modicum.huper.edits import apply
from modicum.huper.graph import Pause, fused_decode
from modicum.huper.graph.viterbi import best_path

NEG = -math.inf


def random_case(rng, frames, classes, length, sharpness=1.5):
    logits = rng.normal(size=(frames, classes)) * sharpness
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    canonical = rng.integers(1, classes, size=length)
    sub = rng.normal(-2, 1.2, size=(length, classes))
    sub[np.arange(length), canonical] = rng.normal(-0.3, 0.2, size=length)
    dele = -np.abs(rng.normal(-2, 1, length))
    weights = Weights(canonical, sub, dele, rng.normal(-2.5, 1, (length + 1, classes)))
    return logprobs, weights


@lru_cache
def all_paths(frames, classes):
    """Every frame labelling, what each says as (phone, first frame, end), and which say the same.

    Returns the labellings, what they say, the number of each one's phone sequence, and one
    labelling's saying per sequence.
    """
    paths = np.array(list(itertools.product(range(classes), repeat=frames)), int)
    paths = paths.reshape(classes**frames, frames)
    said = [said_in(path) for path in paths]
    numbers = {}
    number = [numbers.setdefault(tuple(q for q, _, _ in phones), len(numbers)) for phones in said]
    example = dict(zip(number, said, strict=True))
    return paths, said, np.array(number), [example[n] for n in range(len(numbers))]


def said_in(path):
    said = []
    for t, phone in enumerate(path):
        if phone and t and path[t - 1] == phone:
            said[-1][2] = t + 1
        elif phone:
            said.append([int(phone), t, t + 1])
    return tuple(map(tuple, said))


def edit_weight(said, weights, lam, maxdel, frames, repeat=None, restart=None, band=None):
    """Log-weight of the best edit path, by recursion over everything that may come next."""
    length = len(weights)
    lam_of = [lam] * (frames + 1) if np.ndim(lam) == 0 else [*lam, lam[-1]]
    bounds = [*(start for _, start, _ in said), frames]

    def inside(i, first, last):
        if band is None:
            return True
        return all(abs(i - length * (t + 1) / frames) <= band for t in range(first, last))

    @lru_cache(None)
    def best(m, i):
        if not inside(i, 0 if m == 0 else bounds[m - 1], bounds[m]):
            return NEG
        if m == len(said):
            rest = weights.dele[i:]
            return lam_of[-1] * rest.sum() if len(rest) <= maxdel + 1 else NEG
        phone, start, _ = said[m]
        jumps = [(i, 0.0)]
        if repeat is not None:
            jumps += [(j, (i - j) * repeat) for j in range(i)]
        if restart is not None and i > 0:
            jumps.append((0, restart))
        found = NEG
        for origin, price in jumps:
            for d in range(maxdel + 1):
                at = origin + d
                if at > length:
                    break
                before = lam_of[start] * (price + weights.dele[origin:at].sum())
                if at < length:
                    gain = lam_of[start] * weights.sub[at, phone]
                    found = max(found, before + gain + best(m + 1, at + 1))
                gain = lam_of[start] * weights.ins[at, phone]
                found = max(found, before + gain + best(m + 1, at))
        return found

    return best(0, 0)


def lm_weight(said, lm):
    if lm is None:
        return 0.0
    ids = [len(lm) - 1, *(phone for phone, _, _ in said), len(lm) - 1]
    return sum(lm[a, b] for a, b in itertools.pairwise(ids))


def pause_weight(path, pause):
    if pause is None:
        return 0.0
    runs = [sum(1 for _ in group) for phone, group in itertools.groupby(path) if phone == 0]
    return sum(pause.weight for run in runs if run >= pause.min_frames)


def brute_force(logprobs, weights, lam, maxdel, lm=None, silence=None, **graph):
    frames, classes = logprobs.shape
    paths, said, number, sequences = all_paths(frames, classes)
    scores = logprobs[np.arange(frames), paths].sum(1)
    if np.ndim(lam) == 0 and silence is None and graph.get("band") is None:
        # Edits depend on the phones alone: look at each sequence with its best path only.
        best = np.full(len(sequences), NEG)
        np.maximum.at(best, number, scores)
        return max(
            score
            + lm_weight(phones, lm)
            + edit_weight(phones, weights, lam, maxdel, frames, **graph)
            for score, phones in zip(best, sequences, strict=True)
        )
    return max(
        score
        + lm_weight(phones, lm)
        + pause_weight(path, silence)
        + edit_weight(phones, weights, lam, maxdel, frames, **graph)
        for path, score, phones in zip(paths, scores, said, strict=True)
    )


def check_path(path, logprobs, weights, lam, maxdel, lm=None, silence=None, **graph):
    """Score the path that was returned step by step, by what it says it did."""
    frames = len(logprobs)
    labels = np.zeros(frames, int)
    for phone, start, end in zip(path.ids, path.starts, path.ends, strict=True):
        assert (labels[start:end] == 0).all() and end > start
        labels[start:end] = phone
    said = said_in(labels)
    assert said == tuple(zip(path.ids, path.starts, path.ends, strict=True))
    score = logprobs[np.arange(frames), labels].sum() + lm_weight(said, lm)
    score += pause_weight(labels, silence)
    assert score + edit_weight(said, weights, lam, maxdel, frames, **graph) == pytest.approx(
        path.score, abs=1e-9
    )
    lam_of = [lam] * (frames + 1) if np.ndim(lam) == 0 else [*lam, lam[-1]]
    if not graph.get("repeat") and not graph.get("restart"):
        i = 0
        for m, phone in enumerate(path.ids):
            at, weight = path.positions[m], lam_of[path.starts[m]]
            assert at - path.deleted[m] == i and path.deleted[m] <= maxdel
            table = weights.ins if path.kinds[m] else weights.sub
            score += weight * (weights.dele[i:at].sum() + table[at, phone])
            i = at + (1 - path.kinds[m])
        assert len(weights) - i == path.trailing <= maxdel + 1
        score += lam_of[-1] * weights.dele[i:].sum()
        assert score == pytest.approx(path.score, abs=1e-9)


SHAPES = [
    # frames, classes, length, maxdel
    (1, 2, 0, 0),
    (1, 3, 1, 0),
    (2, 2, 3, 2),
    (3, 3, 2, 1),
    (4, 3, 4, 2),
    (5, 2, 2, 1),
    (5, 3, 3, 3),
    (5, 4, 2, 2),
    (6, 3, 2, 0),
    (4, 4, 0, 2),
    (6, 2, 4, 1),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_enumeration(shape):
    frames, classes, length, maxdel = shape
    rng = np.random.default_rng([71, *shape])
    reached = 0
    for trial in range(30):
        logprobs, weights = random_case(rng, frames, classes, length)
        lam = (0.0, 0.3, 1.0, 2.5)[trial % 4]
        expected = brute_force(logprobs, weights, lam, maxdel)
        path = best_path(logprobs, weights, 0, lam, maxdel)
        if expected == NEG:
            assert path is None
            continue
        reached += 1
        assert path.score == pytest.approx(expected, abs=1e-9)
        check_path(path, logprobs, weights, lam, maxdel)
    assert reached or length > (frames + 1) * (maxdel + 1)


OPTIONS = {
    "repeat": lambda rng, classes: {"repeat": -rng.uniform(0, 1.5)},
    "restart": lambda rng, classes: {"restart": -rng.uniform(0, 1.5)},
    "both": lambda rng, classes: {"repeat": -rng.uniform(0, 2), "restart": -rng.uniform(0, 2)},
    "lm": lambda rng, classes: {"lm": rng.normal(-1, 1.5, (classes + 1, classes + 1))},
    "lm and repeat": lambda rng, classes: {
        "lm": rng.normal(-1, 1.5, (classes + 1, classes + 1)),
        "repeat": -rng.uniform(0, 1.5),
    },
    "silence": lambda rng, classes: {"silence": Pause(int(rng.integers(1, 4)), rng.uniform(0, 3))},
    "silence and lm": lambda rng, classes: {
        "silence": Pause(int(rng.integers(1, 3)), rng.uniform(0, 3)),
        "lm": rng.normal(-1, 1.5, (classes + 1, classes + 1)),
    },
    "band": lambda rng, classes: {"band": rng.uniform(1, 2)},
    "band, repeat and silence": lambda rng, classes: {
        "band": 1.0,
        "repeat": -rng.uniform(0, 1.5),
        "silence": Pause(2, rng.uniform(0, 2)),
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_equal_enumeration(name):
    rng = np.random.default_rng([5, *name.encode()])
    differs = 0
    for trial in range(24):
        frames, classes, length, maxdel = [(4, 3, 2, 1), (5, 2, 3, 2), (4, 3, 3, 0)][trial % 3]
        logprobs, weights = random_case(rng, frames, classes, length, sharpness=2.5)
        if "repeat" in name or name in ("restart", "both"):
            frames, classes, length = 5, 3, 1 + trial % 2
            logprobs, weights = random_case(rng, frames, classes, length, sharpness=3.0)
            maxdel = 1
        options = OPTIONS[name](rng, classes)
        if "repeat" in options or "restart" in options:
            # Make saying a canonical phone again cheaper than any other explanation.
            keep = weights.sub[np.arange(len(weights)), weights.canonical]
            weights.sub[:] -= 4
            weights.sub[np.arange(len(weights)), weights.canonical] = keep
            weights.ins[:] -= 4
        lam = (1.0, 0.5)[trial % 2]
        expected = brute_force(logprobs, weights, lam, maxdel, **options)
        path = best_path(logprobs, weights, 0, lam, maxdel, **options)
        if expected == NEG:
            assert path is None
            continue
        assert path.score == pytest.approx(expected, abs=1e-9)
        check_path(path, logprobs, weights, lam, maxdel, **options)
        plain = best_path(logprobs, weights, 0, lam, maxdel)
        differs += plain is None or abs(plain.score - path.score) > 1e-6
    assert differs >= 3  # the option had something to decide


def test_weight_that_changes_over_time_equals_enumeration():
    rng = np.random.default_rng(13)
    for _ in range(20):
        logprobs, weights = random_case(rng, 4, 3, 2)
        lam = rng.uniform(0, 3, 4)
        path = best_path(logprobs, weights, 0, lam, 1)
        assert path.score == pytest.approx(brute_force(logprobs, weights, lam, 1), abs=1e-9)
        check_path(path, logprobs, weights, lam, 1)


def test_impossible_weights_stay_impossible():
    rng = np.random.default_rng(29)
    for trial in range(60):
        logprobs, weights = random_case(rng, 4, 3, 2)
        for table in (weights.sub, weights.dele, weights.ins):
            table[rng.uniform(size=table.shape) < 0.5] = NEG
        lam = (0.0, 1.0)[trial % 2]
        expected = (
            brute_force(
                logprobs,
                weights,
                1.0 if lam else 0.0,
                2,
            )
            if lam
            else brute_force(
                logprobs,
                Weights(
                    weights.canonical,
                    np.where(weights.sub == NEG, -1e6, 0.0),
                    np.where(weights.dele == NEG, -1e6, 0.0),
                    np.where(weights.ins == NEG, -1e6, 0.0),
                ),
                1.0,
                2,
            )
        )
        path = best_path(logprobs, weights, 0, lam, 2)
        if expected < -1e5:
            assert path is None
        else:
            assert path.score == pytest.approx(expected, abs=1e-9)


def spoken(ids, classes, frames_each=2, gap=1, certainty=0.9):
    """Clear emissions of a phone sequence."""
    rows = []
    for phone in ids:
        rows += [phone] * frames_each + [0] * gap
    logprobs = np.full((len(rows), classes), np.log((1 - certainty) / (classes - 1)))
    logprobs[np.arange(len(rows)), rows] = np.log(certainty)
    return logprobs


def plain_weights(canonical, classes, keep=-0.1, sub=-4.0, dele=-3.0, ins=-5.0):
    table = np.full((len(canonical), classes), sub)
    table[np.arange(len(canonical)), canonical] = keep
    return Weights(
        np.array(canonical, int),
        table,
        np.full(len(canonical), dele),
        np.full((len(canonical) + 1, classes), ins),
    )


def test_edits_are_named_and_placed():
    canonical = [1, 2, 3, 4]
    logprobs = spoken([5, 1, 3, 2], 6, certainty=0.99)
    found = fused_decode(logprobs, canonical, plain_weights(canonical, 6, ins=-4.0))
    assert found.ids == (5, 1, 3, 2)
    assert found.ops == ("ins", "keep", "keep", "sub")
    assert found.spans == ((0, 2), (3, 5), (6, 8), (9, 11))
    assert [(e.op, e.index, e.canonical, e.phone) for e in found.edits] == [
        ("ins", 0, None, "5"),
        ("keep", 0, "1", "1"),
        ("del", 1, "2", None),
        ("keep", 2, "3", "3"),
        ("sub", 3, "4", "2"),
    ]
    assert found.deleted == (1,)
    assert found.program.ops == ("KEEP", "DEL", "KEEP", "SUB:2")
    assert apply(found.program) == found.phones


def test_trailing_deletions_are_listed():
    canonical = [1, 2, 3]
    found = fused_decode(spoken([1], 4, certainty=0.99), canonical, plain_weights(canonical, 4))
    assert [e.op for e in found.edits] == ["keep", "del", "del"]
    assert found.deleted == (1, 2)


def test_repetition_and_restart_are_named():
    canonical = [1, 2, 3]
    logprobs = spoken([1, 2, 1, 2, 3], 4, certainty=0.999)
    stutter = fused_decode(logprobs, canonical, plain_weights(canonical, 4), repeat=-1.0)
    assert stutter.ids == (1, 2, 1, 2, 3)
    assert stutter.ops == ("keep", "keep", "rep", "rep", "keep")
    assert apply(stutter.program) == stutter.phones
    restart = fused_decode(logprobs, canonical, plain_weights(canonical, 4), restart=-1.5)
    assert restart.ops == stutter.ops
    assert restart.score == pytest.approx(stutter.score + 2.0 - 1.5, abs=1e-9)
    without = fused_decode(logprobs, canonical, plain_weights(canonical, 4))
    assert "rep" not in without.ops and without.score < stutter.score


def test_pauses_are_reported():
    logprobs = spoken([1, 2], 4, gap=6, certainty=0.99)
    canonical = [1, 2]
    found = fused_decode(logprobs, canonical, plain_weights(canonical, 4), silence=Pause(5))
    assert found.pauses == ((2, 8), (10, 16))
    none = fused_decode(logprobs, canonical, plain_weights(canonical, 4), silence=Pause(7))
    assert none.pauses == ()
    assert none.score == found.score


def test_alternatives_are_a_union():
    class Channel:
        phones = None

        def weights(self, canonical):
            return plain_weights(list(canonical), 6)

    logprobs = spoken([3, 4], 6)
    first = fused_decode(logprobs, [1, 2], Channel())
    second = fused_decode(logprobs, [3, 4], Channel())
    both = fused_decode(logprobs, [1, 2], Channel(), alternatives=[([3, 4], -0.5)])
    assert both.canonical == ("3", "4")
    assert both.score == pytest.approx(second.score - 0.5, abs=1e-12)
    unlikely = fused_decode(logprobs, [1, 2], Channel(), alternatives=[([3, 4], -1000.0)])
    assert unlikely == first


def test_wide_band_changes_nothing_and_a_narrow_one_keeps_to_the_diagonal():
    rng = np.random.default_rng(3)
    logprobs, weights = random_case(rng, 60, 8, 20)
    free = best_path(logprobs, weights)
    assert best_path(logprobs, weights, band=20) == free
    assert best_path(logprobs, weights, band=3).score <= free.score
    # A speaker who stays on the diagonal is found with a narrow band.
    canonical = list(rng.integers(1, 8, size=20))
    spoken_TC = spoken(canonical, 8, certainty=0.97)
    weights = plain_weights(canonical, 8)
    assert best_path(spoken_TC, weights, band=2) == best_path(spoken_TC, weights)


def test_too_few_frames_give_the_bottom_up_phones_and_say_so():
    canonical = [1, 2, 1, 2, 1, 2, 1]
    logprobs = spoken([2], 3, frames_each=1, gap=0)
    found = fused_decode(logprobs, canonical, plain_weights(canonical, 3), maxdel=1)
    assert found.reason == "no_path"
    assert found.score == NEG
    assert found.phones == ("2",) and found.spans == ((0, 1),)
    assert apply(found.program) == found.phones
    assert best_path(logprobs, plain_weights(canonical, 3), 0, 1.0, 1) is None
    assert fused_decode(logprobs, canonical, plain_weights(canonical, 3), maxdel=6).reason is None


def test_no_frames_and_no_reference():
    empty = np.zeros((0, 3))
    nothing = fused_decode(empty, [], plain_weights([], 3))
    assert (nothing.phones, nothing.score, nothing.reason) == ((), 0.0, None)
    assert fused_decode(empty, [1, 2], plain_weights([1, 2], 3), maxdel=0).reason == "no_path"
    assert fused_decode(empty, [1, 2], plain_weights([1, 2], 3), maxdel=1).score == -6.0


def test_blank_is_never_said():
    rng = np.random.default_rng(8)
    for blank in (0, 2):
        logprobs, weights = random_case(rng, 6, 3, 2)
        weights.sub[:, blank] = weights.ins[:, blank] = 100.0
        path = best_path(logprobs, weights, blank)
        assert blank not in path.ids


def test_memory_warning_names_the_band():
    weights = plain_weights([1] * 3000, 500)
    huge = np.broadcast_to(np.full(500, -np.log(500)), (3000, 500))
    from modicum.huper.graph import viterbi

    with pytest.warns(UserWarning, match=r"GiB; a band"):
        viterbi._Recursion(huge, weights, 0, np.ones(3001), 2, None, None, None, None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A minute of audio with the band that the warning asks for, and half a minute without.
        viterbi._Recursion(huge, weights, 0, np.ones(3001), 2, None, None, None, None, 50.0)
        short = plain_weights([1] * 400, 500)
        viterbi._Recursion(huge[:1500], short, 0, np.ones(1501), 2, None, None, None, None, None)


def test_bad_inputs_are_named():
    rng = np.random.default_rng(0)
    logprobs, weights = random_case(rng, 4, 3, 2)
    canonical = weights.canonical.tolist()
    with pytest.raises(ValueError, match="sum to"):
        fused_decode(logprobs + 1, canonical, weights)
    with pytest.raises(ValueError, match="NaN"):
        fused_decode(logprobs * np.nan, canonical, weights)
    with pytest.raises(ValueError, match="lam"):
        fused_decode(logprobs, canonical, weights, lam=-1)
    with pytest.raises(ValueError, match="maxdel"):
        fused_decode(logprobs, canonical, weights, maxdel=-1)
    with pytest.raises(ValueError, match="repeat"):
        fused_decode(logprobs, canonical, weights, repeat=0.5)
    with pytest.raises(ValueError, match="band"):
        fused_decode(logprobs, canonical, weights, band=0)
    with pytest.raises(ValueError, match="not to"):
        fused_decode(logprobs, [*canonical, 1], weights)
    with pytest.raises(ValueError, match="phone set"):
        fused_decode(logprobs, ["K", "AE"], weights)
    with pytest.raises(ValueError, match=r"\(C \+ 1, C \+ 1\)"):
        fused_decode(logprobs, canonical, weights, lm=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="backend"):
        fused_decode(logprobs, canonical, weights, backend="k2")
    with pytest.raises(ValueError, match="min_frames"):
        Pause(0)
    with pytest.raises(ValueError, match="at least 0"):
        Pause(3, -1.0)


def test_a_pause_is_more_than_a_weight():
    channel = EditChannel.fit([])
    rows_TC = np.full((9, len(channel.phones)), -np.log(len(channel.phones)))
    with pytest.raises(TypeError, match=r"silence is a graph.Pause, .* got -1.0"):
        fused_decode(rows_TC, ["AA"], channel, silence=-1.0)
