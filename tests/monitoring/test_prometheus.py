"""A real Prometheus scrapes the system under load: every rule and every panel has data.

All services run in this process, with models in all roles played by the replay server; a trainer
runs beside them with a tiny random policy. What an alert compares is evaluated without the
comparison, which is false while all is well.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import BinaryExpr, Expr, ParenExpr

from services.__main__ import ServiceName, registers
from synthagent.api.v1 import rollout_pb2, task_pb2
from synthagent.monitoring import catalogue, dashboards, rules
from synthagent.server import Running, running
from synthagent.settings import load_settings
from synthagent.worlds.spec import Split, Task
from tests.end_to_end.test_model_teacher import PRODUCT, ROLES, replaying, rolled_out, synthesized
from tests.monitoring.programs import program
from tests.replay.actors import Actors
from tests.replay.products import load
from tests.replay.server import MODEL
from tests.services.rollout.policy.conftest import tiny_model, write_tokenizer

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(300)]

WAIT_SECONDS = 120
COMPARISONS = (">", "<", "==", "!=", ">=", "<=")
SETS = ("and", "or", "unless")
TRAINER = """
[run]
folder = "{folder}"
metrics_port = {port}
tensorboard = false
[model]
name = "{model}"
tokens_per_row = 8192
[rollout]
address = "{address}"
[tasks]
difficulty = "mini"
[deepspeed]
threads = 1
precision = "float32"
[sft]
max_steps = 2
[rl]
# Random weights earn nothing; lengths vary, and this algorithm learns from them over a batch.
algorithm = "reinforce_plus_plus"
overlong_fraction = 0.95
steps = 1000
groups_per_step = 2
group_size = 4
max_turns = 6
max_turn_tokens = 24
max_episode_tokens = 8000
kl_coefficient = 0.01
[evaluation]
split = "train"
difficulty = "mini"
count = 1
before = false
after_rl = false
[checkpoint]
enabled = false
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    policy = tiny_model()
    policy.config.max_position_embeddings = 8192
    policy.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@contextmanager
def runs(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command for as long as the block lasts, with what it says in a file."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def prometheus_command(folder: Path, address: str, targets: list[str]) -> list[str]:
    """Prometheus on these targets, with the committed rules evaluated every second."""
    committed = Path("k8s/components/alerts/prometheus-rule.yaml")
    spec = yaml.safe_load(committed.read_text(encoding="utf-8"))["spec"]
    for group in spec["groups"]:
        group["interval"] = "1s"
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {"job_name": "synthagent", "static_configs": [{"targets": targets}]},
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]


def trainer_command(folder: Path, model: Path, address: str, port: int) -> list[str]:
    """A trainer that goes on for longer than the test, with its metrics on that port."""
    config = folder / "trainer.toml"
    content = TRAINER.format(folder=folder / "run", port=port, model=model, address=address)
    config.write_text(content, encoding="utf-8")
    return [sys.executable, "-m", "trainer", str(config)]


def without_comparisons(query: str) -> list[str]:
    """The parts of an alert's query that it compares, each a query that has data in good times."""

    def parts(expression: Expr) -> Iterator[Expr]:
        if isinstance(expression, ParenExpr):
            yield from parts(expression.expr)
        elif isinstance(expression, BinaryExpr) and str(expression.op) in SETS:
            yield from parts(expression.lhs)
            yield from parts(expression.rhs)
        elif isinstance(expression, BinaryExpr) and str(expression.op) in COMPARISONS:
            yield from (expression.lhs, expression.rhs)
        else:
            yield expression

    return [str(part) for part in parts(promql_parser.parse(query)) if not str(part).isdecimal()]


def all_queries() -> set[str]:
    panels = (panel for page in dashboards.DASHBOARDS for panel in dashboards.panels(page))
    return {
        *(query for panel in panels for query, _ in panel.queries),
        *(part for alert in rules.ALERTS for part in without_comparisons(alert.expression)),
        *(f'{rule["record"]}{{slo="{rule["labels"]["slo"]}"}}' for rule in rules.recordings()),
    }


async def load_until_all_have_data(
    server: Running, task: Task, http: httpx2.AsyncClient
) -> dict[str, str]:
    """The queries that still have no data at the end, with what Prometheus says."""
    missing = dict.fromkeys(all_queries(), "never asked")
    deadline = time.monotonic() + WAIT_SECONDS
    number = 0
    while missing and time.monotonic() < deadline:
        number += 1
        await rolled_out(server, f"load-{number}", task)
        await gold(server, f"gold-{number}")
        for query in list(missing):
            answer = (await http.get("/api/v1/query", params={"query": query})).json()
            if answer["status"] == "success" and answer["data"]["result"]:
                del missing[query]
            else:
                missing[query] = answer.get("error", "no data")
    return missing


async def gold(server: Running, run_id: str) -> None:
    spec = rollout_pb2.RunSpec(
        reference=rollout_pb2.REFERENCE_AGENT_GOLD,
        tasks=rollout_pb2.TaskSelection(split=task_pb2.SPLIT_TRAIN, difficulty="mini"),
    )
    await server.resources.client.create_run(run_id, spec)
    async for _ in server.resources.client.watch_run(run_id):
        pass


async def exported(http: httpx2.AsyncClient, address: str) -> set[str]:
    """Names of the families at a metrics port, as the catalogue has them."""
    text = (await http.get(f"http://{address}/metrics")).text
    return {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(text)
        if not family.name.startswith(("process_", "python_"))
        and not family.name.endswith("_created")
    }


async def test_every_query_has_data_and_every_metric_is_documented(
    tmp_path: Path, model: Path
) -> None:
    trainer_port = free_port()
    async with replaying(Actors(load())) as base_url, httpx2.AsyncClient() as plain:
        prices = {"prompt_price": 0.1, "completion_price": 0.4}
        role = {"base_url": base_url, "model": MODEL, "attempts": 1, **prices}
        settings = load_settings(
            database_url=f"sqlite:///{tmp_path / 'synthagent.db'}",
            port=0,
            metrics_port=0,
            drain_seconds=0.1,
            policy_model=str(model),
            policy_dtype="float32",
            policy_threads=1,
            policy_max_sequence_tokens=8192,
            tokenize_reference_agents=True,
            **dict.fromkeys(ROLES, role),
        )
        async with running(settings, registers(ServiceName.ALL)) as server:
            assert server.metrics_address
            stream = server.resources.client.synthesize_tasks(
                "mini", 4, Split.TRAIN, seed=1, difficulty="mini"
            )
            assert len([item async for item in stream if isinstance(item, Task)]) == 4
            task = await synthesized(server, PRODUCT)
            prometheus = f"127.0.0.1:{free_port()}"
            targets = [server.metrics_address, f"127.0.0.1:{trainer_port}"]
            training = trainer_command(tmp_path, model, server.address, trainer_port)
            watching = prometheus_command(tmp_path, prometheus, targets)
            with (
                runs(training, tmp_path / "trainer.log") as trainer,
                runs(watching, tmp_path / "prometheus.log"),
            ):
                await asyncio.sleep(2)
                async with httpx2.AsyncClient(base_url=f"http://{prometheus}") as http:
                    missing = await load_until_all_have_data(server, task, http)
                assert trainer.poll() is None, (tmp_path / "trainer.log").read_text()
                trained = await exported(plain, f"127.0.0.1:{trainer_port}")
                served = await exported(plain, server.metrics_address)
    assert missing == {}
    assert served == {metric.name for metric in catalogue.server_metrics()}
    assert trained == {metric.name for metric in catalogue.trainer_metrics()}
