"""Answers read out of texts."""

import json
import pickle
import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.testtime import extract
from modicum.testtime.samples import Sample

EXTRACTORS = [
    extract.last_number(),
    extract.boxed(),
    extract.after("answer is"),
    extract.after("answer is", extract.last_number()),
    extract.choice("ABCD"),
    extract.regex(r"x=(\d+)"),
    extract.json_path("a[0].b"),
    extract.identity(),
    extract.strip_think(extract.boxed()),
    extract.tool_call(["reason"]),
    extract.first_of(extract.boxed(), extract.last_number()),
]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 1,234.", 1234),
        ("She pays $18.00", 18),
        ("#### -5", -5),
        ("x = \N{MINUS SIGN}3.5", -3.5),
        ("x = \N{EN DASH}4", -4),
        ("so 50% of it", 50),
        ("50\\% of it", 50),
        ("1.5e3 m", 1500),
        ("2E-3", 0.002),
        ("6.02 × 10^23", 602 * 10**21),
        ("5 \\times 10^{-3}", 0.005),
        ("5×10³", 5000),
        ("10^6 of them", 10**6),
        ("10² of them", 100),
        ("-$1,234.50", -1234.5),
        ("$-5$", -5),
        ("the set {-2}", -2),
        ("(\N{MINUS SIGN}5)", -5),
        ("a -4", -4),
        ("answer:-4", -4),
        ("1{,}234", 1234),
        ("\\$1\\,234", 1234),
        ("1\N{NARROW NO-BREAK SPACE}234", 1234),
        ("₹12,34,567", 1234567),
        ("USD 1,000,000.25!", 1000000.25),
        ("\\frac{3}{4}", 0.75),
        ("-\\frac{3}{4}", -0.75),
        ("1\\frac{1}{2}", 1.5),
        ("1 1/2 cups", 1.5),
        ("3/4", 0.75),
        ("6/3", 2),
        (".5", 0.5),
        ("0.5.", 0.5),
        ("it is 3...", 3),
        ("**42**", 42),
        ("_42_", 42),
        ("\\boxed{-7}", -7),
        ("答案是42。", 42),
        ("１２３", 123),
        ("-0", 0),
        ("1e-400", 0.0),
        ("1e400", 10**400),
        # The last of several.
        ("5 - 3", 3),
        ("10-3=7", 7),
        ("1,5", 5),
        ("1,234,56", 56),
        ("12, 15 and 9 make 36 apples", 36),
        # Ranges have no negative end.
        ("between 3-5", 5),
        ("3\N{EN DASH}5 apples", 5),
        ("5%-10%", 10),
        ("(2)-(3)", 3),
        # Not numbers; what is before them stands.
        ("42 (checked 2024-05-17)", 42),
        ("42 on 17/05/2024", 42),
        ("42 on 17.05.2024", 42),
        ("42 at 12:30", 42),
        ("42, ratio 3:4", 42),
        ("42 in v1.2.3", 42),
        ("42 says GPT-4", 42),
        ("42 g of H2O", 42),
        ("42 x^2", 42),
        ("42 x^{-2}", 42),
        ("42 e^-3", 42),
        ("42 x_1", 42),
        ("42 x_{12}", 42),
        ("42 or 12^3", 42),
        ("42 or 1/0", 42),
        ("42 or " + "9" * 2000, 42),
        ("42 or 1e9999", 42),
    ],
)
def test_last_number(text, number):
    found = extract.last_number()(text)
    assert found == number and type(found) is type(number)


@pytest.mark.parametrize(
    "text", ["", "none", "on 2024-05-17", "H2O", "24/7/365", "x^2", "- -", "."]
)
def test_no_number(text):
    assert extract.last_number()(text) is None


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    number=st.integers(-(10**12), 10**12),
    decimals=st.integers(0, 4),
    around=st.sampled_from(
        ["{}", "is {}.", "= ${}$", "**{}**", "({})", "{}%", "it's {}\n", "{} kg"]
    ),
    grouped=st.booleans(),
)
def test_last_number_reads_what_python_writes(number, decimals, around, grouped):
    value = number / 10**decimals
    written = f"{value:{',' if grouped else ''}.{decimals}f}"
    found = extract.last_number()(around.format(written))
    assert found == pytest.approx(value, rel=1e-12, abs=0)
    assert extract.last_number()(f"7 then {written}, done") == found


@pytest.mark.parametrize(
    "unit", ["1", "1,", "1 ", "-", "1/", "1.", "$-", "10^", "{", "1:", "\\frac{", "1\N{THIN SPACE}"]
)
def test_long_texts_end(unit):
    text = unit * 20_000
    for extractor in EXTRACTORS:
        extractor(text)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{a\\{b}}", r"a\\{b}"),
        (r"\boxed{5} then \boxed{6", "5"),
        (r"\boxed{5} then \boxed{\frac{1}{2}", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{ \boxed{5}", "5"),
        (r"} \boxed{5}", "5"),
        (r"\boxed{5}. I put it in \boxed{}", "5"),
        ("\\boxed{\n 5 \n}", "5"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{6", None),
        (r"\boxed{}", None),
        (r"\boxed5", None),
        (r"\boxedtext{5}", None),
        (r"{5}", None),
        ("\\boxed{5\\", None),
    ],
)
def test_boxed(text, content):
    assert extract.boxed()(text) == content


def last_box(text):
    """Walk from each box, last first, counting depth; the definition, in quadratic time."""
    for match in reversed(list(re.finditer(r"\\(boxed|fbox)\s*\{", text))):
        depth, position = 1, match.end()
        while position < len(text) and depth:
            if text[position] == "\\":
                position += 2
                continue
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            position += 1
        content = text[match.end() : position - 1].strip()
        if depth == 0 and content:
            return content
    return None


PIECES = st.sampled_from(
    ["\\boxed{", "\\fbox {", "{", "}", "}", "\\{", "\\}", "\\\\", "a", "5", " "]
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(pieces=st.lists(PIECES, max_size=16))
def test_boxed_is_the_last_closed_box(pieces):
    text = "".join(pieces)
    assert extract.boxed()(text) == last_box(text)


BALANCED = st.recursive(
    st.text("a1+\\{ ", max_size=4).map(lambda s: s.replace("\\", "\\\\").replace("{", "\\{")),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: "{" + "".join(parts) + "}"),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(content=BALANCED, before=BALANCED, cut=st.sampled_from(["", " \\boxed{", " \\boxed{a{b}"]))
def test_boxed_gives_back_what_was_put_in(content, before, cut):
    text = f"{before} \\boxed{{{content}}} and so on{cut}"
    assert extract.boxed()(text) == (content.strip() or None)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 42.", "42"),
        ("the ANSWER  is: **42**", "42"),
        ("The answer is 1. No, the answer is 2.\nBye.", "2"),
        ("The answer is:\n\n42\nBye", "42"),
        ('The answer is "blue".', "blue"),
        ("The answer is -3.5", "-3.5"),
        ("The answer is $x^2$.", "$x^2$"),
        ("The answer is 7. So the answer is", "7. So the answer is"),
        ("So the answer is 7.\nThe answer is", "7"),
        ("The answer is", None),
        ("Nothing.", None),
    ],
)
def test_after(text, answer):
    assert extract.after("answer is")(text) == answer


def test_after_passes_the_rest_on():
    number = extract.after("answer is", extract.last_number())
    assert number("The answer is 1,000 dollars. It took 3 hours.\n5 more") == 3
    assert number("The answer is blue. 5") == 5
    assert number("5. The answer is blue") is None
    assert extract.after("A.*B")("ax A.*B yes") == "yes"
    with pytest.raises(ValueError, match="marker"):
        extract.after("  ")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        ("Answer: B", "B"),
        ("ANSWER: E", "E"),
        ("**Answer:** B", "B"),
        ("**Answer: (C) 42**", "C"),
        ('The answer is "B".', "B"),
        ("Answer is option B.", "B"),
        ("Answer - B", "B"),
        ("answer: b", "B"),
        ("Final answer: $\\mathbf{B}$", "B"),
        ("Options: A) 1\nB) 2\n\nThe answer is\n\nB", "B"),
        ("Answer choices: (A) 1, (B) 2. Answer: (A)", "A"),
        ("so the answer is B because A is wrong", "B"),
        ("The answer is C since option A is wrong", "C"),
        ("the answer is not (B) but (C)", "C"),
        ("\\boxed{D}", "D"),
        ("\\boxed{\\text{(B)}}", "B"),
        ("\\boxed{b}", "B"),
        ("\\boxed{B. 42}, though option A is close", "B"),
        ("The correct option is D", "D"),
        ("option (E)", "E"),
        ("(A) 1 (B) 2 ... I pick (C)", "C"),
        ("(a) first (b) second", "B"),
        ("The best choice is therefore\nC.", "C"),
        ("B", "B"),
        ("b", "B"),
        ("B) Paris", "B"),
        ("B. Paris", "B"),
        ("I think A is right", "A"),
        ("option A then", "A"),
        ("It must be C", "C"),
        ("x = A + B", "B"),
        ("A train leaves at noon", None),
        ("The answer is A train", None),
        ("the answer is a number", None),
        ("Apple Banana Cat", None),
        ("It's an A-team", None),
        ("answer is C’s", None),
        ("U.S.A. is", None),
        ("DNA, ABBA, BBC", None),
        ("\\boxed{42}", None),
        ("F", None),
        ("", None),
    ],
)
def test_choice(text, letter):
    assert extract.choice("ABCDE")(text) == letter


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    words=st.lists(st.text("ABCDEfg", min_size=2, max_size=6), max_size=8),
    letter=st.sampled_from("ABCDE"),
    said=st.sampled_from(
        ["The answer is {}.", "Answer: ({})", "\\boxed{{{}}}", "option {}", "({})"]
    ),
)
def test_choice_sees_no_letters_inside_words(words, letter, said):
    prose = " ".join(words)
    assert extract.choice("ABCDE")(prose) is None
    assert extract.choice("ABCDE")(f"{prose} {said.format(letter)} {prose}") == letter


def test_choice_of_other_letters():
    assert extract.choice("abcd")("Answer: (B)") == "b"
    assert extract.choice("1234")("The answer is (3), not (4)") == "3"
    assert extract.choice("AB")("(C)") is None
    for letters in ("", "AA", "Aa", "A-B"):
        with pytest.raises(ValueError, match="letters"):
            extract.choice(letters)


def test_regex():
    text = "x=1, x=22; y= , x=3"
    assert extract.regex(r"x=(\d+)")(text) == "3"
    assert extract.regex(r"x=(\d+)", which="first")(text) == "1"
    assert extract.regex(r"x=\d+")(text) == "x=3"
    assert extract.regex(r"x=(\d+)", 0)(text) == "x=3"
    assert extract.regex(r"(?P<name>[xy])=(?P<value>\s*\d*)", "value")(text) == "3"
    assert extract.regex(r"(?P<name>[xy])=(?P<value>\s*\d*)", "value")("x=7 y= ") == "7"
    assert extract.regex(r"x=(\d)|y=(z)", 1)("x=5 y=z") == "5"
    assert extract.regex("X=(.)", flags=re.IGNORECASE)("x=4") == "4"
    assert extract.regex(re.compile("X=(.)", re.IGNORECASE))("x=4") == "4"
    assert extract.regex("q")(text) is None
    for arguments, words in (
        (("(",), "no regular expression"),
        (("x", 1), "no group 1"),
        (("x", "n"), "no group 'n'"),
        (("x", 0, "all"), "which"),
    ):
        with pytest.raises(ValueError, match=words):
            extract.regex(*arguments)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("a.b[0]", '{"a": {"b": [7, 8]}}', 7),
        ("a.b.0", '{"a": {"b": [7, 8]}}', 7),
        (".a", '{"a": 7}', 7),
        ("a.b[-1]", '{"a": {"b": [7, 8]}}', 8),
        ("a.b[2]", '{"a": {"b": [7, 8]}}', None),
        ("a.c", '{"a": {"b": 1}}', None),
        ("a.b.c", '{"a": {"b": 1}}', None),
        ("a", 'Sure:\n```json\n{"a": "x"}\n```\nDone.', "x"),
        ("a", 'first {"a": 1} then {"a": 2} and {"b": 3}', 2),
        ("a", '{"a": 1} {"a": null}', 1),
        ("a", 'set {1, 2} and {not json} {"a": true}', True),
        ("a", '{"a": {"y": 2, "x": [1.0, "é"]}}', '{"x":[1,"é"],"y":2}'),
        ("", "[3, 1]", "[3,1]"),
        ("[1]", "[3, 1]", 1),
        ("1", '{"1": "one"}', "one"),
        ("a", '{"a": NaN}', None),
        ("a", '{"a": " "}', None),
        ("a", '{"a": 1', None),
        ("a", "", None),
    ],
)
def test_json_path(path, text, value):
    found = extract.json_path(path)(text)
    assert found == value and type(found) is type(value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text('ab{["]}\\ ', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(value=JSON, before=st.text('a{[ "', max_size=6), key=st.sampled_from(["k", "k2"]))
def test_json_path_finds_what_was_written(value, before, key):
    text = (
        f"{before.replace('[', '')}\n```json\n{json.dumps({'out': [{key: value}]}, indent=1)}\n```"
    )
    found = extract.json_path(f"out[0].{key}")(text)
    if isinstance(value, dict | list):
        assert json.loads(found) == value
    elif isinstance(value, str):
        assert found == (value if value.strip() else None)
    else:
        assert found == value


def test_json_behind_brackets_that_nest_too_deep():
    assert extract.json_path("a")("[" * 5000 + '{"a": 7}') == 7


@pytest.mark.parametrize("path", ["a[", "a[x]", "a..b", "a.", "[0]b"])
def test_json_path_refuses(path):
    with pytest.raises(ValueError, match="path must look like"):
        extract.json_path(path)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>a</think> 5", "5"),
        ("x <think>a</think>y<think>b</think> z", "x y z"),
        ("5 <think>and then", "5"),
        ("<think>never ends", None),
        ("a</think> 5", "5"),
        ("a</think> 5 <think>b", "5"),
        ("<think>a <think> b</think> 5", "5"),
        ("<think>a</think> 5 </think>", "5"),
        ("<think></think>", None),
        ("5", "5"),
    ],
)
def test_strip_think(text, rest):
    assert extract.strip_think()(text) == rest


PARTS = st.lists(st.tuples(st.booleans(), st.text("ab \n<", max_size=5)), max_size=6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(parts=PARTS, tail=st.booleans(), headless=st.booleans())
def test_strip_think_keeps_what_is_outside(parts, tail, headless):
    text = "".join(f"<think>{part}</think>" if thought else part for thought, part in parts)
    kept = "".join(part for thought, part in parts if not thought)
    if headless:
        text = "thought before</think>" + text
    if tail:
        text += "<think>cut o"
    assert extract.strip_think()(text) == (kept.strip() or None)


def test_strip_think_options():
    assert extract.strip_think(extract.boxed())("<think>\\boxed{1}</think> \\boxed{2}") == "2"
    assert extract.strip_think(extract.boxed())("<think>\\boxed{1}") is None
    assert extract.strip_think(tags=("[THINK]", "[/THINK]"))("[THINK]a[/THINK]b") == "b"
    inside = extract.strip_think(opened_by_prompt=True)
    assert inside("thinking, cut off with 5") is None
    assert inside("thinking</think>5") == "5"
    assert extract.strip_think(str.upper)("<think>a</think>b") == "B"
    for tags in (("<a>",), ("<a>", "<a>"), ("", "x"), "ab"):
        with pytest.raises(ValueError, match="tags"):
            extract.strip_think(tags=tags)


def sample(text="", *calls):
    return Sample("p", 0, 0, text, tool_calls=calls)


def call(name, arguments):
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_tool_call():
    plain = extract.tool_call()
    key = plain.from_sample(sample("", call("add", '{"y": 2, "x": 1}')))
    assert key == '{"arguments":{"x":1,"y":2},"name":"add"}'
    assert plain.from_sample(sample("", call("add", {"x": 1.0, "y": 2}))) == key
    assert plain('<tool_call>\n{"name": "add", "arguments": {"x": 1, "y": 2}}\n</tool_call>') == key
    assert plain('{"name": "add", "arguments": {"y": 2, "x": 1}}') == key
    # The calls of the sample win over its text.
    assert plain.from_sample(sample('{"name": "b", "arguments": {}}', call("add", '{"x":1,"y":2}')))
    other = plain.from_sample(sample("", call("add", '{"x": 1, "y": 3}')))
    assert other != key
    without = extract.tool_call(exclude_args=["y"])
    assert without.from_sample(sample("", call("add", '{"y": 2, "x": 1}'))) == without.from_sample(
        sample("", call("add", '{"x": 1, "y": 3}'))
    )
    assert without.from_sample(sample("", call("sub", '{"x": 1}'))) != without.from_sample(
        sample("", call("add", '{"x": 1}'))
    )
    names = extract.tool_call(names_only=True)
    assert names.from_sample(sample("", call("add", "{}"))) == '{"name":"add"}'


def test_tool_calls_in_order():
    plain = extract.tool_call()
    a, b = call("a", "{}"), call("b", "")
    both = plain.from_sample(sample("", a, b))
    assert json.loads(both) == [
        {"name": "a", "arguments": {}},
        {"name": "b", "arguments": {}},
    ]
    assert both != plain.from_sample(sample("", b, a))


@pytest.mark.parametrize(
    "broken",
    [
        sample("no call"),
        sample('{"name": "Bob"}'),
        sample('{"x": 1}'),
        sample("", call("a", "{not json")),
        sample("", call("a", "[1]")),
        sample("", call("a", "{}"), call("b", "{")),
        sample("", call(None, "{}")),
    ],
)
def test_broken_tool_calls_are_no_answer(broken):
    assert extract.tool_call().from_sample(broken) is None


def test_tool_call_refuses_a_single_string():
    with pytest.raises(TypeError, match="list of names"):
        extract.tool_call("reason")


def test_first_of_and_from_sample():
    either = extract.first_of(extract.boxed(), extract.last_number())
    assert either("\\boxed{x} 5") == "x"
    assert either("just 5") == 5
    assert either("nothing") is None
    mixed = extract.first_of(extract.tool_call(), extract.identity())
    assert mixed.from_sample(sample("text", call("a", "{}"))) == '{"arguments":{},"name":"a"}'
    assert mixed.from_sample(sample("text")) == "text"
    thought = extract.strip_think(extract.tool_call())
    assert thought.from_sample(sample("<think>x</think>", call("a", "{}"))) is not None
    assert extract.identity().from_sample(sample(" text ")) == "text"
    with pytest.raises(ValueError, match="at least one"):
        extract.first_of()


@dataclass
class Reader:
    suffix: str

    def __call__(self, text):
        return text + self.suffix


def test_as_extractor():
    assert extract.as_extractor(None)(" a ") == "a"
    boxed = extract.boxed()
    assert extract.as_extractor(boxed) is boxed
    wrapped = extract.as_extractor(str.upper)
    assert wrapped("a") == "A" and wrapped.from_sample(sample("b")) == "B"
    assert wrapped.name == "str.upper"
    assert extract.as_extractor(Reader("!"))("a") == "a!"
    assert extract.as_extractor(Reader("!")).name == "Reader"
    with pytest.raises(TypeError, match="function of a text"):
        extract.as_extractor("boxed")


def test_references_take_the_form_of_answers():
    assert extract.last_number().read_reference("Add them.\n#### 1,018") == 1018
    assert extract.last_number().read_reference(18) == 18
    assert extract.boxed().read_reference("so \\boxed{5}") == "5"
    assert extract.boxed().read_reference("\\frac12") == "\\frac12"
    assert extract.choice("ABC").read_reference("(B)") == "B"
    assert extract.strip_think(extract.last_number()).read_reference("#### 7") == 7
    assert extract.as_extractor(str.upper).read_reference("a") == "a"


@pytest.mark.parametrize("extractor", EXTRACTORS, ids=lambda e: e.name)
def test_extractors_are_values(extractor):
    again = pickle.loads(pickle.dumps(extractor))
    assert again == extractor and hash(again) == hash(extractor) and again.name == extractor.name
    text = 'answer is x=3 \\boxed{4} {"a": [{"b": 5}]} (C)'
    assert again(text) == extractor(text)


def test_names_tell_settings_apart():
    names = [extractor.name for extractor in EXTRACTORS]
    assert len(set(names)) == len(names)
    assert extract.strip_think(extract.after("is", extract.boxed())).name == (
        "strip_think(after('is', boxed()), ('<think>', '</think>'), False)"
    )


@pytest.mark.parametrize("filler", [" ", "\n", "*", "("])
def test_choice_takes_a_text_that_ran_away(filler):
    # With n * n steps this would not end in the time that a test run has.
    assert extract.choice()("the answer" + filler * 200_000) is None


@pytest.mark.parametrize("text", ["9" * 500 + ".5", "9" * 400 + " 1/2", "-" + "9" * 310 + ".25"])
def test_numbers_beyond_the_doubles_are_no_answer(text):
    assert extract.last_number()(text) is None
    assert extract.last_number()(f"so 3 or {text}") == 3
