"""Recording rules and alerts, as one PrometheusRule; each alert has an entry in docs/runbook.md.

Service level objectives are ratios of bad events to all. Their burn is recorded over seven windows,
and alerted on over two at once, a long one that it matters and a short one that it still goes on
(Beyer et al., "The Site Reliability Workbook", 2018, chapter 5, table 5-8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
_FAULTS = "UNAVAILABLE|INTERNAL|UNKNOWN|DATA_LOSS|DEADLINE_EXCEEDED"
_ANSWERS = 'method=~"CallTool|Reply|Judge"'


@dataclass(frozen=True)
class Objective:
    """A service level objective: at most `budget` of `total` may be `bad`; both are rates."""

    name: str
    meaning: str
    budget: float
    bad: str
    total: str


OBJECTIVES = (
    Objective(
        "calls",
        "999 of 1,000 calls end without a fault of ours",
        0.001,
        f'sum(rate(synthagent_grpc_requests_total{{code=~"{_FAULTS}"}}[%s]))',
        "sum(rate(synthagent_grpc_requests_total[%s]))",
    ),
    Objective(
        "answers",
        "99 of 100 single tool calls, replies and verdicts come within 30 seconds",
        0.01,
        f"sum(rate(synthagent_grpc_request_seconds_count{{{_ANSWERS}}}[%s]))"
        f' - sum(rate(synthagent_grpc_request_seconds_bucket{{{_ANSWERS},le="30.0"}}[%s]))',
        f"sum(rate(synthagent_grpc_request_seconds_count{{{_ANSWERS}}}[%s]))",
    ),
    Objective(
        "verdicts",
        "99 of 100 episodes end with a reward and not INVALID",
        0.01,
        "sum(rate(synthagent_episodes_invalid_total[%s]))",
        "sum(rate(synthagent_episodes_total[%s]))",
    ),
)


@dataclass(frozen=True)
class Alert:
    """One alert. `minutes` is how long `expression` must hold; `page` wakes somebody."""

    name: str
    expression: str
    minutes: int
    summary: str
    page: bool = False


def _burns(factor: float, long: str, short: str) -> str:
    """Where both windows burn the budget `factor` times as fast as it would last."""
    bound = f"{factor:g} * slo:synthagent_error_budget:ratio"
    return " and on (slo) ".join(
        f"(slo:synthagent_errors:ratio_rate{window} > on (slo) {bound})" for window in (long, short)
    )


def _share(part: str, whole: str, *, by: str = "", window: str = "30m") -> str:
    """The share of one rate in another; 0 where the part has never been counted."""
    grouped = f" by ({by})" if by else ""
    parts, all_of_them = (f"sum{grouped} (rate({series}[{window}]))" for series in (part, whole))
    return f"({parts} or 0 * {all_of_them}) / {all_of_them}"


_CALLS = "synthagent_model_calls_total"

ALERTS = (
    Alert(
        "SynthAgentErrorBudgetBurnsFast",
        f"({_burns(14.4, '1h', '5m')}) or ({_burns(6, '6h', '30m')})",
        2,
        "The month's error budget of {{ $labels.slo }} would be gone within days.",
        page=True,
    ),
    Alert(
        "SynthAgentErrorBudgetBurnsSlowly",
        f"({_burns(3, '1d', '2h')}) or ({_burns(1, '3d', '6h')})",
        15,
        "The month's error budget of {{ $labels.slo }} would be gone before the month is.",
    ),
    Alert(
        "SynthAgentTargetDown",
        'up{job=~".*synthagent.*"} == 0',
        5,
        "Prometheus cannot scrape {{ $labels.instance }}.",
        page=True,
    ),
    Alert(
        "SynthAgentEpisodesWait",
        "max(synthagent_episodes_queue_age_seconds) > 300",
        10,
        "An episode has waited {{ $value }} seconds for a replica of rollout.",
    ),
    Alert(
        "SynthAgentNoEpisodeEnds",
        "sum(synthagent_episodes_running) > 0 unless on ()"
        " sum(increase(synthagent_episodes_total[30m])) > 0",
        30,
        "Episodes run and none has ended for an hour.",
        page=True,
    ),
    Alert(
        "SynthAgentModelServerUnavailable",
        _share(f'{_CALLS}{{outcome="unavailable"}}', _CALLS, by="role", window="10m") + " > 0.2",
        10,
        "One in five questions to the model of {{ $labels.role }} is not answered.",
        page=True,
    ),
    Alert(
        "SynthAgentModelServerOverloaded",
        "sum by (role) (synthagent_model_requests_waiting)"
        " > sum by (role) (synthagent_model_concurrency_limit)",
        30,
        "More questions wait for the model of {{ $labels.role }} than it is asked at once.",
    ),
    Alert(
        "SynthAgentModelAnswersUnusable",
        _share(f'{_CALLS}{{outcome=~"malformed|truncated|refused"}}', _CALLS, by="role")
        + " > 0.2",
        30,
        "One in five answers of the model of {{ $labels.role }} cannot be used.",
    ),
    Alert(
        "SynthAgentUserUnfaithful",
        _share(
            'synthagent_user_audits_total{outcome="unfaithful"}', "synthagent_user_audits_total"
        )
        + " > 0.1",
        30,
        "One in ten audits finds that the simulated user broke its rules.",
    ),
    Alert(
        "SynthAgentJudgeAbstains",
        _share('synthagent_judge_votes_total{vote="abstain"}', "synthagent_judge_votes_total")
        + " > 0.5",
        30,
        "The judge's model abstains from half of its votes.",
    ),
    Alert(
        "SynthAgentTasksRejected",
        "(sum(rate(synthagent_tasks_rejected_total[1h])) or vector(0))"
        " / (sum(rate(synthagent_tasks_rejected_total[1h])) or vector(0)"
        " + (sum(rate(synthagent_tasks_admitted_total[1h])) or vector(0))) > 0.9",
        60,
        "Nine in ten items of synthesis are rejected.",
    ),
    Alert(
        "SynthAgentStoreSlow",
        "histogram_quantile(0.99,"
        " sum by (le) (rate(synthagent_store_commit_seconds_bucket[10m]))) > 1",
        10,
        "One commit in a hundred takes more than a second.",
    ),
    Alert(
        "SynthAgentAuditLinesLost",
        "sum by (instance) (increase(synthagent_audit_lines_lost_total[10m])) > 0",
        0,
        "{{ $labels.instance }} cannot write its audit log.",
        page=True,
    ),
    Alert(
        "SynthAgentPolicyVersionsDiffer",
        "max by (policy) (synthagent_policy_version)"
        " - min by (policy) (synthagent_policy_version) > 1",
        15,
        "Replicas sample with versions of {{ $labels.policy }} that are {{ $value }} apart.",
    ),
    Alert(
        "SynthAgentTrainerStalled",
        "changes(synthagent_trainer_step[1h]) == 0",
        30,
        "The trainer has finished no step for more than an hour.",
        page=True,
    ),
)  # fmt: skip


def recordings() -> Iterator[dict[str, Any]]:
    """What dashboards and alerts share: budgets, and their burn over every window."""
    for objective in OBJECTIVES:
        labels = {"slo": objective.name}
        yield {
            "record": "slo:synthagent_error_budget:ratio",
            "expr": f"vector({objective.budget:g})",
            "labels": labels,
        }
        for window in WINDOWS:
            bad, total = (part.replace("%s", window) for part in (objective.bad, objective.total))
            yield {
                "record": f"slo:synthagent_errors:ratio_rate{window}",
                # Where nothing bad ever happened there is no series to sum.
                "expr": f"(({bad}) or vector(0)) / ({total} > 0)",
                "labels": labels,
            }


def alerts() -> Iterator[dict[str, Any]]:
    """The alerts, as Prometheus reads them."""
    for alert in ALERTS:
        yield {
            "alert": alert.name,
            "expr": alert.expression,
            "for": f"{alert.minutes}m",
            "labels": {"severity": "page" if alert.page else "ticket"},
            "annotations": {
                "summary": alert.summary,
                "runbook": f"docs/runbook.md#{alert.name.lower()}",
            },
        }


def groups() -> list[dict[str, Any]]:
    """The rule groups, as a file of Prometheus has them under `groups`."""
    return [
        {"name": "synthagent-objectives", "interval": "30s", "rules": list(recordings())},
        {"name": "synthagent-alerts", "interval": "30s", "rules": list(alerts())},
    ]


def prometheus_rule() -> str:
    """The PrometheusRule, in YAML."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "synthagent",
            "labels": {
                "app.kubernetes.io/name": "synthagent",
                "app.kubernetes.io/component": "monitoring",
            },
        },
        "spec": {"groups": groups()},
    }
    text = yaml.safe_dump(resource, sort_keys=False, width=1000)
    return f"# Written by `make monitoring` from synthagent/monitoring/rules.py.\n{text}"
