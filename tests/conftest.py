"""The order of the tests: files that take long begin first, so that no worker ends up alone."""

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in the background ignores Ctrl-C, and so would the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.databases"]

_LONG = (
    "tests/trainer/test_training.py",
    "tests/end_to_end/test_reference_agents.py",
    "tests/trainer/test_engine.py",
    "tests/trainer/test_stops.py",
    "tests/services/task_synthesis/test_model_recovery.py",
    "tests/services/rollout/test_recovery.py",
    "tests/services/task_synthesis/test_recovery.py",
    "tests/manifests/test_commands.py",
    "tests/services/task_synthesis/test_synthesize.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.nodeid.partition("::")[0]
        return _LONG.index(name) if name in _LONG else len(_LONG)

    items.sort(key=place)
