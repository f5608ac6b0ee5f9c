"""The tools of the benchmarks: turns, memory that does not suffice, pages of results."""

import pytest

from modicum.core.benchmark import (
    decoding_step,
    medians,
    preamble,
    seconds,
    step_times,
    table,
    write_section,
)


def test_calls_take_turns_and_the_first_is_not_counted():
    order = []
    found = medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert set(found) == {"a", "b"} and all(t >= 0 for t in found.values())


def test_memory_that_does_not_suffice_is_infinite_and_other_errors_are_raised():
    class OutOfMemoryError(RuntimeError):
        pass

    def full():
        raise OutOfMemoryError

    def broken():
        raise RuntimeError("broken")

    assert seconds(full) == float("inf")
    with pytest.raises(RuntimeError, match="broken"):
        seconds(broken)


def test_processors_are_driven_as_generate_drives_them():
    pytest.importorskip("torch")
    seen = []

    def processor(ids, scores):
        seen.append((tuple(ids.shape), tuple(scores.shape), float(scores.exp().sum())))

    found = step_times(
        {"p": processor}, rows=2, vocab_size=7, repeats=3, device="cpu", warm_up=1, prompt=4
    )
    assert [ids for ids, _, _ in seen] == [(2, 4), (2, 5), (2, 6), (2, 7)]
    assert all(scores == (2, 7) and mass == pytest.approx(2) for _, scores, mass in seen)
    assert found["p"] >= 0


def test_a_decoding_step_is_timed_behind_the_same_cache_each_time():
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    lengths = []

    class Cache(list):
        def crop(self, by):
            del self[by:]

    class Model:
        config = SimpleNamespace(vocab_size=11)
        device = torch.device("cpu")

        def __call__(self, ids, past_key_values=None, use_cache=True):
            cache = Cache() if past_key_values is None else past_key_values
            lengths.append((ids.shape[1], len(cache)))
            cache.extend(range(ids.shape[1]))
            return SimpleNamespace(past_key_values=cache)

    assert decoding_step(Model(), rows=2, cached=5, repeats=3) >= 0
    assert lengths == [(5, 0), (1, 5), (1, 5), (1, 5), (1, 5)]


def test_a_section_is_replaced_and_the_rest_stays(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text(
        "head\n<!-- a:begin -->\nold\n<!-- a:end -->\n<!-- b:begin -->x<!-- b:end -->\n"
    )
    write_section(page, "a", table(["n", "m"], [["1", "2"]]))
    text = page.read_text()
    assert "| 1 | 2 |" in text and "old" not in text and text.startswith("head\n")
    assert text.endswith("<!-- b:begin -->x<!-- b:end -->\n")
    with pytest.raises(ValueError, match="no section between <!-- c:begin -->"):
        write_section(page, "c", [])


def test_preamble_names_hardware_and_command():
    text = "\n".join(preamble("python x.py", "median of 3"))
    assert "cores" in text and "`python x.py`; median of 3." in text
