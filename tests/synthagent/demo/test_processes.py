from pathlib import Path

import psutil
import pytest

from synthagent.demo import processes
from synthagent.demo.memory import PeakMemory


def test_services_run_for_the_block_and_are_gone_after_it(tmp_path: Path) -> None:
    database = {"SYNTHAGENT_DATABASE_URL": f"sqlite:///{tmp_path}/demo.db"}
    before = {process.pid for process in psutil.Process().children()}
    with PeakMemory(interval_seconds=0.05) as memory:
        with processes.services(tmp_path, database) as address:
            assert address.rpartition(":")[2].isdigit()
            started = {process.pid for process in psutil.Process().children()} - before
            assert started
        assert not {process.pid for process in psutil.Process().children()} & started
    assert memory.peak_mb > 20


def test_services_that_do_not_start_say_why(tmp_path: Path) -> None:
    with (
        pytest.raises(processes.ProcessFailed, match="SYNTHAGENT_PORTS"),
        processes.services(tmp_path, {"SYNTHAGENT_PORTS": "1"}),
    ):
        pass


def test_a_module_that_fails_brings_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(processes.ProcessFailed, match=r"exit code 1[\s\S]*No module named"):
        processes.run(["synthagent.nowhere"], tmp_path / "nowhere.log")
