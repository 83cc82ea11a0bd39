"""The written files are those that the code gives, and every query of them can be evaluated."""

import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
from promql_parser import VectorSelector

from synthagent.monitoring import catalogue, dashboards, rules
from synthagent.monitoring.__main__ import written

ROOT = Path(__file__).parents[3]
RECORDED = {rule["record"] for rule in rules.recordings()}
METRICS = {
    series: metric
    for metric in (*catalogue.server_metrics(), *catalogue.trainer_metrics())
    for series in metric.series
}
OF_PROMETHEUS = {"up": {"job", "instance"}}
OF_PROCESSES = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
QUERIES = [
    *(rule["expr"] for rule in rules.recordings()),
    *(alert.expression for alert in rules.ALERTS),
    *(
        query
        for page in dashboards.DASHBOARDS
        for panel in dashboards.panels(page)
        for query, _ in panel.queries
    ),
]


@pytest.mark.parametrize("name", sorted(written()))
def test_the_committed_file_is_what_the_code_gives(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == written()[name], "run `make monitoring`"


def selectors(expression: object) -> Iterator[VectorSelector]:
    """Every selector of a query."""
    if isinstance(expression, VectorSelector):
        yield expression
        return
    parts = [getattr(expression, name, None) for name in ("expr", "lhs", "rhs", "vector_selector")]
    for part in (*parts, *getattr(expression, "args", ())):
        if part is not None:
            yield from selectors(part)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_metrics_that_exist_with_labels_that_they_have(query: str) -> None:
    found = list(selectors(promql_parser.parse(query)))
    assert found or "vector(" in query
    for selector in found:
        name = selector.name
        if name in RECORDED or name in OF_PROCESSES or name in OF_PROMETHEUS:
            continue
        assert name in METRICS, f"{name} is no metric of ours"
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= {*METRICS[name].labels, "le"}


@pytest.mark.parametrize(
    "panel",
    [panel for page in dashboards.DASHBOARDS for panel in dashboards.panels(page)],
    ids=lambda panel: panel.title,
)
def test_a_legend_names_labels_that_its_query_keeps(panel: dashboards.Panel) -> None:
    for query, legend in panel.queries:
        whole = METRICS.get(query)  # a metric as it is keeps all its labels
        kept = {"instance", "slo", *(whole.labels if whole else ())}
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert label in kept or re.search(rf"\b{label}\b", query)


def test_every_metric_of_the_services_is_on_a_dashboard_or_in_a_rule() -> None:
    shown = {s.name for query in QUERIES for s in selectors(promql_parser.parse(query))}
    metrics = catalogue.server_metrics()
    forgotten = {metric.name for metric in metrics if not shown & set(metric.series)}
    assert forgotten == set()


def test_every_alert_has_an_entry_in_the_runbook_and_no_entry_is_left_over() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", runbook, re.MULTILINE) == [a.name for a in rules.ALERTS]
