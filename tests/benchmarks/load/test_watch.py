import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.load.watch import Watch

HELD_MEGABYTES = 60
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
HOLD = f"held = b'x' * {HELD_MEGABYTES * 10**6}\nprint('ready', flush=True)\ninput()\n"
PARENT = f"""
import subprocess, sys
input()
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
with subprocess.Popen([sys.executable, "-c", {BURN + HOLD!r}]):
    held = b'x' * {HELD_MEGABYTES * 10**6}
"""


def test_memory_and_time_of_processes_and_of_those_that_they_start_are_counted() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        with Watch([psutil.Process(process.pid)], 1.0) as watch:
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"ready\n"  # of the one that it has started
            time.sleep(2.5)  # two samples more
        process.stdin.write(b"\n")
    assert 0.6 <= watch.cpu_seconds < 5  # one has ended, the other lived on
    assert 2 * HELD_MEGABYTES < watch.samples[-1][1] < 2 * HELD_MEGABYTES + 60


def test_growth_is_seen_as_a_slope_and_between_the_ends() -> None:
    watch = Watch([], 100.0)
    watch.samples = [(float(second), 500.0 if second < 10 else 200.0) for second in range(100)]
    assert watch.megabytes_per_minute == pytest.approx(0.0)
    assert watch.megabytes_before == watch.megabytes_after == 200.0
    watch.samples = [(float(second), 200.0 + 0.5 * second) for second in range(100)]
    assert watch.megabytes_per_minute == pytest.approx(30.0)
    assert watch.megabytes_after - watch.megabytes_before == pytest.approx(0.5 * 81)
