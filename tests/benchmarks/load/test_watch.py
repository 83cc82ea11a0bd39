import subprocess
import sys
import time
from contextlib import ExitStack

import psutil
import pytest

from benchmarks.load.watch import Watch

BURN = "import time\nwhile time.process_time() < 0.3: pass"


def test_memory_and_time_of_processes_and_of_those_that_they_start_are_counted() -> None:
    command = [sys.executable, "-c", f"{BURN}\ninput()"]
    with ExitStack() as stack:
        with Watch([psutil.Process()], 1.0) as watch:
            subprocess.run([sys.executable, "-c", BURN], check=True)
            living = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE))
            time.sleep(1.5)
        living.communicate(b"\n")
    assert 0.6 <= watch.cpu_seconds < 5
    own = psutil.Process().memory_full_info().pss / 1e6
    assert watch.samples
    assert all(megabytes == pytest.approx(own, rel=0.5) for _, megabytes in watch.samples)


def test_growth_is_seen_as_a_slope_and_between_the_ends() -> None:
    watch = Watch([], 100.0)
    watch.samples = [(float(second), 500.0 if second < 10 else 200.0) for second in range(100)]
    assert watch.megabytes_per_minute == pytest.approx(0.0)
    assert watch.megabytes_before == watch.megabytes_after == 200.0
    watch.samples = [(float(second), 200.0 + 0.5 * second) for second in range(100)]
    assert watch.megabytes_per_minute == pytest.approx(30.0)
    assert watch.megabytes_after - watch.megabytes_before == pytest.approx(0.5 * 81)
