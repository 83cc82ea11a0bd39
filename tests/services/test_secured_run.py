"""All five services under mutual TLS with known callers only: a run, its audit, and no secret.

Secrets of every kind are in use: tokens, a password in the database's URL, keys of models and of
TLS. Whatever the processes write, count, answer and store is searched for them.
"""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from synthagent import errors
from synthagent.api.v1 import rollout_pb2, task_pb2
from synthagent.client import SynthAgentClient
from synthagent.security.callers import token_hash
from synthagent.security.certificates import CertificateFiles
from synthagent.security.channels import ChannelSecurity
from tests.example_task import example_task

SENTINEL = "s3nt1nel"
OPERATOR = f"{SENTINEL}-operator-token"
UNKNOWN = f"{SENTINEL}-unknown-token"
KEY = f"{SENTINEL}-model-key"
FILED_KEY = f"{SENTINEL}-filed-key"
PASSWORD = f"{SENTINEL}-password"


def _issue(authority: trustme.CA, folder: Path, name: str) -> CertificateFiles:
    folder.mkdir()
    issued = authority.issue_cert("localhost", "127.0.0.1", name, common_name=name)
    files = CertificateFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    files.authorities.write_bytes(authority.cert_pem.bytes())
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    (folder / "tls.key").write_bytes(issued.private_key_pem.bytes())
    return files


class System:
    """The services as a process, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = trustme.CA()
        self.services = _issue(authority, folder / "services", "synthagent")
        self.client = _issue(authority, folder / "client", "laptop")
        (folder / "callers.toml").write_text(
            f"""
            [[caller]]
            name = "system"
            role = "service"
            certificate = "synthagent"

            [[caller]]
            name = "olga"
            role = "operator"
            token_sha256 = "{token_hash(OPERATOR)}"
            """
        )
        (folder / "operator").write_text(OPERATOR)
        (folder / "unknown").write_text(UNKNOWN)
        (folder / "key").write_text(FILED_KEY)
        self.audit = folder / "audit.jsonl"
        self.environment = {
            "SYNTHAGENT_TLS_CA_FILE": str(self.services.authorities),
            "SYNTHAGENT_TLS_CERTIFICATE_FILE": str(self.services.certificate),
            "SYNTHAGENT_TLS_KEY_FILE": str(self.services.key),
            "SYNTHAGENT_CALLERS_FILE": str(folder / "callers.toml"),
            "SYNTHAGENT_AUDIT_FILE": str(self.audit),
            "SYNTHAGENT_HEALTH_PORT": "0",
            "SYNTHAGENT_LOG_LEVEL": "debug",
            "SYNTHAGENT_JUDGE__BASE_URL": f"http://user:{PASSWORD}@127.0.0.1:9/v1?token={PASSWORD}",
            "SYNTHAGENT_JUDGE__MODEL": "m",
            "SYNTHAGENT_JUDGE__API_KEY": KEY,
            "SYNTHAGENT_JUDGE__ATTEMPTS": "1",
            "SYNTHAGENT_TOOL__BASE_URL": "http://127.0.0.1:9/v1",
            "SYNTHAGENT_TOOL__MODEL": "m",
            "SYNTHAGENT_TOOL__API_KEY_FILE": str(folder / "key"),
            "SYNTHAGENT_TOOL__ATTEMPTS": "1",
            # SQLite has no passwords; the URL has one all the same.
            "SYNTHAGENT_DATABASE_URL": f"sqlite:///{folder}/synthagent.db?password={PASSWORD}",
        }

    def start(self) -> subprocess.Popen[str]:
        with (self.folder / "log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "services", "all", "--port=0", "--metrics-port=0"],
                env={**os.environ, **self.environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def security(self, token: str) -> ChannelSecurity:
        return ChannelSecurity(self.client, token_file=self.folder / token)

    def audited(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.audit.read_text().splitlines()]


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


@pytest.fixture
def ready(system: System) -> Iterator[dict[str, str]]:
    """The ready line of the running services."""
    process = system.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert line, (system.folder / "log").read_text()
        (system.folder / "ready").write_text(line)
        yield json.loads(line)
    finally:
        process.terminate()
        (system.folder / "stdout").write_text(process.communicate(timeout=30)[0])


async def _use(system: System, address: str) -> list[str]:
    """A run, calls that fail in every way, and what the failures said."""
    said = []
    async with SynthAgentClient(address, security=system.security("operator")) as client:
        imported = await client.import_tasks("import-1", [example_task()])
        said.append(str(imported))
        spec = rollout_pb2.RunSpec(
            reference=rollout_pb2.REFERENCE_AGENT_GOLD,
            tasks=rollout_pb2.TaskSelection(split=task_pb2.SPLIT_TRAIN),
            group_size=1,
        )
        await client.create_run("run-1", spec)
        async for run in client.watch_run("run-1"):
            ended = run
        assert ended.progress.episodes_ended == 1
        said += [str(each) async for each in client.list_trajectories("run-1")]
        for call in (
            client.judge("j", "no-such-task", []),
            client.judge_criterion("c", example_task(), [], "no-such-criterion"),
            client.call_tool("no-such-task", "t", "{}"),
        ):
            with pytest.raises(errors.SynthAgentError) as caught:
                await call
            said.append(repr((caught.value.message, caught.value.metadata)))
    async with SynthAgentClient(address, security=system.security("unknown")) as client:
        with pytest.raises(errors.Unauthenticated) as refused:
            await client.cancel_run("run-1")
        said.append(repr((refused.value.message, refused.value.metadata)))
    return said


def test_a_run_under_full_security_is_audited_and_shows_no_secret(
    system: System, ready: dict[str, str]
) -> None:
    said = asyncio.run(_use(system, ready["address"]))
    with urllib.request.urlopen(f"http://{ready['metrics_address']}/metrics", timeout=10) as page:
        metrics = page.read().decode()

    lines = system.audited()
    by_method = {line["method"].rpartition("/")[2]: line for line in lines}
    assert by_method["ImportTasks"] | {"time": "", "peer": "", "seconds": 0} == {
        "time": "",
        "peer": "",
        "seconds": 0,
        "caller": "olga",
        "role": "operator",
        "method": "/synthagent.api.v1.TaskSynthesis/ImportTasks",
        "request_id": "import-1",
        "code": "OK",
        "reason": "",
    }
    assert by_method["CreateRun"]["request_id"] == "run-1"
    assert by_method["CancelRun"]["code"] == "UNAUTHENTICATED"
    assert by_method["CancelRun"]["caller"] == ""
    assert by_method["JudgeCriterion"]["code"] != "OK"
    assert {line["caller"] for line in lines if line["method"].endswith("/Judge")} == {
        "olga",
        "system",  # the rollout service, on behalf of the run
    }
    assert not [line for line in lines if "Get" in line["method"] or "List" in line["method"]]

    for place, text in {
        "errors": "\n".join(said),
        "metrics": metrics,
        "audit": system.audit.read_text(),
        "log": (system.folder / "log").read_text(),
        "ready line": json.dumps(ready),
    }.items():
        assert text, place
        assert SENTINEL not in text, place
        assert "PRIVATE KEY" not in text, place
    database = b"".join(path.read_bytes() for path in system.folder.glob("synthagent.db*"))
    assert b"run-1" in database
    assert SENTINEL.encode() not in database


FAILING = (
    ("SYNTHAGENT_DATABASE_URL", f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1:1/x"),
    ("SYNTHAGENT_DATABASE_URL", f"nonsense://u:{PASSWORD}@h"),
    ("SYNTHAGENT_CALLERS_FILE", "operator"),
    ("SYNTHAGENT_TLS_KEY_FILE", "operator"),
    ("SYNTHAGENT_TOKEN_FILE", "."),
    ("SYNTHAGENT_AUDIT_FILE", "missing/audit"),
    ("SYNTHAGENT_JUDGE__API_KEYS", KEY),
)

_START_EACH = """
import json, os, sys
import typer
from typer.testing import CliRunner
from services.__main__ import main
app = typer.Typer()
app.command()(main)
for variable, value in json.loads(sys.argv[1]):
    before = dict(os.environ)
    os.environ[variable] = value
    result = CliRunner().invoke(app, ["tool_mock", "--port=0"])
    print(json.dumps([result.exit_code, result.output]))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    os.environ.clear()
    os.environ.update(before)
"""


def test_a_start_that_fails_shows_no_secret(system: System) -> None:
    """Each as its own command, one after another in a process."""
    given = [
        (variable, str(system.folder / value) if variable.endswith("_FILE") else value)
        for variable, value in FAILING
    ]
    done = subprocess.run(
        [sys.executable, "-c", _START_EACH, json.dumps(given)],
        env={**os.environ, **system.environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    for (variable, _), (code, output) in zip(FAILING, ends, strict=True):
        assert code in {2, 4}, (variable, output)
        assert output.strip(), variable
        assert "Traceback" not in output, variable
    assert SENTINEL not in done.stdout + done.stderr
