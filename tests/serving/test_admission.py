"""Slots refuse, a budget lets wait; neither loses anything when a task is given up."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from featherseg.serving.admission import Bodies, Body, Budget, Slots
from featherseg.serving.refusal import Refused


def test_more_than_the_slots_are_refused_with_a_time_to_try_again():
    slots = Slots(3)
    with slots.take(2), slots.take():
        with pytest.raises(Refused, match="3 of 3 images") as refused, slots.take():
            pass
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    assert slots.in_use == 0


def test_slots_come_back_from_work_that_failed():
    slots = Slots(1)
    with pytest.raises(ValueError, match="no"), slots.take():
        raise ValueError("no")
    with slots.take():
        assert slots.in_use == 1


def told(story):
    """Run a coroutine in a thread: a browser under test keeps this thread's event loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, story).result(60)


async def _hold(budget, pixels, order, name, release):
    async with budget.take(pixels):
        order.append(name)
        assert budget.in_use <= budget.most
        await release.wait()


async def _settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_budget_is_kept_and_a_large_one_is_not_overtaken():
    async def story():
        budget, order, release = Budget(10), [], asyncio.Event()
        names = {"first": 6, "large": 10, "small": 1}
        tasks = [
            asyncio.create_task(_hold(budget, pixels, order, name, release))
            for name, pixels in names.items()
        ]
        await _settle()
        before = list(order)
        release.set()
        await asyncio.gather(*tasks)
        return before, order, budget.in_use

    assert told(story()) == (["first"], ["first", "large", "small"], 0)


def test_a_budget_loses_nothing_to_tasks_that_are_given_up():
    async def story():
        budget, order, release = Budget(10), [], asyncio.Event()
        tasks = [asyncio.create_task(_hold(budget, 10, order, i, release)) for i in range(4)]
        await _settle()
        tasks[0].cancel()  # holds
        tasks[2].cancel()  # waits
        await _settle()
        tasks[1].cancel()  # has just come to its turn
        release.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return order, [type(x).__name__ for x in found], budget.in_use

    order, found, taken = told(story())
    assert order == [0, 1, 3]
    assert found == ["CancelledError"] * 3 + ["NoneType"]
    assert taken == 0


def test_a_slow_body_whose_time_ends_at_this_moment_hurts_no_other():
    async def story():
        bodies, loop, grown = Bodies(100_000), asyncio.get_running_loop(), asyncio.Event()

        async def slow():
            async with asyncio.timeout(0.01) as deadline:
                with bodies.hold(Body(deadline)) as body:
                    bodies.grow(body, 20_000)
                    await asyncio.sleep(60)

        def grow(body):
            bodies.grow(body, 90_000)
            grown.set()

        giving_up = asyncio.create_task(slow())
        await asyncio.sleep(0)
        async with asyncio.timeout(20) as deadline:
            with bodies.hold(Body(deadline)) as body:
                loop.call_later(0.02, grow, body)
                time.sleep(
                    0.1
                )  # both are due now: the one's end, then the other's growth, before any task runs
                await grown.wait()
        found = await asyncio.gather(giving_up, return_exceptions=True)
        return [type(x).__name__ for x in found], bodies.in_use

    assert told(story()) == (["TimeoutError"], 0)
