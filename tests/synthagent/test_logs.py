import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from synthagent import logs


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_json_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger().info("episode ended", trajectory_id="r-0-0", reward=1.0)
    structlog.get_logger().debug("too fine")
    logging.getLogger("some.library").warning("from %s", "elsewhere")
    captured = capsys.readouterr()
    assert captured.out == ""
    ours, theirs = map(json.loads, captured.err.splitlines())
    assert (ours["event"], ours["reward"], ours["level"]) == ("episode ended", 1.0, "info")
    assert theirs["event"] == "from elsewhere"


def test_a_traceback_stands_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("error", "json")
    error = ValueError("seven")
    structlog.get_logger().error("call failed", exc_info=error)
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: seven" in json.loads(line)["exception"]


def test_lines_for_people_have_no_colours_in_a_file() -> None:
    program = (
        "import structlog; from synthagent import logs; logs.configure('info', 'console');"
        "structlog.get_logger().info('ready', port=7)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "ready" in done.stderr
    assert "port=7" in done.stderr
    assert "\x1b" not in done.stderr
