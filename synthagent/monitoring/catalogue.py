"""Every metric that the system exports, as it is declared in `synthagent.metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase

from synthagent.metrics import ServerMetrics, TrainerMetrics

_SERIES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}


@dataclass(frozen=True)
class CataloguedMetric:
    """One metric. `name` is that of a counter's only series, and of a histogram without suffix."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series in Prometheus."""
        if self.kind == "histogram":
            return tuple(self.name + suffix for suffix in _SERIES["histogram"])
        return (self.name,)


def server_metrics() -> list[CataloguedMetric]:
    """Those of every service."""
    return list(_declared(ServerMetrics()))


def trainer_metrics() -> list[CataloguedMetric]:
    """Those of the trainer's first rank."""
    return list(_declared(TrainerMetrics()))


def table() -> str:
    """docs/metrics.md."""
    return "\n".join(
        [
            "# Metrics",
            "",
            "Written by `make monitoring` from `synthagent/metrics.py`; a test compares it with",
            "what running processes export. Every process also exports `process_*` and `python_*`.",
            "What to do when an alert fires: [the runbook](runbook.md). Rules and dashboards:",
            "`k8s/components/alerts`, `k8s/components/dashboards`.",
            "",
            "## Services (`SYNTHAGENT_METRICS_PORT`)",
            "",
            *_rows(server_metrics()),
            "",
            "## Trainer (`[run] metrics_port`, first rank)",
            "",
            *_rows(trainer_metrics()),
            "",
        ]
    )


def _declared(metrics: object) -> Iterator[CataloguedMetric]:
    declarations: list[object] = []
    for attribute in vars(metrics).values():
        declarations += attribute.values() if isinstance(attribute, dict) else [attribute]
    for declared in declarations:
        if isinstance(declared, MetricWrapperBase):
            family: Metric = next(iter(declared.describe()))
            suffix = "_total" if family.type == "counter" else ""
            yield CataloguedMetric(
                name=family.name + suffix,
                kind=family.type,
                labels=tuple(declared._labelnames),  # noqa: SLF001 - there is no public way to ask
                meaning=family.documentation,
            )


def _rows(metrics: list[CataloguedMetric]) -> list[str]:
    rows = [
        f"| `{metric.name}` | {metric.kind} | "
        f"{', '.join(f'`{label}`' for label in metric.labels)} | {metric.meaning} |"
        for metric in metrics
    ]
    return ["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows]
