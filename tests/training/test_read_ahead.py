"""Batches that a thread makes ahead: the same items in the same order, one too early at most, errors in place."""

import threading

import pytest

from kdkit.training.read_ahead import ReadAhead


def test_all_items_come_in_order_and_the_end_stays_the_end():
    ahead = ReadAhead(iter(range(50)))
    assert list(ahead) == list(range(50))
    assert list(ReadAhead(iter([]))) == []


def test_the_next_item_is_made_by_another_thread_while_the_caller_works_and_no_further():
    made, is_made = [], threading.Semaphore(0)

    def items():
        for number in range(5):
            made.append((number, threading.get_ident()))
            is_made.release()
            yield number

    ahead = ReadAhead(items())
    assert next(ahead) == 0
    for _ in range(2):
        assert is_made.acquire(timeout=10), "the second item is made before anyone asks for it"
    assert not is_made.acquire(timeout=0.05), "the third is not"
    assert threading.get_ident() not in {thread for _, thread in made}
    assert [number for number, _ in made] == [0, 1]


def test_an_error_is_raised_where_its_item_is_asked_for():
    def items():
        yield 1
        raise KeyError("damaged")

    ahead = ReadAhead(items())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="damaged"):
        next(ahead)
