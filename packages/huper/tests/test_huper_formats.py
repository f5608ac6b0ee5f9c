"""Files for other programs: what they must keep to, and that readers get everything back."""

import csv
import io
import math
import random
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.huper import formats
from modicum.huper.formats import Interval, Point, TextGrid, Tier
from modicum.huper.transcript import Edit, Span, TimedWord, Transcript


def transcript(edits: list[Edit], words: tuple[TimedWord, ...] = ()) -> Transcript:
    said = [one for one in edits if one.phone is not None]
    return Transcript(
        phones=tuple(one.phone for one in said),
        spans=tuple(one.span for one in said),
        confidences=tuple(0.5 + 0.1 * number for number in range(len(said))),
        edits=tuple(edits),
        canonical=tuple(one.canonical for one in edits if one.op in ("keep", "sub", "del")),
        words=words,
    )


def last_sunday() -> Transcript:
    """Last Sunday without its t, a th-like s, and a vowel at the end: gaps, and none."""
    return transcript(
        [
            Edit("keep", 0, "L", "L", Span(0.1, 0.14)),
            Edit("keep", 1, "AE", "AE", Span(0.14, 0.3)),
            Edit("keep", 2, "S", "S", Span(0.3, 0.4)),
            Edit("del", 3, "T", None, None),
            Edit("sub", 4, "S", "TH", Span(0.4, 0.5)),
            Edit("del", 5, "AH", None, None),
            Edit("keep", 6, "N", "N", Span(0.6, 0.7)),
            Edit("rep", 6, "N", "N", Span(0.7, 0.72)),
            Edit("ins", 7, None, "AH", Span(0.8, 0.9)),
        ],
        (
            TimedWord("last", ("L", "AE", "S", "T"), ("L", "AE", "S"), Span(0.1, 0.4)),
            TimedWord("Sun", ("S", "AH", "N"), ("TH", "N", "N"), Span(0.4, 0.72)),
            TimedWord('"a"', ("AH",), ("AH",), Span(0.8, 0.9)),
        ),
    )


def texts(tier: Tier) -> list[tuple[float, float, str]]:
    return [(round(one.start, 9), round(one.end, 9), one.text) for one in tier.intervals]


def test_the_tiers_show_words_phones_and_edits() -> None:
    grid = formats.parse_textgrid(formats.textgrid(last_sunday(), 1.0))
    assert [tier.name for tier in grid.tiers] == ["words", "canonical", "realized", "edits"]
    assert texts(grid["words"]) == [
        (0.0, 0.1, ""),
        (0.1, 0.4, "last"),
        (0.4, 0.72, "Sun"),
        (0.72, 0.8, ""),
        (0.8, 0.9, '"a"'),
        (0.9, 1.0, ""),
    ]
    assert texts(grid["canonical"]) == [
        (0.0, 0.1, ""),
        (0.1, 0.14, "L"),
        (0.14, 0.3, "AE"),
        (0.3, 0.4, "S T"),  # no gap behind S: the lost T shares its interval
        (0.4, 0.5, "S"),
        (0.5, 0.55, "AH"),  # a gap: the lost vowel has 50 ms of it
        (0.55, 0.6, ""),
        (0.6, 0.7, "N"),
        (0.7, 0.72, "N"),
        (0.72, 0.8, ""),
        (0.8, 0.9, ""),
        (0.9, 1.0, ""),
    ]
    assert [text for _, _, text in texts(grid["realized"]) if text] == list(last_sunday().phones)
    assert [text for _, _, text in texts(grid["edits"])] == [
        *["", "keep", "keep", "keep; del T", "sub S>TH", "del AH", "", "keep", "rep N", ""],
        *["ins AH", ""],
    ]


def test_quotes_are_doubled_and_long_form_is_praats() -> None:
    lines = formats.textgrid(last_sunday(), 1.0).split("\n")
    assert lines[:8] == [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0.0 ",
        "xmax = 1.0 ",
        "tiers? <exists> ",
        "size = 4 ",
        "item []: ",
    ]
    assert lines[8:18] == [
        "    item [1]:",
        '        class = "IntervalTier" ',
        '        name = "words" ',
        "        xmin = 0.0 ",
        "        xmax = 1.0 ",
        "        intervals: size = 6 ",
        "        intervals [1]:",
        "            xmin = 0.0 ",
        "            xmax = 0.1 ",
        '            text = "" ',
    ]
    assert '            text = """a""" ' in lines


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        # Nothing was said: what is missing stands at the beginning, 50 ms each.
        ([("del", "A"), ("del", "B")], [(0, 0.05, "A"), (0.05, 0.1, "B"), (0.1, 1, "")]),
        # Missing before the first phone: right before it.
        ([("del", "A"), ("keep", 0.5, 1)], [(0, 0.45, ""), (0.45, 0.5, "A"), (0.5, 1, "X")]),
        # No room before it: it shares the first interval.
        ([("del", "A"), ("keep", 0.001, 1)], [(0, 0.001, ""), (0.001, 1, "A X")]),
        ([("del", "A"), ("keep", 0, 1)], [(0, 1, "A X")]),
        # A short gap is shared equally, without rests.
        (
            [("keep", 0, 0.5), ("del", "A"), ("del", "A"), ("keep", 0.54, 1)],
            [(0, 0.5, "X"), (0.5, 0.52, "A"), (0.52, 0.54, "A"), (0.54, 1, "X")],
        ),
        # No room at the end.
        ([("keep", 0, 1), ("del", "A"), ("del", "B")], [(0, 1, "X A B")]),
        # Times whose last bits differ are one; a phone without length has no time of its own.
        (
            [("keep", 0, 0.1 + 0.2), ("keep", 0.3, 0.3), ("keep", 0.3, 1 + 1e-9)],
            [(0, 0.3, "X X"), (0.3, 1, "X")],
        ),
    ],
)
def test_what_was_not_said_gets_the_gap_or_its_neighbour(edits, expected) -> None:
    made = []
    for number, one in enumerate(edits):
        if one[0] == "del":
            made.append(Edit("del", number, one[1], None, None))
        else:
            made.append(Edit("keep", number, "X", "X", Span(one[1], one[2])))
    grid = formats.parse_textgrid(formats.textgrid(transcript(made), 1.0))
    assert texts(grid["canonical"]) == expected


@pytest.mark.parametrize("seed", range(200))
def test_every_layout_covers_the_time_and_loses_no_label(seed: int) -> None:
    pick = random.Random(seed)
    shift, at, edits = pick.choice([0.02, 0.01, 1 / 49.95]), 0, []
    for number in range(pick.randint(0, 12)):
        kind = pick.choice(["keep", "sub", "del", "ins", "rep"])
        if kind == "del":
            edits.append(Edit("del", number, f"c{number}", None, None))
            continue
        at += pick.choice([0, 0, 1, 7])
        span = Span(at * shift, (at + (width := pick.choice([1, 2, 9]))) * shift)
        at += width
        canonical = None if kind == "ins" else f"c{number}"
        edits.append(Edit(kind, number, canonical, f"p{number}", span))
    duration = max(at * shift + pick.choice([0, 0, 0.005, 2]), 0.001)
    one = transcript(edits)
    for form in ("long", "short"):
        # Writing refuses a tier with gaps, overlaps or intervals without length.
        grid = formats.parse_textgrid(formats.textgrid(one, duration, form=form))
        assert (grid.start, grid.end) == (0.0, duration)
        found = {tier.name: " ".join(one.text for one in tier.labelled) for tier in grid.tiers}
        assert found["realized"].split() == list(one.phones)
        assert found["canonical"].split() == [e.canonical for e in edits if e.canonical]
        ops = found["edits"].replace(";", "").split()
        assert [op for op in ops if op in ("keep", "sub", "del", "ins", "rep")] == [
            e.op for e in edits
        ]
        said = {(one.start, one.end) for one in grid["realized"].labelled}
        assert said == {(span.start, span.end) for span in one.spans}


def test_duration_of_nothing_must_be_given() -> None:
    nothing = Transcript((), (), ())
    with pytest.raises(ValueError, match="give the duration"):
        nothing.to_textgrid()
    grid = formats.parse_textgrid(nothing.to_textgrid(2.5))
    assert [tier.intervals for tier in grid.tiers] == [(Interval(0.0, 2.5, ""),)] * 4
    assert last_sunday().to_textgrid() == formats.textgrid(last_sunday(), 0.9)


@pytest.mark.parametrize("duration", [0, -1.0, math.inf, math.nan, 0.85])
def test_durations_that_cannot_be(duration: float) -> None:
    with pytest.raises(ValueError, match="duration"):
        formats.textgrid(last_sunday(), duration)


def test_overlapping_phones_are_refused() -> None:
    both = transcript(
        [Edit("ins", 0, None, "A", Span(0, 0.5)), Edit("ins", 0, None, "B", Span(0.4, 0.6))]
    )
    with pytest.raises(ValueError, match=r"starts at 0\.4 s, before 0\.5 s"):
        formats.textgrid(both, 1.0)


# Reading TextGrids ------------------------------------------------------------------------------

_text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\x00"), max_size=12)


@st.composite
def grids(draw: st.DrawFn) -> TextGrid:
    tiers = []
    for _ in range(draw(st.integers(0, 3))):
        edges = sorted(draw(st.sets(st.floats(-1e3, 1e6), min_size=2, max_size=6)))
        start, end = edges[0], edges[-1]
        if draw(st.booleans()):
            intervals = tuple(Interval(left, right, draw(_text)) for left, right in pairwise(edges))
            tiers.append(Tier(draw(_text), start, end, intervals))
        else:
            points = tuple(Point(time, draw(_text)) for time in edges[:-2])
            tiers.append(Tier(draw(_text), start, end, points=points))
    return TextGrid(-1e3, 1e6, tuple(tiers))


@settings(max_examples=100, deadline=None)
@given(grids(), st.sampled_from(["long", "short"]))
def test_any_textgrid_comes_back(grid: TextGrid, form: str) -> None:
    assert formats.parse_textgrid(grid.to_text(form)) == grid


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_ends_of_other_programs(tmp_path, encoding: str, newline: str) -> None:
    grid = TextGrid(0.0, 1.0, (Tier("ʃ", 0.0, 1.0, (Interval(0.0, 1.0, 'ɜ˞ "ü"'),)),))
    path = tmp_path / "a.TextGrid"
    path.write_bytes(grid.to_text().replace("\n", newline).encode(encoding))
    assert formats.read_textgrid(path) == grid


def test_latin_1_must_be_named(tmp_path) -> None:
    grid = TextGrid(0.0, 1.0, (Tier("ü", 0.0, 1.0, (Interval(0.0, 1.0, "é"),)),))
    path = tmp_path / "old.TextGrid"
    path.write_bytes(grid.to_text().encode("latin-1"))
    with pytest.raises(ValueError, match=r"old\.TextGrid is not text in utf-8"):
        formats.read_textgrid(path)
    assert formats.read_textgrid(path, "latin-1") == grid


def test_saving_is_utf8_and_read_back(tmp_path) -> None:
    grid = formats.parse_textgrid(formats.textgrid(last_sunday(), 1.0))
    path = grid.save(tmp_path / "new" / "a.TextGrid", "short")
    assert path.read_text(encoding="utf-8") == grid.to_text("short")
    assert formats.read_textgrid(path) == grid


def test_words_around_the_values_are_passed_over() -> None:
    # By Praat's manual: free-standing strings, numbers and flags count, comments and words do not.
    text = """File type = "ooTextFile short"
    "TextGrid" ! a comment with "quotes" and 5
    0 seconds to 2.5 seconds
    <exists>
    number1 of tiers: 2 tiers
    "IntervalTier" named "a" from 0 to 2.5 has 1 interval [7]:
    0 2.5 "x
y"
    "TextTier" "" 0 2.5 1 25% "p"
    """
    grid = formats.parse_textgrid(text)
    assert grid == TextGrid(
        0.0,
        2.5,
        (
            Tier("a", 0.0, 2.5, (Interval(0.0, 2.5, "x\ny"),)),
            Tier("", 0.0, 2.5, points=(Point(0.25, "p"),)),
        ),
    )
    with pytest.raises(KeyError, match="'b'"):
        grid["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: a text in quotes is missing, the file ends"),
        ('"ooTextFile" "Pitch" 0', "'Pitch'"),
        ('"Praat chronological TextGrid text file"\n0 1', "a text in quotes is missing"),
        ('"ooTextFile" "TextGrid"\n0 <exists>', "line 2: a number is missing, there is 'exists'"),
        ('"ooTextFile" "TextGrid" 0 1 <exists> 1.5', "1.5"),
        ('"ooTextFile" "TextGrid" 0 1 <exists> 1 "Tier" "a"', "'Tier'"),
        ('"ooTextFile" "TextGrid" 0 1 <exists> 1 "TextTier" "a" 0 1 2 0 "p"', "the file ends"),
    ],
)
def test_broken_textgrids(tmp_path, text: str, message: str) -> None:
    (tmp_path / "bad.TextGrid").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        formats.read_textgrid(tmp_path / "bad.TextGrid")
    assert "bad.TextGrid" in str(caught.value)


def test_files_that_are_no_text(tmp_path) -> None:
    (tmp_path / "b.TextGrid").write_bytes(b"ooBinaryFile\x08TextGrid\x00\xff")
    with pytest.raises(ValueError, match="binary"):
        formats.read_textgrid(tmp_path / "b.TextGrid")
    with pytest.raises(FileNotFoundError):
        formats.read_textgrid(tmp_path / "none.TextGrid")


@pytest.mark.parametrize(
    "intervals",
    [
        (Interval(0.0, 0.5, "a"),),
        (Interval(0.1, 1.0, "a"),),
        (Interval(0.0, 0.5, "a"), Interval(0.6, 1.0, "b")),
        (Interval(0.0, 0.0, "a"), Interval(0.0, 1.0, "b")),
        (),
    ],
)
def test_tiers_with_gaps_are_not_written(intervals) -> None:
    with pytest.raises(ValueError, match="tier 't'"):
        TextGrid(0.0, 1.0, (Tier("t", 0.0, 1.0, intervals),)).to_text()


def test_a_form_is_long_or_short() -> None:
    with pytest.raises(ValueError, match="'binary'"):
        TextGrid(0.0, 1.0, ()).to_text("binary")


@pytest.mark.parametrize("form", ["long", "short"])
def test_praat_reads_and_writes_what_we_do(tmp_path, form: str) -> None:
    praat = pytest.importorskip("parselmouth", reason="needs praat-parselmouth, Praat as a module")
    grid = formats.parse_textgrid(formats.textgrid(last_sunday(), 1.0))
    path, again = grid.save(tmp_path / "a.TextGrid", form), tmp_path / "b.TextGrid"
    for command in ("Save as text file", "Save as short text file"):
        praat.praat.call(praat.read(str(path)), command, str(again))
        assert formats.read_textgrid(again) == grid


# CTM ----------------------------------------------------------------------------------------------


def test_ctm_of_phones_and_words() -> None:
    phones = formats.ctm(last_sunday(), "rec-1", "A").splitlines()
    assert phones[0] == "rec-1 A 0.100 0.040 L 0.5000"
    assert phones[-1] == "rec-1 A 0.800 0.100 AH 1.1000"
    assert len(phones) == 7
    words = formats.ctm(last_sunday(), "rec-1", level="words", offset=10).splitlines()
    assert words == [
        "rec-1 1 10.100 0.300 last 0.6000",
        "rec-1 1 10.400 0.320 Sun 0.9000",
        'rec-1 1 10.800 0.100 "a" 1.1000',
    ]


def test_ctm_of_words_that_were_not_said_or_are_not_all() -> None:
    one = Transcript(
        ("A", "B"),
        (Span(0, 1), Span(1, 2)),
        (0.5, 0.7),
        words=(TimedWord("no", ("X",), (), None), TimedWord("a", ("A",), ("A",), Span(0, 1))),
    )
    assert formats.ctm(one, "r", level="words") == "r 1 0.000 1.000 a\n"
    assert formats.ctm(Transcript((), (), ()), "r") == ""


def test_neighbours_in_ctm_stay_neighbours() -> None:
    edges = [number * (1 / 3) for number in range(30)]
    spans = tuple(Span(a, b) for a, b in pairwise(edges))
    one = Transcript(("A",) * 29, spans, (1.0,) * 29)
    rows = [line.split() for line in formats.ctm(one, "r").splitlines()]
    for row, following in pairwise(rows):
        assert float(row[2]) + float(row[3]) == pytest.approx(float(following[2]), abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a b",), "'a b'"),
        (("",), "''"),
        ((";;x",), ";;x"),
        (("a", "1\t"), "channel"),
    ],
)
def test_names_that_would_break_a_ctm(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formats.ctm(last_sunday(), *arguments)


def test_symbols_and_levels_that_would_break_a_ctm() -> None:
    one = Transcript((), (), (), words=(TimedWord("New York", ("N",), (), Span(0, 1)),))
    with pytest.raises(ValueError, match="'New York'"):
        formats.ctm(one, "r", level="words")
    with pytest.raises(ValueError, match="'states'"):
        last_sunday().to_ctm("r", level="states")


# ELAN ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_elan_table_holds_every_label_once(delimiter: str) -> None:
    text = formats.elan_csv(last_sunday(), 3723.5, delimiter=delimiter)
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, quoting=quoting))
    assert rows[0] == ["tier", "begin", "end", "annotation"]
    grid = formats.parse_textgrid(formats.textgrid(last_sunday(), 3723.5))
    expected = [(tier.name, one.text) for tier in grid.tiers for one in tier.labelled]
    assert [(row[0], row[3]) for row in rows[1:]] == expected
    assert rows[1][1:3] == ["00:00:00.100", "00:00:00.400"]
    for tier in grid.tiers:
        times = [tuple(row[1:3]) for row in rows[1:] if row[0] == tier.name]
        assert all(begin < end for begin, end in times)
        assert all(one[1] <= two[0] for one, two in pairwise(times))


def test_elan_times_are_clock_times() -> None:
    one = Transcript(("A",), (Span(3599.9996, 7325.0304),), (1.0,))
    assert formats.elan_csv(one).splitlines()[1] == "realized,01:00:00.000,02:02:05.030,A"


def test_elan_labels_are_one_line_and_decomposed_letters_stay() -> None:
    label = unicodedata.normalize("NFD", "ç") + '",\n\tx'
    one = Transcript((label,), (Span(0, 1),), (1.0,))
    row = list(csv.reader(io.StringIO(formats.elan_csv(one))))[1]
    assert row[3] == unicodedata.normalize("NFD", "ç") + '", x'
    tab = formats.elan_csv(one, delimiter="\t").splitlines()[1].split("\t")
    assert tab[3] == row[3]


def test_elan_table_of_nothing_is_its_first_line() -> None:
    assert formats.elan_csv(Transcript((), (), ())) == "tier,begin,end,annotation\n"
    with pytest.raises(ValueError, match="';;'"):
        formats.elan_csv(last_sunday(), delimiter=";;")
