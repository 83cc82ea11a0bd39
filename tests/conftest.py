"""The order of the tests: files that take long begin first, so that no worker ends up alone.

pytest-xdist would begin with files of many tests instead: it is called with --no-loadscope-reorder.
"""

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in the background ignores Ctrl-C, and so would the processes that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.databases"]

_LONG = (
    "tests/synthagent/worlds/compose/test_composer.py",
    "tests/end_to_end/test_model_teacher.py",
    "tests/end_to_end/test_reference_agents.py",
    "tests/trainer/test_engine.py",
    "tests/trainer/test_training.py",
    "tests/trainer/test_stops.py",
    "tests/benchmarks/test_cluster.py",
    "tests/services/task_synthesis/test_model_recovery.py",
    "tests/services/rollout/policy/test_engine.py",
    "tests/manifests/test_commands.py",
    "tests/synthagent/llm/test_models.py",
    "tests/synthagent/store/test_responses.py",
    "tests/services/test_main.py",
    "tests/end_to_end/test_backup.py",
    "tests/benchmarks/study/test_stages.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.nodeid.partition("::")[0]
        return _LONG.index(name) if name in _LONG else len(_LONG)

    items.sort(key=place)
