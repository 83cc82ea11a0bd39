import asyncio
import contextvars

from synthagent import deadlines
from synthagent.deadlines import ModelSeconds
from synthagent.settings import load_settings


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


def test_a_judge_has_time_to_ask_everything_twice() -> None:
    role = {"base_url": "http://h/v1", "model": "m"}
    settings = load_settings(
        user=role | {"timeout_seconds": 7.0}, judge=role | {"timeout_seconds": 10.0}
    )
    assert ModelSeconds.of(settings) == ModelSeconds(tool=0.0, user=14.0, judge=34.0)
    assert ModelSeconds.of(load_settings()) == ModelSeconds()
