"""Runs cases in worker processes: a crash, a hang or a lack of memory is an outcome, not the end.

Each of `jobs` threads owns one worker and hands it one case after the other. A worker is used for many cases
and replaced when it dies or has to be killed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .cases import Case
from .errors import BackendUnavailableError

MIB = 2**20
START_SECONDS = 180.0  # importing a large framework from a cold disk takes its time
STDERR_TAIL = 600  # characters of a dead worker's last words

Reply = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Bounds of a run.

    Attributes:
        jobs: worker processes at a time.
        timeout: seconds for one case.
        memory: bytes that a worker may allocate; 0 is no limit. Not enforced on Windows.
    """

    jobs: int = 1
    timeout: float = 60.0
    memory: int = 4096 * MIB


def probe(spec: str, options: RunOptions) -> dict[str, str]:
    """Start a backend and return its versions.

    Raises:
        BackendUnavailableError: it cannot be imported, or there is none of that name.
    """
    with Worker(spec, options) as worker:
        return worker.versions


def run_cases(
    spec: str, cases: Iterable[Case], options: RunOptions, *, shown: int = 1
) -> Iterator[tuple[Case, Reply]]:
    """Run cases on a backend and yield each with its outcome, in the order in which they finish.

    A reply tells the first `shown` differing elements. Closing the iterator stops the workers.
    """
    pending = deque(cases)
    finished: queue.SimpleQueue[tuple[Case, Reply] | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    workers: list[Worker] = []

    def serve() -> None:
        try:
            with Worker(spec, options) as worker:
                workers.append(worker)
                while not stop.is_set():
                    try:
                        case = pending.popleft()
                    except IndexError:
                        break
                    finished.put((case, worker.run(case, shown)))
            finished.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            finished.put(error)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(options.jobs, len(pending)))]
    try:
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            item = finished.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        stop.set()
        for worker in workers:
            worker.kill()
        for thread in threads:
            thread.join()


class Worker:
    """One child process and the pipes to it; restarts it when a case is due and it is gone."""

    def __init__(self, spec: str, options: RunOptions) -> None:
        self._spec = spec
        self._options = options
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: subprocess.Popen[str] | None = None
        self._patience = 0.0
        try:
            self.versions = self._start()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._stderr.close()

    def kill(self) -> None:
        """End the process, from another thread too; a case in the middle of it ends as crashed."""
        process = self._process
        if process is not None:
            process.kill()

    def run(self, case: Case, shown: int) -> Reply:
        """Run one case; a worker that does not survive it gives the outcome all the same."""
        return self._serve(case.to_json() | {"shown": shown})

    def outputs(self, case: Case) -> Reply:
        """Run a case without expectations; `outputs` of the reply are `.pb` files in base64."""
        return self._serve(case.to_json() | {"outputs": True})

    def _serve(self, told: dict[str, Any]) -> Reply:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        self._clear_stderr()
        limit = self._options.timeout + self._patience
        reply, timed_out = self._exchange(json.dumps(told) + "\n", limit)
        if reply is not None:
            if reply.pop("spent", False):
                self._stop()  # after running out of memory nothing in that process can be relied upon
            return reply
        seconds = limit if timed_out else 0.0
        message = f"no result within {seconds:g} s" if timed_out else self._last_words()
        self._stop()
        return {"outcome": "timeout" if timed_out else "crashed", "message": message, "seconds": seconds}

    def _start(self) -> dict[str, str]:
        worker = ("-P", "-m", "onnxref.conformance.worker")
        command = [sys.executable, *worker, self._spec, str(self._options.memory)]
        # The runner is parallel already; threads of a numerical library would only fight for the cores.
        environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env=environment | dict(os.environ),
            start_new_session=True,  # the terminal's Ctrl-C is for the runner; workers end with their input
        )
        hello, timed_out = self._exchange("", START_SECONDS)
        if hello is not None and "versions" in hello:
            self._patience = hello["patience"]
            return dict(hello["versions"])
        if hello is not None:
            raise BackendUnavailableError(hello["unavailable"])
        reason = f"it did not start within {START_SECONDS:g} s" if timed_out else self._last_words()
        raise BackendUnavailableError(f"backend {self._spec!r} cannot be started: {reason}")

    def _exchange(self, line: str, seconds: float) -> tuple[Reply | None, bool]:
        """Write a line and read one; None where the process died of itself or of the time limit."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timed_out = threading.Event()

        def expire() -> None:
            timed_out.set()
            process.kill()

        timer = threading.Timer(seconds, expire)
        timer.start()
        try:
            with suppress(BrokenPipeError):  # it died; reading tells
                process.stdin.write(line)
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            timer.cancel()
        if not answer.endswith("\n"):
            return None, timed_out.is_set()
        return json.loads(answer), False

    def _last_words(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self._stderr.seek(0)
        said = " ".join(self._stderr.read().decode("utf-8", "replace").split())
        return f"the process ended with {how}" + (f": {said[-STDERR_TAIL:]}" if said else "")

    def _clear_stderr(self) -> None:
        # Parent and child share the file's position, so the child's next words start at 0 again.
        self._stderr.seek(0)
        self._stderr.truncate()

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what was buffered for a process that is gone
                    pipe.close()
        self._process = None
