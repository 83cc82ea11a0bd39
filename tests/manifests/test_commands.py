"""What the manifests start, starts: command, arguments and environment as real processes.

Of the environment only what belongs to a cluster is replaced: the database, the host and the ports.
Services are asked for their health with the service name of their own probe, then told to end as a
kubelet tells them. Containers of others' images (PostgreSQL, vLLM) are not here: vLLM's flags are
held against the settings in `checks`, and parsed by vLLM in tests/llm.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from synthagent.security.callers import token_hash
from tests.manifests.objects import ROOT, Manifests, Object, Pod, built, is_ours

SERVICES = ("task-synthesis", "tool-mock", "user-simulator", "rubric-judge", "rollout")
_BIN = Path(sys.executable).parent


def started_with(manifests: Manifests, container: Object, database: Path) -> dict[str, str]:
    """A container's environment, at home here."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SYNTHAGENT_")}
    return {
        **inherited,
        "PATH": f"{_BIN}:{os.environ['PATH']}",
        **manifests.environment(container),
        "SYNTHAGENT_DATABASE_URL": f"sqlite:///{database}",
        "SYNTHAGENT_HOST": "127.0.0.1",
        "SYNTHAGENT_PORT": "0",
        "SYNTHAGENT_METRICS_PORT": "0",
        **secrets_of(manifests, container, database.parent),
    }


def secrets_of(manifests: Manifests, container: Object, folder: Path) -> dict[str, str]:
    """What the Secrets hold that a container's settings name, made here; and any health port."""
    given = manifests.environment(container)
    if "SYNTHAGENT_TLS_CA_FILE" not in given:
        return {}
    authority = trustme.CA()
    issued = authority.issue_cert(given["SYNTHAGENT_TLS_SERVER_NAME"])
    token = "of-a-service"
    contents = {
        "SYNTHAGENT_TLS_CA_FILE": authority.cert_pem.bytes(),
        "SYNTHAGENT_TLS_CERTIFICATE_FILE": issued.cert_chain_pems[0].bytes(),
        "SYNTHAGENT_TLS_KEY_FILE": issued.private_key_pem.bytes(),
        "SYNTHAGENT_CALLERS_FILE": '[[caller]]\nname = "ours"\nrole = "service"\n'
        f'token_sha256 = "{token_hash(token)}"'.encode(),
        "SYNTHAGENT_TOKEN_FILE": token.encode(),
    }
    made = {"SYNTHAGENT_HEALTH_PORT": "0"}
    for name, content in contents.items():
        if name in given:
            path = folder / Path(given[name]).name
            path.write_bytes(content)
            made[name] = str(path)
    return made


def command_of(container: Object) -> list[str]:
    return [*container["command"], *container.get("args", [])]


def services_of(manifests: Manifests) -> list[Pod]:
    found = [p for p in manifests.pods() if p.owner["kind"] == "Deployment"]
    return [pod for pod in found if is_ours(pod.containers[0])]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that the migration Job made, after a service's init container began to wait."""
    path = tmp_path_factory.mktemp("manifests") / "synthagent.db"
    manifests = built("production")
    waits = manifests.pod("rollout").spec["initContainers"][0]
    migrates = manifests.pod("migrate").containers[0]
    with subprocess.Popen(
        command_of(waits),
        env=started_with(manifests, waits, path),
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stderr is not None
        events = [json.loads(waiting.stderr.readline())["event"] for _ in range(2)]
        assert events == ["settings", "waiting"]
        environment = started_with(manifests, migrates, path)
        subprocess.run(command_of(migrates), env=environment, check=True, timeout=60)
        assert waiting.wait(timeout=30) == 0
    return path


@pytest.fixture(scope="module", params=["local", "production"])
def running(request: pytest.FixtureRequest, database: Path) -> Iterator[dict[str, Started]]:
    """Every service of `local`, started at once; of `production`, rollout.

    Their commands are the same; rollout's settings differ most.
    """
    manifests = built(request.param)
    with ExitStack() as stack:
        yield {
            pod.component: stack.enter_context(Started(manifests, pod, database))
            for pod in services_of(manifests)
            if request.param == "local" or pod.component == "rollout"
        }


class Started:
    """A container's process, from its start to its end."""

    def __init__(self, manifests: Manifests, pod: Pod, database: Path) -> None:
        self.container = pod.containers[0]
        self.process = subprocess.Popen(
            command_of(self.container),
            env=started_with(manifests, self.container, database),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def address(self) -> str:
        """host:port that its probes ask, once it serves."""
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        return str(ready["health_address"] or ready["address"])


def test_every_service_answers_its_probes_and_ends_when_told(running: dict[str, Started]) -> None:
    assert set(running) in (set(SERVICES), {"rollout"})
    for component, service in running.items():
        with grpc.insecure_channel(service.address()) as channel:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = service.container[kind]["grpc"].get("service", "")
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=asked), timeout=10
                )
                assert answer.status == health_pb2.HealthCheckResponse.SERVING, component
    for service in running.values():
        service.process.send_signal(signal.SIGTERM)
    for component, service in running.items():
        assert service.process.wait(timeout=30) == 0, component


def test_the_trainer_starts_under_torchrun_with_its_arguments(database: Path) -> None:
    """To its help: what it would do with its arguments is checked in `trainer_fits_its_job`."""
    manifests = built("local")
    container = manifests.pod("trainer").containers[0]
    environment = started_with(manifests, container, database)
    environment |= {"PET_NODE_RANK": "0", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": "0"}
    done = subprocess.run(
        [*command_of(container), "--help"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Trains a policy" in done.stdout


def test_the_default_model_is_converted_by_a_module_that_is_there() -> None:
    [container] = [
        each
        for each in built("local").pod("rollout").spec["initContainers"]
        if each["name"] == "model"
    ]
    done = subprocess.run(
        [*command_of(container), "--help"],
        env={**os.environ, "PATH": f"{_BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_images_start_what_the_manifests_start() -> None:
    """Entry points for who runs the images without a cluster; and no torch among the services."""
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    entries = {
        stage.split()[2]: json.loads(stage.partition("ENTRYPOINT ")[2].splitlines()[0])
        for stage in stages
        if "ENTRYPOINT" in stage
    }
    assert entries["services"] == built("local").pod("tool-mock").containers[0]["command"]
    assert entries["trainer"] == built("local").pod("trainer").containers[0]["command"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert not [line for line in extras["services"] if line.startswith(("torch", "synthagent["))]


def test_images_hold_what_commands_and_configurations_name() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    configurations = {
        built(variant)
        .environment(built(variant).pod("trainer").containers[0])["TRAINER_CONFIG"]
        .rpartition("/")
        for variant in ("local", "production")
    }
    for folder, _, name in configurations:
        assert f"COPY trainer/configs {folder}\n" in dockerfile
        assert (ROOT / "trainer/configs" / name).is_file()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in dockerfile.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert f"!{source.partition('/')[0]}" in ignored, line
