import sys
import time
from pathlib import Path

import pytest

from benchmarks.study import slices
from benchmarks.study.slices import Slice, SliceOver, StageFailed

PATIENT = "import time; print('begun', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "print('begun', flush=True); time.sleep(60)"
)


def test_a_process_runs_to_its_end(tmp_path: Path) -> None:
    piece = Slice()
    assert piece.run([sys.executable, "-c", "print('said')"], tmp_path / "log") == 0
    assert piece.run([sys.executable, "-c", "exit(3)"], tmp_path / "log", accepted=(0, 3)) == 3
    assert (tmp_path / "log").read_text() == "said\n"


def test_a_failure_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"exit code 1.*\n.*no such thing"):
        Slice().run([sys.executable, "-c", "exit('no such thing')"], tmp_path / "log")


@pytest.mark.parametrize(("program", "last"), [(PATIENT, "KeyboardInterrupt"), (STUBBORN, "begun")])
def test_a_process_is_stopped_before_the_slice_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, last: str
) -> None:
    monkeypatch.setattr(slices, "GRACE_SECONDS", 10.5)
    started = time.monotonic()
    with pytest.raises(SliceOver):
        Slice(minutes=12 / 60).run([sys.executable, "-c", program], tmp_path / "log")
    assert time.monotonic() - started < 12
    assert last in (tmp_path / "log").read_text().splitlines()[-1]


def test_what_does_not_fit_is_not_begun() -> None:
    Slice().need(1e9)
    with pytest.raises(SliceOver):
        Slice(minutes=1).need(60)
