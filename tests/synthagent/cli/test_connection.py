"""Where a command finds its server, and what it leaves behind when it ends in any way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.synthagent.cli.conftest import Invoke

COMMAND = (sys.executable, "-m", "synthagent.cli")


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNTHAGENT_")}
    return {**kept, **changes}


def running_in(folder: Path) -> list[int]:
    """Processes of services whose log is in the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        started = process.info["environ"] or {}
        if str(folder) in started.get("SYNTHAGENT_DATABASE_URL", ""):
            found.append(process.pid)
    return found


def test_no_server_at_the_address_is_told(invoke: Invoke) -> None:
    result = invoke("tasks", "list", "--json", address="127.0.0.1:1", code=3)
    error = json.loads(result.stdout)["error"]
    assert error["reason"] == "BACKEND_UNAVAILABLE"
    assert error["message"].startswith("No server answers at 127.0.0.1:1;")
    assert "No server answers" in result.stderr


def test_without_an_address_the_services_run_for_the_command(tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, "tasks", "list", "--json"],
        capture_output=True,
        text=True,
        # Variables of the command line are no settings of the services, which inherit them.
        env=environment(SYNTHAGENT_DATA_DIR=str(tmp_path / "data"), SYNTHAGENT_ADDRESS=""),
        timeout=100,
        check=False,
    )
    assert (result.returncode, json.loads(result.stdout)) == (0, {"tasks": []}), result.stderr
    assert (tmp_path / "data" / "synthagent.db").exists()
    assert not running_in(tmp_path)


@pytest.mark.parametrize(
    ("number", "code", "awaited"),
    [(signal.SIGINT, 130, "certified tasks"), (signal.SIGTERM, 143, "")],
    ids=["while-working", "while-starting"],
)
def test_an_interrupted_command_ends_its_services(
    tmp_path: Path, number: signal.Signals, code: int, awaited: str
) -> None:
    command = [*COMMAND, "tasks", "synthesize", "--count", "50000", "--json"]
    errors = tmp_path / "errors"
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [*command, "--data-dir", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
            env=environment(FORCE_COLOR="1"),  # as on a terminal, the bar is there from the start
        )
    try:
        deadline = time.monotonic() + 60
        while not (running_in(tmp_path) and awaited in errors.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, errors.read_text()
    assert output == ""
    assert "Traceback" not in errors.read_text()
    assert not running_in(tmp_path)


def test_settings_that_do_not_fit_are_told(tmp_path: Path) -> None:
    result = subprocess.run(
        [*COMMAND, "tasks", "list", "--data-dir", tmp_path],
        capture_output=True,
        text=True,
        env=environment(SYNTHAGENT_PORTS="1"),
        timeout=100,
        check=False,
    )
    assert result.returncode == 2
    assert "SYNTHAGENT_PORTS is no setting" in result.stderr


def test_help_tells_the_exit_codes_and_completion_is_there(invoke: Invoke) -> None:
    text = " ".join(invoke("tasks", "import", "--help").stdout.split())
    assert "Exit codes: 0 everything was done; 1 something was rejected" in text


def test_a_shell_completes_commands_and_values() -> None:
    program = "import sys; sys.argv[0] = 'synthagent'; from synthagent.cli import main; main()"
    for words, expected in (
        ("synthagent rollout --agent go", "gold"),
        ("synthagent tasks import --format ", "native"),
    ):
        result = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env=environment(
                _SYNTHAGENT_COMPLETE="complete_bash",
                COMP_WORDS=words,
                COMP_CWORD=str(len(words.split(" ")) - 1),
            ),
            timeout=60,
            check=False,
        )
        assert expected in result.stdout.split(), result.stderr


def test_the_version_is_told(invoke: Invoke) -> None:
    assert invoke("--version").stdout.strip()[0].isdigit()
