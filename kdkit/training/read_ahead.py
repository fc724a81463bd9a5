"""Batches made one step ahead, in a thread: reading and decompressing happen while the model computes."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(Iterator[Item], Generic[Item]):
    """The items of an iterator, in its order; the next one is made while the caller works on the last one.

    The first item is made while the caller waits, so what an iterator draws when it starts (a data loader its seed)
    is drawn at the same place of the random stream as without a thread.
    """

    def __init__(self, items: Iterator[Item]):
        """Take over an iterator; nobody else may ask it from now on."""
        self.items = items
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next = self._pool.submit(next, items)

    def __next__(self) -> Item:
        """Return the item that was made, or raise what making it raised, and begin with the next."""
        try:
            item = self._next.result()
        except BaseException:
            self._pool.shutdown(wait=False)
            raise
        self._next = self._pool.submit(next, self.items)
        return item
