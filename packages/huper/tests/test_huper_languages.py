"""Languages: the sentences, what is compared, and that each claim can fail."""

import warnings

import numpy as np
import pytest

from modicum.core.experiment import Experiment, RunContext
from modicum.huper import espeak
from modicum.huper.experiments import PACKAGE, languages
from modicum.huper.experiments._sentences import BRANCHES, ENGLISH, SENTENCES
from modicum.huper.metrics import pfer
from modicum.huper.recognizer import Recognizer
from modicum.huper.tiny import TinyConvCTC

needs_espeak = pytest.mark.skipif(not espeak.available(), reason=espeak.INSTALL)
pytest.importorskip("panphon", reason="feature errors need panphon")

SMALL = languages.Plan(0, ("de", "fi", "sw"), 2)


def context(path, **settings):
    made = Experiment("languages", PACKAGE, "title", "summary", languages.run)
    return RunContext(made, path, **settings)


def made_up(rates, other=0.5):
    """Return results of languages by arm."""
    names = [name for all_ in BRANCHES.values() for name in all_]
    count = len(next(iter(rates.values())))
    return {
        name: {
            "rates": {arm: [float(values[number])] for arm, values in rates.items()},
            "other": other,
            "segments": 100,
            "unknown": {},
        }
        for number, name in enumerate(names[:count])
    }


# The sentences ------------------------------------------------------------------------------------


def test_every_language_has_five_sentences_and_one_branch():
    assert all(len(set(texts)) == 5 for texts in SENTENCES.values())
    branched = [name for names in BRANCHES.values() for name in names]
    assert len(branched) == len(set(branched)) >= 40
    assert {*branched, ENGLISH} == set(SENTENCES)
    assert set(languages.FULL.languages) == set(branched)
    assert len(languages.QUICK.languages) >= 20 and set(languages.QUICK.languages) <= set(branched)
    texts = [text for all_ in SENTENCES.values() for text in all_]
    assert not any(letter.isdigit() for text in texts for letter in text)


@needs_espeak
def test_every_language_has_a_voice():
    assert set(SENTENCES) <= set(espeak.voices())


@needs_espeak
def test_references_have_no_stress_length_ties_or_marks():
    recordings, references = languages.spoken("de", 2)
    assert [one.dtype for one in recordings] == [np.float32] * 2
    assert min(map(len, recordings)) > 16000 * 0.8
    letters = "".join(phone for row in references for phone in row)
    assert letters and not set(letters) & set("ˈˌːˑ͜͡()_ ")
    assert "".join(references[0]).startswith("das")


# Listening ----------------------------------------------------------------------------------------


@needs_espeak
def test_rates_are_those_of_the_metric_and_yardsticks_are_there():
    tiny = Recognizer.from_pretrained("tiny", device="cpu").model
    fresh = [TinyConvCTC(seed=seed) for seed in (0, 1)]
    found = languages.listen("it", 2, {"tiny": [tiny], "untrained": fresh})
    recordings, references = languages.spoken("it", 2)
    said = languages.heard(tiny, recordings)
    settings = {"normaliser": languages.NORMALISER}
    assert found["rates"]["tiny"] == [pytest.approx(pfer(said, references, **settings))]
    assert found["other"] == pytest.approx(pfer(said, references[::-1], **settings))
    # To leave a segment out costs each feature that applies: nearly, and never more than, one.
    (silence,) = found["rates"]["silence"]
    assert 0.8 < silence < 1
    assert len(found["rates"]["untrained"]) == 2
    assert found["rates"]["tiny"][0] < min(found["other"], silence)
    # Affricates and length are the same to both sides.
    assert pfer([["CH", "IY"]], [["t", "ʃ", "iː"]], **settings) == 0


@needs_espeak
def test_a_small_run_and_its_end_after_a_break(monkeypatch, tmp_path):
    monkeypatch.setattr(languages, "QUICK", SMALL)
    first = languages.listen

    def stop(name, *rest):
        if name == "sw":
            raise KeyboardInterrupt
        return first(name, *rest)

    monkeypatch.setattr(languages, "listen", stop)
    with pytest.raises(KeyboardInterrupt):
        languages.run(context(tmp_path))
    asked = []

    def note(name, *rest):
        asked.append(name)
        return first(name, *rest)

    monkeypatch.setattr(languages, "listen", note)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = languages.run(context(tmp_path))
    assert asked == ["sw", ENGLISH]
    claims = {claim.name: claim for claim in result.claims}
    assert set(claims) == {"zero_shot", "untrained", "english"}
    # Three languages are too few for the first whatever they say.
    assert claims["zero_shot"].holds is False and claims["untrained"].holds is True
    assert claims["english"].holds is None
    table = result.tables[0]
    assert len(table.rows) == 5 and table.rows[-1][0] == ENGLISH and table.rows[-2][0] == "mean"
    assert table.columns[-1] == languages.OTHER
    # The mean is that of the rows above it.
    column = table.columns.index("shipped")
    shown = [float(row[column]) for row in table.rows]
    assert shown[-2] == pytest.approx(np.mean(shown[:-2]), abs=1e-3)


# Claims -------------------------------------------------------------------------------------------


def test_the_mean_of_languages_is_judged():
    plan = languages.FULL
    good = languages.zero_shot_claim(made_up({"ceiling": np.full(46, 0.15)}), "ceiling", plan)
    assert good.holds is True and good.measured == pytest.approx(0.15)
    bad = languages.zero_shot_claim(made_up({"ceiling": np.full(46, 0.21)}), "ceiling", plan)
    few = languages.zero_shot_claim(made_up({"ceiling": np.full(19, 0.15)}), "ceiling", plan)
    assert bad.holds is False and few.holds is False


def test_the_lesser_yardstick_counts():
    plan = languages.FULL
    rates = {"ceiling": np.full(46, 0.3), "silence": np.full(46, 0.92)}
    babble = made_up({**rates, "untrained": np.full(46, 2.1)})
    found = languages.untrained_claim(babble, "ceiling", plan)
    assert found.holds is True and found.measured == pytest.approx(0.3 / 0.92)
    shy = made_up({**rates, "untrained": np.full(46, 0.7)})
    found = languages.untrained_claim(shy, "ceiling", plan)
    assert found.holds is False and found.measured == pytest.approx(0.3 / 0.7)


def test_realized_labels_are_judged_against_canonical_ones():
    plan = languages.FULL
    one, two = np.linspace(0.1, 0.2, 46), np.linspace(0.1, 0.2, 46) + 0.01
    good = languages.realized_claim(made_up({"ceiling": one, "canonical": two}), plan)
    bad = languages.realized_claim(made_up({"ceiling": two, "canonical": one}), plan)
    assert good.holds is True and good.measured == pytest.approx(-0.01)
    assert bad.holds is False and bad.interval[0] <= bad.measured <= bad.interval[1]


def test_intervals_draw_branches():
    # Ten Slavic languages at one value and the others at another: drawn one by one the mean is
    # known far better than drawn by branch.
    names = [name for all_ in BRANCHES.values() for name in all_]
    values_L = np.array([1.0 if name in BRANCHES["Slavic"] else 0.0 for name in names])
    low, high = languages.mean_interval(values_L, names)
    error = values_L.std() / np.sqrt(len(values_L))
    assert low == 0 and high - low > 1.2 * 2 * 1.96 * error
