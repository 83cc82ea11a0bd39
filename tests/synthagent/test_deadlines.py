import asyncio
import contextvars

from synthagent import deadlines


def test_without_a_deadline_the_default_counts() -> None:
    assert deadlines.timeout(30.0) == 30.0
    assert deadlines.timeout(None) is None


def test_the_nearer_of_default_and_deadline_counts() -> None:
    def within() -> None:
        deadlines.begin(5.0)
        assert deadlines.timeout(1.0) == 1.0
        for default in (30.0, None):
            left = deadlines.timeout(default)
            assert left is not None
            assert 4.5 < left <= 5.0
        deadlines.begin(-1.0)
        assert deadlines.timeout(30.0) == 0.0
        deadlines.begin(None)
        assert deadlines.timeout(30.0) == 30.0

    contextvars.copy_context().run(within)


async def test_each_task_has_its_own() -> None:
    async def serve(seconds: float) -> float | None:
        deadlines.begin(seconds)
        await asyncio.sleep(0.01)
        return deadlines.timeout(100.0)

    short, long = await asyncio.gather(serve(1.0), serve(50.0))
    assert short is not None
    assert long is not None
    assert short < 1.0
    assert long > 40.0
    assert deadlines.timeout(100.0) == 100.0
