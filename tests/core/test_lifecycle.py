"""Groups of tasks that end, and what comes too late for them."""

import asyncio

import pytest

from exai.core.lifecycle import PatientTaskGroup


async def never() -> None:
    raise AssertionError("it began")


async def test_a_task_that_comes_while_its_group_ends_never_begins() -> None:
    group = PatientTaskGroup()
    with pytest.raises(ExceptionGroup):
        async with group:
            late = group.create_task(come_late(group))
            await asyncio.sleep(0)
            raise ZeroDivisionError
    assert (await late).cancelled()


async def come_late(group: PatientTaskGroup) -> asyncio.Task[None]:
    """Ask for one more task once the group has begun to end."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        task = group.create_task(never())
        await asyncio.wait([task])
        return task
    raise AssertionError


async def test_a_task_that_comes_after_its_group_never_begins() -> None:
    async with PatientTaskGroup() as group:
        pass
    with pytest.raises(asyncio.CancelledError):
        await group.create_task(never())


async def test_a_task_that_comes_before_its_group_is_a_mistake() -> None:
    unborn = never()
    with pytest.raises(RuntimeError):
        PatientTaskGroup().create_task(unborn)
    unborn.close()
