"""Native code: compiled once, found again, never stale, never somebody else's; one pool for all callers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from onnxref.native import (
    ROW,
    CompileJob,
    Launch,
    NativeFunction,
    NativeUnavailableError,
    Team,
    _behind,
    _cores,
    _team,
    array_handle,
    cache_folder,
    clear_cache,
    compile_together,
    describe_cache,
    native,
    run_serially,
    target,
    usable_cores,
)
from onnxref.native import _cache as cache

SAMPLES = "native_samples"
FOLDER = Path(__file__).parent


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty cache."""
    monkeypatch.setenv("ONNXREF_CACHE", str(tmp_path / "cache"))
    cache.writable_folder.cache_clear()
    yield tmp_path / "cache"
    cache.writable_folder.cache_clear()


def fresh(factory: str, *parameters: object) -> NativeFunction:
    """Return a function that this process has not compiled or loaded."""
    return NativeFunction(SAMPLES, factory, parameters)


def in_a_process(program: str, **environment: str) -> str:
    """Run Python in a process of its own; return what it prints."""
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(FOLDER), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()


class Program:
    """A program of one function called several times, with its arguments and counters."""

    def __init__(self, function: NativeFunction, calls: int, units: int, arguments: int = 2) -> None:
        self.calls = calls
        self.units = units
        self.values = np.zeros(arguments, np.int64)
        self.rows = np.zeros((calls, ROW), np.int64)
        self.rows[:] = (function.address, self.values.ctypes.data, units, 3, 6)
        self.counters = np.zeros(calls * 64, np.int64)

    def run(self, team: Team) -> None:
        self.rows[:, 4] = 3 * team.threads
        team.run(self.rows.ctypes.data, self.calls, self.counters.ctypes.data)


# Compiling and keeping ----------------------------------------------------------------------------


def test_a_function_runs_and_is_kept(own_cache: Path) -> None:
    function = fresh("count", 3)
    assert not function.is_ready
    total = np.zeros(1, np.int64)
    function(total.ctypes.data, 2, 7)
    assert total[0] == 15
    assert describe_cache().files == 1
    assert fresh("count", 3).is_ready
    assert not fresh("count", 4).is_ready


def test_another_process_finds_it_without_numba(own_cache: Path) -> None:
    fresh("count", 5).address  # noqa: B018
    program = (
        "import sys, numpy as np; from onnxref.native import native; "
        "total = np.zeros(1, np.int64); native('native_samples', 'count', 5)(total.ctypes.data, 0, 4); "
        "print(total[0], 'numba' in sys.modules)"
    )
    assert in_a_process(program, ONNXREF_CACHE=str(own_cache)) == "20 False"


def test_a_changed_source_is_another_function(own_cache: Path, tmp_path: Path) -> None:
    module = tmp_path / "changing.py"
    text = (
        "from onnxref.native.ops import atomic_add\n"
        "def make():\n    def kernel(p, begin, end, thread):\n        atomic_add(p, {})\n    return kernel\n"
    )
    program = (
        "import numpy as np; from onnxref.native import native; total = np.zeros(1, np.int64); "
        "native('changing', 'make')(total.ctypes.data, 0, 1); print(total[0])"
    )
    for value in (1, 2):
        module.write_text(text.format(value))
        assert in_a_process(program, PYTHONPATH=str(tmp_path), ONNXREF_CACHE=str(own_cache)) == str(value)
    assert describe_cache().files == 2


def test_another_target_is_another_function(own_cache: Path) -> None:
    key = "from onnxref.native import native; print(native('native_samples', 'count', 1).key)"
    assert in_a_process(key, ONNXREF_CPU="avx2") != in_a_process(key)


def test_an_unknown_target_is_named() -> None:
    program = (
        "from onnxref.native import target\ntry:\n    target()\nexcept ValueError as error:\n    print(error)"
    )
    message = in_a_process(program, ONNXREF_CPU="z80")
    assert message == "ONNXREF_CPU must be one of native, avx2, sse2 (got 'z80')"


def test_processes_that_compile_at_once_both_succeed(own_cache: Path) -> None:
    program = (
        "import numpy as np; from onnxref.native import native; total = np.zeros(1, np.int64); "
        "native('native_samples', 'count', 9)(total.ctypes.data, 0, 2); print(total[0])"
    )
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(in_a_process(program, ONNXREF_CACHE=str(own_cache))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["18"] * 3
    assert describe_cache().files == 1


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_what_others_may_write_is_not_run(own_cache: Path) -> None:
    function = fresh("count", 11)
    function.address  # noqa: B018
    (file,) = own_cache.glob("*.native")
    file.chmod(0o666)
    assert not fresh("count", 11).is_ready
    file.chmod(0o600)
    assert fresh("count", 11).is_ready
    own_cache.chmod(0o777)
    cache.writable_folder.cache_clear()
    assert not fresh("count", 11).is_ready


def test_without_a_writable_folder_code_is_kept_for_the_process(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXREF_CACHE", "/proc/nobody/can/write/here")
    cache.writable_folder.cache_clear()
    fresh("count", 13).address  # noqa: B018
    assert fresh("count", 13).is_ready
    assert cache.writable_folder() != cache_folder()
    assert describe_cache().files == 0


def test_the_cache_can_be_cleared(own_cache: Path) -> None:
    fresh("count", 15).address  # noqa: B018
    assert clear_cache().files == 1
    assert describe_cache().files == 0


def test_what_cannot_be_compiled_is_named() -> None:
    with pytest.raises(NativeUnavailableError, match=r"native_samples\.refused\(\) cannot be compiled: "):
        fresh("refused").address  # noqa: B018


def test_other_processes_compile(own_cache: Path) -> None:
    functions = [fresh("count", 20 + i) for i in range(5)]
    compile_together(functions, 2)
    assert all(function.is_ready for function in functions)
    job = CompileJob([fresh("count", 30)])
    job.wait()
    assert job.is_done()
    assert fresh("count", 30).is_ready


def test_a_function_that_cannot_be_compiled_stops_no_other(own_cache: Path) -> None:
    job = CompileJob([fresh("refused"), fresh("count", 31)])
    job.wait()
    assert fresh("count", 31).is_ready


def test_a_process_has_a_few_functions_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[list[NativeFunction]] = []

    class Job:
        def __init__(self, functions: Sequence[NativeFunction]) -> None:
            shares.append(list(functions))

        def wait(self) -> None:
            pass

    monkeypatch.setattr(_behind, "CompileJob", Job)
    functions = [fresh("count", 50 + i) for i in range(10)]
    compile_together(functions, 64)
    assert sorted(map(len, shares)) == [2, 2, 3, 3]
    assert {id(function) for share in shares for function in share} == set(map(id, functions))


def test_the_current_folder_is_not_imported_from(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numba.py").write_text("open('was-imported', 'w')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    job = CompileJob([fresh("count", 32)])
    job.wait()
    assert fresh("count", 32).is_ready
    assert not Path("was-imported").exists()


def test_functions_of_one_name_stay_apart(own_cache: Path) -> None:
    """Two processes give the same symbol to functions with other parameters."""
    for step in (41, 42):
        in_a_process(
            f"from onnxref.native import native; native('native_samples', 'count', {step}).address",
            ONNXREF_CACHE=str(own_cache),
        )
    for step in (41, 42):
        total = np.zeros(1, np.int64)
        fresh("count", step)(total.ctypes.data, 0, 1)
        assert total[0] == step


# The team -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_every_unit_runs_exactly_once(threads: int) -> None:
    team = Team(threads)
    program = Program(native(SAMPLES, "count", 1), calls=20, units=7)
    for _ in range(500):
        program.run(team)
    assert program.values[0] == 500 * 20 * 7


def test_units_are_written_once_however_they_are_split() -> None:
    marks = np.zeros(1000, np.int64)
    program = Program(native(SAMPLES, "mark"), calls=1, units=1000)
    program.values[0] = marks.ctypes.data
    program.run(Team(2))
    assert (marks > 0).all()
    assert (marks <= 2).all()


def test_callers_from_many_threads_do_not_disturb_each_other() -> None:
    team = Team(2)
    programs = [Program(native(SAMPLES, "count", 1), calls=10, units=5) for _ in range(6)]

    def work(program: Program) -> None:
        for _ in range(300):
            program.run(team)

    threads = [threading.Thread(target=work, args=(program,)) for program in programs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [int(program.values[0]) for program in programs] == [300 * 10 * 5] * 6


def test_no_caller_starves() -> None:
    """While one thread keeps the pool busy, another one still gets its work done."""
    team = Team(2)
    busy, small = (Program(native(SAMPLES, "spin"), calls=1, units=2) for _ in range(2))
    busy.values[1], small.values[1] = 2_000_000, 1_000
    stop = threading.Event()

    def hog() -> None:
        while not stop.is_set():
            busy.run(team)

    thread = threading.Thread(target=hog)
    thread.start()
    try:
        for _ in range(50):
            small.run(team)
    finally:
        stop.set()
        thread.join()
    assert small.values[0] == 50 * 2 * 1_000


def test_the_interpreter_runs_on_meanwhile() -> None:
    program = Program(native(SAMPLES, "spin"), calls=1, units=1)
    program.values[1] = 40_000_000
    thread = threading.Thread(target=run_serially, args=(program.rows.ctypes.data, 1))
    thread.start()
    turns = 0
    while thread.is_alive():
        turns += 1
        time.sleep(0.001)
    thread.join()
    assert turns > 10


def test_an_idle_pool_takes_no_processor_time() -> None:
    program = Program(native(SAMPLES, "count", 1), calls=1, units=2)
    program.run(Team(2))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_who_waits_lets_the_others_run() -> None:
    """On one processor, to wait without that takes the time of those that are waited for."""
    program = (
        f"import os, sys, time; sys.path.insert(0, {str(FOLDER)!r}); from test_native import *\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "program = Program(native(SAMPLES, 'spin'), calls=50, units=6); program.values[1] = 100\n"
        "def seconds(team):\n"
        "    program.run(team)\n"
        "    before = time.thread_time()\n"
        "    for _ in range(300): program.run(team)\n"
        "    return time.thread_time() - before\n"
        "print(seconds(Team(2)) / seconds(Team(1)))"
    )
    assert float(in_a_process(program)) < 1.5


def test_workers_keep_to_the_processors_that_the_program_chose() -> None:
    """Also to a choice made long after they were started."""
    program = (
        f"import os, sys; sys.path.insert(0, {str(FOLDER)!r}); from test_native import *\n"
        "program = Program(native(SAMPLES, 'spin'), calls=20, units=6); program.values[1] = 1000\n"
        "program.run(Team(2))\n"
        "chosen = {min(os.sched_getaffinity(0))}\n"
        "threads = [int(name) for name in os.listdir('/proc/self/task')]\n"
        "for thread in threads: os.sched_setaffinity(thread, chosen)\n"
        "for _ in range(300): program.run(Team(2))\n"
        "print(all(os.sched_getaffinity(thread) == chosen for thread in threads), len(threads) > 1)"
    )
    assert in_a_process(program) == "True True"


QUOTAS = {
    "none": ({"cgroup": "0::/\n", "cpu.max": "max 100000\n"}, 64),
    "not in the root": ({"cgroup": "0::/\n"}, 64),
    "whole": ({"cgroup": "0::/\n", "cpu.max": "300000 100000\n"}, 3),
    "a part more": ({"cgroup": "0::/\n", "cpu.max": "150000 100000\n"}, 2),
    "less than one": ({"cgroup": "0::/\n", "cpu.max": "20000 100000\n"}, 1),
    "of a group above": ({"cgroup": "0::/a/b\n", "a/cpu.max": "5 1\n", "a/b/cpu.max": "max 1\n"}, 5),
    "named by the host": ({"cgroup": "0::/host/box\n", "cpu.max": "4 1\n"}, 4),
    "version 1": (
        {
            "cgroup": "3:cpuset:/\n2:cpu,cpuacct:/box\n1:name=systemd:/\n",
            "cpu,cpuacct/box/cpu.cfs_quota_us": "250000\n",
            "cpu,cpuacct/box/cpu.cfs_period_us": "100000\n",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        3,
    ),
    "version 1 elsewhere": (
        {"cgroup": "2:cpuacct,cpu:/\n", "cpu/cpu.cfs_quota_us": "7\n", "cpu/cpu.cfs_period_us": "1\n"},
        7,
    ),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_cores_are_bounded_by_the_quota_of_a_container(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, expected = QUOTAS[case]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    monkeypatch.setattr(_cores, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(_cores, "_MOUNT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert usable_cores() == expected


def test_without_control_groups_the_affinity_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cores, "_GROUPS", Path("/nowhere"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5})
    assert usable_cores() == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    program = (
        f"import os, sys; sys.path.insert(0, {str(FOLDER)!r}); from test_native import *\n"
        "program = Program(native(SAMPLES, 'count', 1), calls=3, units=4); program.run(Team(2))\n"
        "child = os.fork()\n"
        "program.run(Team(2))\n"
        "if child == 0: os._exit(0 if program.values[0] == 24 else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), program.values[0])"
    )
    assert in_a_process(program) == "0 24"


ARRAYS = {
    "whole": np.arange(6, dtype=np.float32),
    "inside of another": np.arange(24, dtype=np.int16).reshape(4, 6)[1:, 2:],
    "transposed": np.ones((3, 5)).T,
    "scalar": np.array(3, np.uint8),
    "empty": np.empty((0, 3), np.float64),
    "read-only": np.frombuffer(b"12345678", np.int8),
    "subclass": np.ones(3).view(np.matrix),
}


@pytest.fixture(params=[True, False], ids=["layout known", "layout unknown"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let native code read array objects, or let it get addresses as where their layout is unknown."""
    if request.param:
        assert _team._data_offset() == object.__basicsize__  # as far as every CPython and NumPy so far
    else:
        monkeypatch.setattr(_team, "_data_offset", lambda: -1)
    return request.param


@pytest.mark.parametrize("threads", [1, 2])
def test_a_launch_puts_addresses_of_arrays_among_the_arguments(layout: bool, threads: int) -> None:
    values, objects = np.full(2 * len(ARRAYS) + 1, -1), np.zeros(len(ARRAYS), np.int64)
    places = [(i // 2, values.ctypes.data + 8 * i, i % 2 * 40) for i in range(2 * len(ARRAYS))]
    patches = np.array(places)
    launch = Launch(0, 0, np.zeros(64, np.int64).ctypes.data, threads, patches, objects)
    for order in (list(ARRAYS.values()), list(ARRAYS.values())[::-1]):
        objects[:] = [array_handle()(x) for x in order]
        launch.run()
        assert list(values[:-1]) == [x.ctypes.data + add for x in order for add in (0, 40)]
        assert values[-1] == -1


@pytest.mark.parametrize("threads", [1, 2])
def test_a_launch_runs_on_the_arrays_of_each_run(layout: bool, threads: int) -> None:
    program, objects = Program(native(SAMPLES, "mark"), calls=3, units=50), np.zeros(1, np.int64)
    program.rows[:, 4] = 3 * threads
    launch = Launch(
        program.rows.ctypes.data,
        program.calls,
        program.counters.ctypes.data,
        threads,
        np.array([(0, program.values.ctypes.data, 8 * 10)]),
        objects,
    )
    for _ in range(20):
        marks = np.zeros(70, np.int64)
        objects[0] = array_handle()(marks)
        launch.run()
        assert (marks[10:60] > 0).all()
        assert not marks[:10].any()
        assert not marks[60:].any()


def test_a_team_has_a_thread() -> None:
    with pytest.raises(ValueError, match=r"a team has at least one thread \(got 0\)"):
        Team(0)


def test_the_number_of_threads_comes_from_the_environment() -> None:
    program = "from onnxref.native import team_of; print(team_of().threads)"
    assert in_a_process(program, ONNXREF_NUM_THREADS="3") == ("3" if sys.platform == "linux" else "1")


def test_the_target_has_lanes() -> None:
    assert target().lanes in (4, 8, 16)
    assert target().vector_bytes == 4 * target().lanes
