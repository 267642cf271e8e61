"""An iterator over what some work tells of itself: it runs on its own thread, in step with the consumer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


def lock_step(work: Callable[[Callable[[T], None]], None]) -> Generator[T, None, None]:
    """Yield what `work` emits; between two items either the consumer goes on or `work` does, never both.

    Closing the generator makes `work` end at the item it stands at.
    """
    items: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    go: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def emit(item: T) -> None:
        items.put(("item", item))
        del item
        if not go.get():
            raise _StoppedError

    def target() -> None:
        try:
            work(emit)
            items.put(("end", None))
        except _StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            items.put(("error", error))

    worker = threading.Thread(target=target, name="onnxref-debug", daemon=True)
    worker.start()
    try:
        while True:
            kind, item = items.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
            del item
            go.put(True)
    finally:
        go.put(False)
        worker.join()


class _StoppedError(BaseException):
    """Nobody wants the rest; no `except Exception` on the way may take it for the failure of a node."""
