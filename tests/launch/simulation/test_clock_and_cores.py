"""Virtual time, and processes that share cores: against closed forms."""

import asyncio
import random
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.simulation.clock import Deadlock, run_virtually
from launch.simulation.cores import Cores, Process


def test_timers_fire_in_order_and_a_day_takes_no_time() -> None:
    async def main() -> list[tuple[float, str]]:
        fired: list[tuple[float, str]] = []

        async def wait(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            fired.append((asyncio.get_running_loop().time(), name))

        await asyncio.gather(wait(86_400, "day"), wait(0.5, "first"), wait(60, "minute"))
        return fired

    began = time.monotonic()
    fired = run_virtually(main())
    assert time.monotonic() - began < 100
    assert [name for _, name in fired] == ["first", "minute", "day"]
    assert [at for at, _ in fired] == pytest.approx([0.5, 60, 86_400])


def test_a_deadline_is_one_of_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(1000)
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == pytest.approx(30)


def test_waiting_for_ever_is_an_error() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run_virtually(main())


def test_what_goes_to_a_thread_is_done_at_once() -> None:
    def fail() -> None:
        raise KeyError("there")

    async def main() -> float:
        assert await asyncio.to_thread(lambda: 7) == 7
        with pytest.raises(KeyError, match="there"):
            await asyncio.to_thread(fail)
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == 0.0


def ended(cores: float, jobs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """When each process, that begins at a time with so many CPU seconds of work, has done it; and
    the CPU seconds that it got."""

    async def main() -> tuple[list[float], list[float]]:
        machine = Cores(cores)
        processes = [Process(machine) for _ in jobs]

        async def one(process: Process, begin_s: float, cpu_s: float) -> float:
            await asyncio.sleep(begin_s)
            await process.work(cpu_s)
            return asyncio.get_running_loop().time()

        pairs = zip(processes, jobs, strict=True)
        ends = await asyncio.gather(*(one(process, *job) for process, job in pairs))
        return ends, [process.processor.cpu_s for process in processes]

    return run_virtually(main())


def test_three_processes_on_two_cores() -> None:
    # Two thirds of a core each for 1.5 s; the long one then has a core of its own.
    ends, _ = ended(2, [(0, 1), (0, 1), (0, 3)])
    assert ends == pytest.approx([1.5, 1.5, 3.5])


def test_who_comes_late_takes_its_share() -> None:
    # Alone on one core for 1 s; both at half speed until the first is done at 3 s.
    ends, _ = ended(1, [(0, 2), (1, 2)])
    assert ends == pytest.approx([3, 4])


def test_without_a_number_each_has_its_own_core() -> None:
    ends, _ = ended(float("inf"), [(0, 1), (0, 2), (1, 2)])
    assert ends == pytest.approx([1, 2, 3])


def test_who_needs_two_devices_is_as_fast_as_the_slower_one() -> None:
    async def main() -> list[float]:
        first, second = Cores(1), Cores(1)
        both, one, other = Process(first, second), Process(first), Process(second)

        async def end(process: Process, begin_s: float, cpu_s: float) -> float:
            await asyncio.sleep(begin_s)
            await process.work(cpu_s)
            return asyncio.get_running_loop().time()

        return await asyncio.gather(end(both, 0, 3), end(one, 0, 1), end(other, 1, 2))

    # Half speed until 5 s: beside `one` until 2 s, beside `other` from 1 s on, which is alone then.
    assert run_virtually(main()) == pytest.approx([5.5, 2, 5])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 5)), min_size=1, max_size=8),
)
def test_work_is_conserved_and_no_machine_is_faster_than_its_cores(
    cores: int, jobs: list[tuple[float, float]]
) -> None:
    ends, used = ended(cores, jobs)
    assert used == pytest.approx([cpu_s for _, cpu_s in jobs])
    for (begin_s, cpu_s), end_s in zip(jobs, ends, strict=True):
        assert end_s >= begin_s + cpu_s - 1e-6
    first_s = min(begin_s for begin_s, _ in jobs)
    assert max(ends) >= first_s + sum(cpu_s for _, cpu_s in jobs) / cores - 1e-6


def test_a_process_is_a_queue_with_one_server() -> None:
    """M/D/1: with Poisson arrivals at load rho the mean wait is rho / (2 (1 - rho)) services."""
    load, service_s, number = 0.7, 2.0, 20_000

    async def main() -> tuple[float, float]:
        chance, process, waits = random.Random(3), Process(Cores()), []
        loop = asyncio.get_running_loop()

        async def customer() -> None:
            came_s = loop.time()
            await process.work(service_s)
            waits.append(loop.time() - came_s - service_s)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(number):
                await asyncio.sleep(chance.expovariate(load / service_s))
                tasks.create_task(customer())
        process.processor.settle()
        return sum(waits) / number, process.processor.busy_s / loop.time()

    mean_s, busy = run_virtually(main())
    assert busy == pytest.approx(load, rel=0.03)
    assert mean_s == pytest.approx(service_s * load / (2 * (1 - load)), rel=0.08)
