"""What counts as one response, and what is refused with which words."""

import numpy as np
import pytest

from modicum.core.watermark.responses import encode_text, responses


def test_one_response_and_many():
    assert responses([1, 2, 3]) == [[1, 2, 3]]
    assert responses(range(3)) == [[0, 1, 2]]
    assert responses([]) == [[]]
    assert responses([[1, 2], [3]]) == [[1, 2], [3]]
    assert [r.tolist() for r in responses(np.array([[1, 2], [3, 4]]))] == [[1, 2], [3, 4]]
    assert [r.tolist() for r in responses(np.array([1, 2]))] == [[1, 2]]
    ragged = np.empty(2, dtype=object)
    ragged[:] = [[1, 2, 3], [4]]
    assert responses(ragged) == [[1, 2, 3], [4]]


def test_tensors():
    torch = pytest.importorskip("torch")
    assert responses(list(torch.tensor([1, 2, 3]))) == [[1, 2, 3]]
    assert [r.tolist() for r in responses(torch.tensor([[1, 2], [3, 4]]))] == [[1, 2], [3, 4]]
    assert [r.tolist() for r in responses(list(torch.tensor([[1], [3]])))] == [[1], [3]]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ("some text", "detect_text"),
        (["some", "texts"], "detect_text"),
        (None, "NoneType"),
        (5, "got int"),
        ({"input_ids": [1, 2]}, "input_ids"),
    ],
)
def test_what_is_no_token_ids_is_told_what_to_pass(ids, words):
    with pytest.raises(TypeError, match=words):
        responses(ids)


def test_too_many_dimensions():
    with pytest.raises(ValueError, match=r"\[B, T\], got \(1, 2, 3\)"):
        responses(np.zeros((1, 2, 3), dtype=np.int64))


def test_text_by_a_tokenizer_or_a_callable():
    class Tokenizer:
        def encode(self, text, add_special_tokens):
            assert add_special_tokens is False
            return tuple(text.encode())

    assert encode_text("ab", Tokenizer()) == encode_text("ab", str.encode) == [97, 98]
    with pytest.raises(TypeError, match="the string 'gpt2'"):
        encode_text("ab", "gpt2")
