"""Every Prometheus metric of the system: one name, one place.

A process makes one `ServerMetrics` or `TrainerMetrics` with a registry of its own and passes it
down. Names follow the Prometheus rules: prefix, unit, `_total` on counters (added by the library).
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

_LATENCY_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
_SHARE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.999, 1.0)
_REWARD = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999, 1.0)


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class ServerMetrics:
    """What the services count and time."""

    def __init__(self) -> None:
        self.registry = registry = _registry()
        self.requests = Counter(
            "synthagent_grpc_requests",
            "Calls that ended, by gRPC status.",
            ["service", "method", "code"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "synthagent_grpc_request_seconds",
            "Time from the start of a call to its end; for a stream, its whole life.",
            ["service", "method"],
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "synthagent_grpc_requests_in_flight",
            "Calls that are running.",
            ["service", "method"],
            registry=registry,
        )
        self.refusals = Counter(
            "synthagent_grpc_refusals",
            'Calls refused because of who made them: "unauthenticated", "permission_denied", or '
            "the limit of the caller that was reached.",
            ["service", "method", "reason"],
            registry=registry,
        )
        self.audit_lines_lost = Counter(
            "synthagent_audit_lines_lost",
            "Lines of the audit log that could not be written.",
            registry=registry,
        )
        self.sessions_open = Gauge(
            "synthagent_tool_sessions_open", "Open tool sessions.", registry=registry
        )
        self.tool_calls = Counter(
            "synthagent_tool_calls",
            "Tool calls answered, by error code; empty where they succeeded.",
            ["error_code"],
            registry=registry,
        )
        self.user_replies = Counter(
            "synthagent_user_replies", "Replies of the simulated user.", ["kind"], registry=registry
        )
        self.verdicts = Counter(
            "synthagent_verdicts",
            'Verdicts given, by reason of invalidity; "valid" where there is a reward.',
            ["reason"],
            registry=registry,
        )
        self.tasks_admitted = Counter(
            "synthagent_tasks_admitted", "Tasks certified and stored.", ["split"], registry=registry
        )
        self.tasks_rejected = Counter(
            "synthagent_tasks_rejected",
            "Tasks refused, by the gate that failed first.",
            ["gate"],
            registry=registry,
        )
        self.episodes_running = Gauge(
            "synthagent_episodes_running", "Episodes that are running.", registry=registry
        )
        self.episodes_queue_age_seconds = Gauge(
            "synthagent_episodes_queue_age_seconds",
            "Time that the episode longest in the queue has waited for a replica to take it; the "
            "queue is the database's, so every replica tells the same.",
            registry=registry,
        )
        self.episodes = Counter(
            "synthagent_episodes",
            "Episodes that ended.",
            ["agent", "outcome"],
            registry=registry,
        )
        self.episodes_invalid = Counter(
            "synthagent_episodes_invalid",
            "Episodes without a reward because of a fault that is not the agent's.",
            ["reason"],
            registry=registry,
        )
        self.reward = Histogram(
            "synthagent_episode_reward",
            "Rewards of valid episodes.",
            ["agent"],
            buckets=_REWARD,
            registry=registry,
        )
        self.policy_tokens = Counter(
            "synthagent_policy_tokens",
            'Tokens of policies: "read" as prompt or observation, or "sampled".',
            ["source"],
            registry=registry,
        )
        self.policy_version = Gauge(
            "synthagent_policy_version", "Version that samples.", ["policy"], registry=registry
        )
        self.policy_load_seconds = Histogram(
            "synthagent_policy_load_seconds",
            "Time from a checked version to the moment from which it samples, by the way that its "
            'weights took: "local", "reload", "adapter" or "transfer".',
            ["way"],
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.policy_sequences = Gauge(
            "synthagent_policy_sequences",
            "Sequences that episodes of this process hold in the policy's engine.",
            registry=registry,
        )
        self.model_calls = Counter(
            "synthagent_model_calls",
            'Questions put to a model, by outcome: "answered", "stored" (the response store knew '
            'it), "unavailable", "refused", "truncated", "malformed", "fault" or "cancelled".',
            ["role", "purpose", "outcome"],
            registry=registry,
        )
        self.model_requests = Counter(
            "synthagent_model_requests",
            "Requests sent to model servers, retries and repairs included, by HTTP status; "
            '"unreachable" or "timeout" where there is none.',
            ["role", "status"],
            registry=registry,
        )
        self.model_call_seconds = Histogram(
            "synthagent_model_call_seconds",
            "Time of a question that no store knew: waiting, retries and repairs included.",
            ["role", "purpose"],
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.model_tokens = Counter(
            "synthagent_model_tokens",
            'Tokens of model servers: "prompt" read or "completion" written.',
            ["role", "purpose", "kind"],
            registry=registry,
        )
        self.model_cost = Counter(
            "synthagent_model_cost",
            "Cost of model servers, by the configured prices and in their currency.",
            ["role", "purpose"],
            registry=registry,
        )
        self.model_repairs = Counter(
            "synthagent_model_repairs",
            "Answers that did not fit their schema and were asked for again.",
            ["role", "purpose"],
            registry=registry,
        )
        self.model_requests_in_flight = Gauge(
            "synthagent_model_requests_in_flight",
            "Requests to model servers that are running.",
            ["role"],
            registry=registry,
        )
        self.model_requests_waiting = Gauge(
            "synthagent_model_requests_waiting",
            "Requests to model servers that wait for a place in flight.",
            ["role"],
            registry=registry,
        )
        self.model_concurrency_limit = Gauge(
            "synthagent_model_concurrency_limit",
            "Requests that may be in flight; falls while the server pushes back.",
            ["role"],
            registry=registry,
        )
        self.ledger_calls = Counter(
            "synthagent_ledger_calls",
            'Calls of simulated tools, by source of the answer: "exact", "semantic", "generated" '
            'or "refused".',
            ["source"],
            registry=registry,
        )
        self.user_audits = Counter(
            "synthagent_user_audits",
            'Audits of the simulated user by a model after an episode: "faithful" or "unfaithful".',
            ["outcome"],
            registry=registry,
        )
        self.judge_votes = Counter(
            "synthagent_judge_votes",
            'Votes of the judge\'s model: "yes", "no" or "abstain".',
            ["vote"],
            registry=registry,
        )
        self.judge_agreement = Histogram(
            "synthagent_judge_agreement",
            "Share of a criterion's votes that agree with its majority.",
            buckets=_SHARE,
            registry=registry,
        )
        self.store_commit_seconds = Histogram(
            "synthagent_store_commit_seconds",
            "Time of one group commit, its writes included.",
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.store_writes = Counter(
            "synthagent_store_writes", "Writes committed.", registry=registry
        )


TRAINER_GAUGES = {
    "policy_version": "Version of the policy that the last row was recorded at.",
    "gradient_norm": "Global norm of the gradient before clipping, mean over the step's updates.",
    "policy_tokens": "Tokens of the step that carried loss.",
    "training_seconds": "Time that the step spent on scoring and updates.",
    "reward_sem": "Standard error of the batch's mean reward.",
    "episodes": "Episodes of the batch that have a reward.",
    "groups": "Groups of the batch.",
    "unused_groups": "Groups left out because enough others vary.",
    "pairs": "Preference pairs of the step.",
    "episode_tokens": "Mean tokens of an episode, prompt included.",
    "entropy": "Mean entropy of the policy at its tokens, in nats.",
    "clip_fraction": "Share of policy tokens whose ratio was clipped.",
    "kl": "Divergence from the policy before the step, in nats per token.",
    "reference_kl": "Divergence from the reference policy, in nats per token.",
    "sampling_gap": "Mean absolute difference between the engine's and the trainer's "
    "log-probabilities of the same tokens, in nats.",
    "corrected_fraction": "Share of policy tokens whose importance weight was cut or left out.",
    "preferred": "Share of pairs of which the policy prefers the better action.",
    "margin": "Mean implicit reward of better actions over worse ones.",
    "staleness": "Mean policy versions that the batch's tokens are behind the step.",
    "staleness_max": "Most policy versions that a token is behind the step.",
    "episode_staleness": "Mean policy versions from an episode's oldest token to the step.",
    "imbalance": "Tokens of the fullest rank's share over the mean share.",
    "imbalance_computed": "The same of the tokens that forward passes took.",
    "evaluation_reward": "Mean reward of the last evaluation.",
    "evaluation_reward_sem": "Standard error of the last evaluation's mean reward.",
    "evaluation_episodes": "Episodes of the last evaluation that have a reward.",
    "evaluation_invalid": "Episodes of the last evaluation that have none.",
}
"""Scalars of a step or an evaluation by name, each exported as synthagent_trainer_<name>."""


class TrainerMetrics:
    """What the trainer measures at every step."""

    def __init__(self) -> None:
        self.registry = registry = _registry()
        self.step = Gauge("synthagent_trainer_step", "Last finished step.", registry=registry)
        self.loss = Gauge(
            "synthagent_trainer_loss", "Loss of the last step.", ["phase"], registry=registry
        )
        self.mean_reward = Gauge(
            "synthagent_trainer_mean_reward",
            "Mean reward of the last batch's valid trajectories.",
            registry=registry,
        )
        self.step_seconds = Histogram(
            "synthagent_trainer_step_seconds",
            "Time of one step.",
            ["phase"],
            buckets=_LATENCY_SECONDS,
            registry=registry,
        )
        self.tokens_per_second = Gauge(
            "synthagent_trainer_tokens_per_second",
            "Tokens trained on per second in the last step.",
            registry=registry,
        )
        self.tokens = Counter("synthagent_trainer_tokens", "Tokens trained on.", registry=registry)
        self.zero_variance_groups = Counter(
            "synthagent_trainer_zero_variance_groups",
            "Groups skipped because their rewards do not vary.",
            registry=registry,
        )
        self.invalid_trajectories = Counter(
            "synthagent_trainer_invalid_trajectories",
            "Trajectories excluded because they carry no reward.",
            registry=registry,
        )
        self.activity_seconds = Counter(
            "synthagent_trainer_activity_seconds",
            'Time by what it went to: "wait" for episodes, "fetch" of batches (beside the rest), '
            '"scoring", "update", "publish", "checkpoint" and "evaluate".',
            ["activity"],
            registry=registry,
        )
        self.gauges = {
            name: Gauge(f"synthagent_trainer_{name}", meaning, ["phase"], registry=registry)
            for name, meaning in TRAINER_GAUGES.items()
        }
