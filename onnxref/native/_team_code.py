"""Native code of the thread team. Imports Numba.

A program is a table of calls, `ROW` int64 each: function, arguments, units, chunks per thread, parts
that the units are split into (one for each chunk of all threads, or a single one). Beside it lie
counters, one cache line each: per call the finished chunks, and per thread the chunks of its share
that have been taken. Every thread walks through all calls: it takes chunks of its own share, then of
the others', then waits until all chunks of the call are finished. So a thread that is late or was put
aside by the system holds up nobody, and no result depends on who computed it.

The control block has one cache line per field:
    EPOCH     odd while a program runs; every start and end adds one
    PROGRAM, CALLS, COUNTERS, THREADS   of the program that runs
    ACTIVE    workers inside of the program
    SLEEPERS  workers that wait in the kernel of the operating system
    STOP      tells workers to leave
    CPU       where the leader is
    LEADER    the leader's thread
Behind them lies a set of processors for each worker.

A request tells native code what to run: control block, program, calls, counters, threads, patches, number of
patches, objects. A patch puts the address of an array's elements among the arguments of the calls, three
int64 each: number of the array's object, address of the argument, what is added. So a run that takes
microseconds spends none of them on asking arrays in Python where they lie.

A system tends to wake a thread on the processor of the thread that wakes it, where the two would stand
in each other's way for milliseconds. So a worker that finds itself beside the leader moves elsewhere: to
another one of the processors that the leader may use at that time.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .ops import (
    I8,
    I32,
    I64,
    access,
    arg,
    atomic_add,
    atomic_load,
    atomic_store,
    call_kernel,
    device,
    fill_bytes,
    pause,
    system_call,
    yield_processor,
)

LINE = 64
ROW = 5
PATCH = 3
EPOCH, PROGRAM, CALLS, COUNTERS, THREADS, ACTIVE, SLEEPERS, STOP, CPU, LEADER, SETS = (
    i * LINE for i in range(11)
)
BLOCK, PROGRAM_OF, CALLS_OF, COUNTERS_OF, THREADS_OF, PATCHES, PATCH_COUNT, OBJECTS = range(8)  # of a request
SET_BYTES = 128  # of a set of processors, as the system takes it
MOST_SETS = 64

_SPINS_BEFORE_YIELD = 4_000
_SPINS_BEFORE_SLEEP = 20_000
_FUTEX_WAIT, _FUTEX_WAKE = 128, 129  # private to the process


@intrinsic
def _current_cpu(context):
    """The processor that the thread runs on."""

    def generate(ctx, builder, signature, values):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), "sched_getcpu")
        return builder.sext(builder.call(function, []), I64)

    return types.int64(), generate


@intrinsic
def _current_thread(context):
    """The thread, as the C library names it."""

    def generate(ctx, builder, signature, values):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I64, []), "pthread_self")
        return builder.call(function, [])

    return types.int64(), generate


@intrinsic
def _processors_of(context, thread, cpus):
    """Write the set of processors that a thread may use to an address; 0 if that went well."""

    def generate(ctx, builder, signature, values):
        kind = ir.FunctionType(I32, [I64, I64, I8.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, kind, "pthread_getaffinity_np")
        pointer = builder.inttoptr(values[1], I8.as_pointer())
        return builder.sext(builder.call(function, [values[0], I64(SET_BYTES), pointer]), I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _move_to(context, cpus):
    """Move the thread to one of a set of processors, by the address of the set."""

    def generate(ctx, builder, signature, values):
        kind = ir.FunctionType(I32, [I32, I64, I8.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, kind, "sched_setaffinity")
        pointer = builder.inttoptr(values[0], I8.as_pointer())
        builder.call(function, [I32(0), I64(SET_BYTES), pointer])
        return ctx.get_dummy_value()

    return types.void(types.int64), generate


@device
def _step_aside(block, worker):
    """Move a worker that runs on the leader's processor to another one, if it may."""
    leader = atomic_load(block + CPU)
    if leader < 0 or leader >= 8 * SET_BYTES or worker >= MOST_SETS or _current_cpu() != leader:
        return
    own = block + SETS + worker * SET_BYTES
    if _processors_of(atomic_load(block + LEADER), own) != 0:
        return
    word = own + 8 * (leader // 64)
    atomic_store(word, atomic_load(word) & ~(1 << (leader % 64)))
    left = 0
    for i in range(SET_BYTES // 8):
        left |= atomic_load(own + 8 * i)
    if left != 0:
        _move_to(own)


@device
def _take_chunks(row, counters, share, thread, threads):
    """Run chunks of one thread's share of a call until none is left."""
    function, arguments, units, chunks = arg(row, 0), arg(row, 1), arg(row, 2), arg(row, 3)
    parts = arg(row, 4)
    taken = counters + LINE * (1 + share)
    while atomic_load(taken) < chunks:
        chunk = atomic_add(taken, 1)
        if chunk >= chunks:
            break
        place = share * chunks + chunk
        if place < parts:
            begin, end = units * place // parts, units * (place + 1) // parts
            if end > begin:
                call_kernel(function, arguments, begin, end, thread)
        atomic_add(counters, 1)


@device
def _wait(spins):
    """Pause once; after many times let another thread run, it may be the one that is waited for.

    Return how often there was a pause since.
    """
    pause()
    if spins + 1 < _SPINS_BEFORE_YIELD:
        return spins + 1
    yield_processor()
    return 0


@device
def _walk(program, calls, counters, thread, threads):
    """Take part in every call of a program."""
    stride = LINE * (1 + threads)
    for i in range(calls):
        row = program + i * ROW * 8
        own = counters + i * stride
        total = arg(row, 3) * threads
        if atomic_load(own) < total:
            for k in range(threads):
                _take_chunks(row, own, (thread + k) % threads, thread, threads)
            spins = 0
            while atomic_load(own) < total:
                spins = _wait(spins)


def _patching(data: int):
    """Return what applies the patches of request `p`; `data` is as for `serial`."""
    _, store = access("int64")

    @device
    def patch(p):
        objects, row = arg(p, OBJECTS), arg(p, PATCHES)
        for _ in range(arg(p, PATCH_COUNT)):
            address = arg(objects, arg(row, 0))
            if data >= 0:
                address = arg(address + data, 0)
            store(arg(row, 1), 0, address + arg(row, 2))
            row += PATCH * 8

    return patch


def serial(data: int):
    """Kernel that runs request `p` on the calling thread.

    Args:
        data: where an object holds the address of its elements, in bytes; -1: objects are that address.
    """
    patch = _patching(data)

    def kernel(p, begin, end, thread):
        patch(p)
        program = arg(p, PROGRAM_OF)
        for i in range(arg(p, CALLS_OF)):
            row = program + i * ROW * 8
            call_kernel(arg(row, 0), arg(row, 1), 0, arg(row, 2), 0)

    return kernel


def leader(futex: int, data: int):
    """Kernel that runs request `p` together with the workers; `data` is as for `serial`."""
    patch = _patching(data)

    def kernel(p, begin, end, thread):
        patch(p)
        block, program, calls = arg(p, BLOCK), arg(p, PROGRAM_OF), arg(p, CALLS_OF)
        counters, threads = arg(p, COUNTERS_OF), arg(p, THREADS_OF)
        fill_bytes(counters, 0, calls * LINE * (1 + threads))
        atomic_store(block + PROGRAM, program)
        atomic_store(block + CALLS, calls)
        atomic_store(block + COUNTERS, counters)
        atomic_store(block + THREADS, threads)
        atomic_store(block + CPU, _current_cpu())
        atomic_store(block + LEADER, _current_thread())
        atomic_add(block + EPOCH, 1)
        if atomic_load(block + SLEEPERS) > 0:
            system_call(futex, block + EPOCH, _FUTEX_WAKE, threads)
        _walk(program, calls, counters, 0, threads)
        atomic_add(block + EPOCH, 1)
        spins = 0
        while atomic_load(block + ACTIVE) > 0:
            spins = _wait(spins)

    return kernel


def worker(futex: int):
    """Kernel that serves the control block `p` as thread `begin` until it is told to stop."""

    def kernel(p, begin, end, thread):
        spins = 0
        seen = atomic_load(p + EPOCH) & -2
        while atomic_load(p + STOP) == 0:
            epoch = atomic_load(p + EPOCH)
            if epoch & 1 and epoch != seen:
                atomic_add(p + ACTIVE, 1)
                if atomic_load(p + EPOCH) == epoch:  # else it has ended, and its memory may be gone
                    threads = atomic_load(p + THREADS)
                    if begin < threads:
                        _step_aside(p, begin)
                        _walk(
                            atomic_load(p + PROGRAM),
                            atomic_load(p + CALLS),
                            atomic_load(p + COUNTERS),
                            begin,
                            threads,
                        )
                atomic_add(p + ACTIVE, -1)
                seen = epoch
                spins = 0
            pause()
            spins += 1
            if spins >= _SPINS_BEFORE_SLEEP:
                atomic_add(p + SLEEPERS, 1)
                if atomic_load(p + EPOCH) == epoch and atomic_load(p + STOP) == 0:
                    system_call(futex, p + EPOCH, _FUTEX_WAIT, epoch)
                atomic_add(p + SLEEPERS, -1)
                spins = 0

    return kernel
