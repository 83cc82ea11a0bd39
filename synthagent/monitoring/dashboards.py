"""The Grafana dashboards: which panels with which queries, as data.

`panels()` is what tests look at; `render` makes Grafana's JSON with Grafana's own library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH, _HEIGHT = 12, 8


@dataclass(frozen=True)
class Panel:
    """A time series. `queries` are PromQL with the legend of each; `unit` is Grafana's name."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    meaning: str = ""


@dataclass(frozen=True)
class Dashboard:
    """A page of panels, in rows with a title."""

    name: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]


def _rate(metric: str, by: str = "", selector: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{selector}[5m]))"


def _quantiles(metric: str, by: str, *quantiles: float) -> tuple[tuple[str, str], ...]:
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (
            f"histogram_quantile({q:g}, sum by ({labels}) (rate({metric}_bucket[5m])))",
            f"p{q * 100:g}{legend}",
        )
        for q in quantiles
    )


def _one(title: str, unit: str, query: str, legend: str = "", meaning: str = "") -> Panel:
    return Panel(title, unit, ((query, legend or title),), meaning)


OVERVIEW = Dashboard(
    "overview",
    "SynthAgent: overview",
    (
        (
            "Objectives",
            (
                _one("Error ratio, 1 h", "percentunit", "slo:synthagent_errors:ratio_rate1h",
                     "{{slo}}", "Bad events over all, by objective."),
                _one("Budget burn, 6 h", "none",
                     "slo:synthagent_errors:ratio_rate6h / on (slo)"
                     " slo:synthagent_error_budget:ratio",
                     "{{slo}}", "1 uses the month's budget up in a month."),
            ),
        ),
        (
            "Calls",
            (
                _one("Calls", "reqps", _rate("synthagent_grpc_requests_total", "service"),
                     "{{service}}"),
                _one("Calls by status", "reqps", _rate("synthagent_grpc_requests_total", "code"),
                     "{{code}}"),
                Panel("Time of calls", "s",
                      _quantiles("synthagent_grpc_request_seconds", "method", 0.5, 0.99),
                      "A stream counts with its whole life."),
                _one("Refused callers", "reqps",
                     f"{_rate('synthagent_grpc_refusals_total', 'reason')} or vector(0)",
                     "{{reason}}", "Who they were not, or the limit that they reached."),
                _one("Calls in flight", "none",
                     "sum by (service) (synthagent_grpc_requests_in_flight)", "{{service}}"),
            ),
        ),
        (
            "Processes",
            (
                _one("Up", "none", 'up{job=~".*synthagent.*"}', "{{instance}}"),
                _one("Memory", "bytes",
                     'process_resident_memory_bytes{job=~".*synthagent.*"}', "{{instance}}"),
                _one("CPU", "none",
                     'rate(process_cpu_seconds_total{job=~".*synthagent.*"}[5m])',
                     "{{instance}}", "Cores."),
                Panel("Commits to the database", "s",
                      _quantiles("synthagent_store_commit_seconds", "", 0.5, 0.99)),
                _one("Writes", "wps", _rate("synthagent_store_writes_total")),
            ),
        ),
    ),
)  # fmt: skip

ROLLOUTS = Dashboard(
    "rollouts",
    "SynthAgent: rollouts and rewards",
    (
        (
            "Episodes",
            (
                _one("Episodes ended", "ops", _rate("synthagent_episodes_total", "agent, outcome"),
                     "{{agent}} {{outcome}}"),
                _one("Episodes running", "none", "sum (synthagent_episodes_running)"),
                _one("Age of the queue", "s", "max (synthagent_episodes_queue_age_seconds)"),
                _one("INVALID episodes", "ops",
                     f"{_rate('synthagent_episodes_invalid_total', 'reason')} or vector(0)",
                     "{{reason}}"),
            ),
        ),
        (
            "Rewards",
            (
                _one("Mean reward", "none",
                     f"{_rate('synthagent_episode_reward_sum', 'agent')}"
                     f" / {_rate('synthagent_episode_reward_count', 'agent')}",
                     "{{agent}}"),
                Panel("Quantiles of rewards", "none",
                      _quantiles("synthagent_episode_reward", "", 0.25, 0.5, 0.75)),
                _one("Verdicts", "ops", _rate("synthagent_verdicts_total", "reason"),
                     "{{reason}}"),
            ),
        ),
        (
            "Worlds and users",
            (
                _one("Tool sessions", "none", "sum (synthagent_tool_sessions_open)"),
                _one("Tool calls", "ops", _rate("synthagent_tool_calls_total", "error_code"),
                     "{{error_code}}"),
                _one("Ledger", "ops", _rate("synthagent_ledger_calls_total", "source"),
                     "{{source}}"),
                _one("Replies of users", "ops", _rate("synthagent_user_replies_total", "kind"),
                     "{{kind}}"),
                _one("Tasks admitted", "ops", _rate("synthagent_tasks_admitted_total", "split"),
                     "{{split}}"),
                _one("Tasks rejected", "ops",
                     f"{_rate('synthagent_tasks_rejected_total', 'gate')} or vector(0)",
                     "{{gate}}"),
            ),
        ),
    ),
)  # fmt: skip

MODELS = Dashboard(
    "models",
    "SynthAgent: models",
    (
        (
            "Questions to models",
            (
                _one("Questions", "ops", _rate("synthagent_model_calls_total", "role, outcome"),
                     "{{role}} {{outcome}}"),
                Panel("Time of a question", "s",
                      _quantiles("synthagent_model_call_seconds", "role", 0.5, 0.99)),
                _one("Requests by HTTP status", "reqps",
                     _rate("synthagent_model_requests_total", "role, status"),
                     "{{role}} {{status}}"),
                _one("Tokens", "none", _rate("synthagent_model_tokens_total", "role, kind"),
                     "{{role}} {{kind}}", "Per second."),
                _one("Cost", "none", _rate("synthagent_model_cost_total", "role"), "{{role}}",
                     "Per second, in the currency of the configured prices."),
                _one("Repairs", "ops",
                     f"{_rate('synthagent_model_repairs_total', 'role')} or vector(0)", "{{role}}"),
            ),
        ),
        (
            "Room",
            (
                Panel("Requests", "none", (
                    ("sum by (role) (synthagent_model_requests_in_flight)", "{{role}} in flight"),
                    ("sum by (role) (synthagent_model_requests_waiting)", "{{role}} waiting"),
                    ("sum by (role) (synthagent_model_concurrency_limit)", "{{role}} limit"),
                )),
            ),
        ),
        (
            "Judge and user",
            (
                _one("Votes", "ops", _rate("synthagent_judge_votes_total", "vote"), "{{vote}}"),
                Panel("Agreement of votes", "percentunit",
                      _quantiles("synthagent_judge_agreement", "", 0.1, 0.5)),
                _one("Audits of users", "ops", _rate("synthagent_user_audits_total", "outcome"),
                     "{{outcome}}"),
            ),
        ),
        (
            "Policy engine",
            (
                _one("Policy version", "none",
                     "max by (policy) (synthagent_policy_version)", "{{policy}}"),
                _one("Policy tokens", "none", _rate("synthagent_policy_tokens_total", "source"),
                     "{{source}}", "Per second."),
                _one("Sequences in the engine", "none", "sum (synthagent_policy_sequences)"),
                Panel("Time to take new weights", "s",
                      _quantiles("synthagent_policy_load_seconds", "way", 0.5, 0.99)),
            ),
        ),
    ),
)  # fmt: skip


def _trainer(title: str, unit: str, metric: str, meaning: str = "") -> Panel:
    return _one(title, unit, f"synthagent_trainer_{metric}", "{{phase}}", meaning)


TRAINER = Dashboard(
    "trainer",
    "SynthAgent: trainer",
    (
        (
            "Learning",
            (
                Panel("Reward", "none", (
                    ("synthagent_trainer_mean_reward", "training"),
                    ("synthagent_trainer_evaluation_reward", "evaluation"),
                )),
                Panel("Standard error of the reward", "none", (
                    ("synthagent_trainer_reward_sem", "training"),
                    ("synthagent_trainer_evaluation_reward_sem", "evaluation"),
                )),
                _trainer("Loss", "none", "loss"),
                _trainer("Entropy", "none", "entropy", "Nats per token."),
                _trainer("Tokens clipped", "percentunit", "clip_fraction"),
                Panel("Divergence", "none", (
                    ("synthagent_trainer_kl", "from the policy before the step"),
                    ("synthagent_trainer_reference_kl", "from the reference"),
                ), "Nats per token."),
                _trainer("Norm of the gradient", "none", "gradient_norm"),
            ),
        ),
        (
            "Data",
            (
                _trainer("Difference of engine and trainer", "none", "sampling_gap",
                         "Nats per token."),
                Panel("Staleness", "none", (
                    ("synthagent_trainer_staleness", "mean"),
                    ("synthagent_trainer_staleness_max", "most"),
                ), "Policy versions."),
                _trainer("Tokens of an episode", "none", "episode_tokens"),
                _one("Groups without variance", "none",
                     "sum (increase(synthagent_trainer_zero_variance_groups_total[1h]))", "",
                     "In the last hour."),
                _one("INVALID trajectories", "none",
                     "sum (increase(synthagent_trainer_invalid_trajectories_total[1h]))", "",
                     "In the last hour."),
                _trainer("Imbalance of ranks", "none", "imbalance",
                         "Tokens of the fullest rank over the mean."),
            ),
        ),
        (
            "Speed",
            (
                _one("Steps done", "none", "synthagent_trainer_step"),
                _one("Tokens per second", "none", "synthagent_trainer_tokens_per_second"),
                _one("Where the time goes", "percentunit",
                     _rate("synthagent_trainer_activity_seconds_total", "activity"),
                     "{{activity}}", "Share of each second."),
                Panel("Time of a step", "s",
                      _quantiles("synthagent_trainer_step_seconds", "phase", 0.5, 0.99)),
            ),
        ),
    ),
)  # fmt: skip

DASHBOARDS = (OVERVIEW, ROLLOUTS, TRAINER, MODELS)


def panels(page: Dashboard) -> Iterator[Panel]:
    """All panels of a dashboard."""
    for _, row in page.rows:
        yield from row


def render(page: Dashboard) -> str:
    """Grafana's JSON of a dashboard."""
    built = (
        dashboard.Dashboard(page.title)
        .uid(f"synthagent-{page.name}")
        .tags(["synthagent"])
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
    )
    for title, row in page.rows:
        built = built.with_row(dashboard.Row(title))
        for panel in row:
            built = built.with_panel(_drawn(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(built.build()) + "\n"


def _drawn(panel: Panel) -> timeseries.Panel:
    drawn = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.meaning)
        .unit(panel.unit)
        .datasource(_SOURCE)
        .span(_WIDTH)
        .height(_HEIGHT)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
    )
    for number, (query, legend) in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query).legend_format(legend)
        drawn = drawn.with_target(target.ref_id(chr(ord("A") + number)).datasource(_SOURCE))
    return drawn
