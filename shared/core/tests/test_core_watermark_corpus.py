"""A context counts in the first document that has it, and only there."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from modicum.core.watermark.corpus import Executor, first_occurrences


def test_a_context_counts_in_its_first_document_only():
    contexts = [
        np.array([[1, 2], [2, 3]]),
        np.zeros((0, 2), dtype=np.int64),
        np.array([[2, 3], [3, 2], [1, 2]]),
        np.array([[3, 2], [4, 4]]),
    ]
    masks = [mask.tolist() for mask in first_occurrences(contexts)]
    assert masks == [[True, True], [], [False, True, False], [False, True]]
    assert first_occurrences([]) == []


def test_repeats_within_a_document_are_left_to_it():
    assert first_occurrences([np.array([[1], [1]])])[0].tolist() == [True, True]


def test_executors_of_the_standard_library_fit():
    with ThreadPoolExecutor(1) as pool:
        executor: Executor = pool
        assert list(executor.map(abs, [-1, 2])) == [1, 2]
