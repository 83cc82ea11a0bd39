"""Every check can fail: each of these mistakes is found, by the check that is there for it."""

from typing import Any

import pytest

from tests.manifests.checks import CHECKS
from tests.manifests.mutations import (
    Mutation,
    added,
    argument,
    config,
    container,
    environment,
    opened,
    pod,
    removed,
    spec,
)
from tests.manifests.objects import Manifests, built

MISTAKES: list[tuple[str, str, Mutation]] = [
    ("names_are_unique", "there 2 times", lambda m: added(m, "Service", "synthagent-rollout")),
    (
        "names_are_unique",
        "in no namespace",
        lambda m: m.one("Service", "synthagent-rollout")["metadata"].pop("namespace"),
    ),
    (
        "labels_follow_the_convention",
        "part-of",
        lambda m: m.pod("rollout").template["metadata"]["labels"].pop("app.kubernetes.io/part-of"),
    ),
    (
        "selectors_match",
        "Service/synthagent-rollout selects no pod",
        lambda m: spec(m, "Service", "synthagent-rollout")["selector"].update(tier="x"),
    ),
    (
        "selectors_match",
        "PodDisruptionBudget/synthagent-rollout selects no pod",
        lambda m: spec(m, "PodDisruptionBudget", "synthagent-rollout").pop("selector"),
    ),
    (
        "selectors_match",
        "NetworkPolicy/rollout selects no pod",
        lambda m: spec(m, "NetworkPolicy", "rollout").update(
            podSelector={"matchLabels": {"app.kubernetes.io/component": "rolout"}}
        ),
    ),
    (
        "selectors_match",
        "does not select its own pods",
        lambda m: spec(m, "Deployment", "synthagent-rollout")["selector"]["matchLabels"].update(
            {"app.kubernetes.io/component": "x"}
        ),
    ),
    (
        "selectors_match",
        "selects the pods of",
        lambda m: spec(m, "Deployment", "synthagent-rollout")["selector"]["matchLabels"].pop(
            "app.kubernetes.io/component"
        ),
    ),
    (
        "selectors_match",
        "spreads others' pods",
        lambda m: pod(m, "rollout")["topologySpreadConstraints"][0].update(
            labelSelector={"matchLabels": {"a": "b"}}
        ),
    ),
    (
        "references_lead_somewhere",
        "ServiceAccount/nobody",
        lambda m: pod(m, "rollout").update(serviceAccountName="nobody"),
    ),
    (
        "references_lead_somewhere",
        "PersistentVolumeClaim/synthagent-weights",
        lambda m: removed(m, "PersistentVolumeClaim", "synthagent-weights"),
    ),
    (
        "references_lead_somewhere",
        "Deployment/synthagent-x",
        lambda m: spec(m, "HorizontalPodAutoscaler", "synthagent-rollout")["scaleTargetRef"].update(
            name="synthagent-x"
        ),
    ),
    (
        "references_lead_somewhere",
        "Secret/other",
        lambda m: container(m, "rollout")["env"][0]["valueFrom"]["secretKeyRef"].update(
            name="other"
        ),
    ),
    (
        "volumes_are_mounted",
        "volume tmp is there alone",
        lambda m: container(m, "migrate").update(volumeMounts=[]),
    ),
    (
        "ports_are_named_once_and_exist",
        "port name grpc is there 2 times",
        lambda m: container(m, "rollout")["ports"].append({"name": "grpc", "containerPort": 1}),
    ),
    (
        "ports_are_named_once_and_exist",
        "readinessProbe asks port 50053",
        lambda m: container(m, "rollout")["readinessProbe"]["grpc"].update(port=50053),
    ),
    (
        "ports_are_named_once_and_exist",
        "livenessProbe asks port web",
        lambda m: container(m, "model-roles")["livenessProbe"]["httpGet"].update(port="web"),
    ),
    (
        "ports_are_named_once_and_exist",
        "has no port web",
        lambda m: spec(m, "Service", "synthagent-rollout")["ports"][0].update(targetPort="web"),
    ),
    (
        "ports_are_named_once_and_exist",
        "no pod has a port web",
        lambda m: spec(m, "PodMonitor", "synthagent")["podMetricsEndpoints"][0].update(port="web"),
    ),
    (
        "images_are_pinned",
        "has no version",
        lambda m: container(m, "model-roles").update(image="vllm/vllm-openai:latest"),
    ),
    (
        "images_are_pinned",
        "is not version",
        lambda m: container(m, "rollout").update(image="synthagent-services:0.0.9"),
    ),
    (
        "pods_are_restricted",
        "run as root",
        lambda m: pod(m, "rollout")["securityContext"].pop("runAsNonRoot"),
    ),
    (
        "pods_are_restricted",
        "write its root file system",
        lambda m: container(m, "trainer")["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    (
        "pods_are_restricted",
        "keeps capabilities",
        lambda m: pod(m, "rollout")["initContainers"][0]["securityContext"].pop("capabilities"),
    ),
    ("accounts_have_no_token", "mounts a token", lambda m: pod(m, "rollout").pop(_TOKEN)),
    (
        "accounts_have_no_token",
        "hands out tokens",
        lambda m: m.one("ServiceAccount", "synthagent-rollout").pop(_TOKEN),
    ),
    (
        "accounts_have_no_token",
        "share the account",
        lambda m: pod(m, "rollout").update(serviceAccountName="synthagent-trainer"),
    ),
    (
        "requests_are_at_most_limits",
        "more memory than its limit",
        lambda m: container(m, "rollout")["resources"]["requests"].update(memory="2Ti"),
    ),
    (
        "requests_are_at_most_limits",
        "no limit of cpu",
        lambda m: container(m, "rollout")["resources"]["limits"].pop("cpu"),
    ),
    (
        "requests_are_at_most_limits",
        "shares a GPU",
        lambda m: container(m, "trainer")["resources"]["requests"].update({"nvidia.com/gpu": "1"}),
    ),
    (
        "servers_are_probed",
        "no liveness probe",
        lambda m: container(m, "model-policy").pop("livenessProbe"),
    ),
    (
        "servers_are_probed",
        "not a gRPC probe",
        lambda m: container(m, "rollout").update(readinessProbe={"tcpSocket": {"port": 50051}}),
    ),
    (
        "servers_are_probed",
        "restarted before",
        lambda m: container(m, "rollout")["livenessProbe"].update(periodSeconds=1),
    ),
    (
        "draining_ends_before_the_pod",
        "while it still drains",
        lambda m: pod(m, "rollout").update(terminationGracePeriodSeconds=30),
    ),
    (
        "draining_ends_before_the_pod",
        "cuts calls",
        lambda m: config(m).update(SYNTHAGENT_JUDGE__TIMEOUT_SECONDS="600"),
    ),
    (
        "draining_ends_before_the_pod",
        "ends before anybody knows",
        lambda m: container(m, "rollout").pop("lifecycle"),
    ),
    (
        "replicas_are_spread_and_kept",
        "no disruption budget",
        lambda m: removed(m, "PodDisruptionBudget", "synthagent-rollout"),
    ),
    (
        "replicas_are_spread_and_kept",
        "block the drain",
        lambda m: spec(m, "PodDisruptionBudget", "synthagent-rollout").update(minAvailable=1),
    ),
    (
        "replicas_are_spread_and_kept",
        "on one node",
        lambda m: pod(m, "rollout").pop("topologySpreadConstraints"),
    ),
    (
        "arrows_are_the_call_graph",
        "rollout calls tool-mock:50051, and no policy lets it",
        lambda m: removed(m, "NetworkPolicy", "called-by-rollout"),
    ),
    (
        "arrows_are_the_call_graph",
        "trainer may reach rollout:12345",
        lambda m: opened(m, ingress="rollout", egress="trainer"),
    ),
    (
        "arrows_are_the_call_graph",
        "stranger may reach tool-mock:50051",
        lambda m: opened(m, ingress="called-by-rollout"),
    ),
    (
        "arrows_are_the_call_graph",
        "tool-mock may reach world:53",
        lambda m: opened(m, egress="allow-dns"),
    ),
    (
        "arrows_are_the_call_graph",
        "world may reach newcomer:12345",
        lambda m: removed(m, "NetworkPolicy", "deny-all"),
    ),
    (
        "arrows_are_the_call_graph",
        "prometheus calls trainer:9090, and no policy lets it",
        lambda m: spec(m, "NetworkPolicy", "allow-metrics")["ingress"][0].update(
            ports=[{"port": "grpc"}]
        ),
    ),
    (
        "settings_are_read",
        "SYNTHAGENT_JUGDE_VOTES is no setting",
        lambda m: config(m).update(SYNTHAGENT_JUGDE_VOTES="3"),
    ),
    (
        "settings_are_read",
        "which does not fit",
        lambda m: config(m).update(SYNTHAGENT_DRAIN_SECONDS="long"),
    ),
    (
        "settings_are_read",
        "listens elsewhere",
        lambda m: config(m).update(SYNTHAGENT_METRICS_PORT="9091"),
    ),
    ("settings_are_read", "nobody reaches", lambda m: config(m).update(SYNTHAGENT_HOST="::1")),
    (
        "settings_are_read",
        "service links",
        lambda m: pod(m, "rollout").pop("enableServiceLinks"),
    ),
    (
        "no_secret_is_in_plain_text",
        "SYNTHAGENT_JUDGE__API_KEY is in plain text",
        lambda m: config(m).update(SYNTHAGENT_JUDGE__API_KEY="k"),
    ),
    (
        "no_secret_is_in_plain_text",
        "holds a password",
        lambda m: environment(m, "rollout", "SYNTHAGENT_DATABASE_URL", "postgresql://a:b@c/d"),
    ),
    (
        "trainer_fits_its_job",
        "other pods than torchrun's 3 nodes",
        lambda m: environment(m, "trainer", "PET_NNODES", "3"),
    ),
    (
        "trainer_fits_its_job",
        "first node where it is not",
        lambda m: environment(m, "trainer", "PET_MASTER_ADDR", "synthagent-trainer"),
    ),
    (
        "trainer_fits_its_job",
        "no names while they start",
        lambda m: spec(m, "Service", "synthagent-trainer").pop("publishNotReadyAddresses"),
    ),
    (
        "trainer_fits_its_job",
        "4 ranks on 8 GPUs",
        lambda m: environment(m, "trainer", "PET_NPROC_PER_NODE", "4"),
    ),
    (
        "trainer_fits_its_job",
        "unknown key `adress`",
        lambda m: container(m, "trainer")["args"].append("--set=rollout.adress=x:1"),
    ),
    (
        "trainer_fits_its_job",
        "not on the volume",
        lambda m: container(m, "trainer")["args"].append("--set=run.folder=/tmp/run"),
    ),
    (
        "model_servers_serve_what_is_asked",
        "serves judge, not roles",
        lambda m: argument(
            m, "model-roles", "--served-model-name=roles", "--served-model-name=judge"
        ),
    ),
    (
        "model_servers_serve_what_is_asked",
        "shorter sequences",
        lambda m: argument(m, "model-policy", "--max-model-len=16384", "--max-model-len=4096"),
    ),
    (
        "model_servers_serve_what_is_asked",
        "does not sample as a policy must",
        lambda m: container(m, "model-policy")["args"].remove("--enable-scale-out"),
    ),
    (
        "model_servers_serve_what_is_asked",
        "one of several replicas",
        lambda m: spec(m, "Deployment", "synthagent-model-policy").update(replicas=2),
    ),
    (
        "model_servers_serve_what_is_asked",
        "longer episodes",
        lambda m: container(m, "trainer")["args"].append("--set=rl.max_episode_tokens=20000"),
    ),
    (
        "bounds_are_in_order",
        "scales from 10 to 10",
        lambda m: spec(m, "HorizontalPodAutoscaler", "synthagent-rollout").update(minReplicas=10),
    ),
    (
        "bounds_are_in_order",
        "second autoscaler",
        lambda m: spec(m, "HorizontalPodAutoscaler", "synthagent-rollout")["scaleTargetRef"].update(
            name="synthagent-tool-mock"
        ),
    ),
    (
        "bounds_are_in_order",
        "undo what it scaled",
        lambda m: spec(m, "Deployment", "synthagent-rollout").update(replicas=2),
    ),
    (
        "scaled_metrics_exist",
        "no metric synthagent_sessions",
        lambda m: _scaled(m, "synthagent-tool-mock")["metric"].update(name="synthagent_sessions"),
    ),
    (
        "scaled_metrics_exist",
        "full before",
        lambda m: _scaled(m, "synthagent-tool-mock")["target"].update(averageValue="4096"),
    ),
]
_TOKEN = "automountServiceAccountToken"


def _scaled(manifests: Manifests, name: str) -> Any:
    return spec(manifests, "HorizontalPodAutoscaler", name)["metrics"][1]["pods"]


@pytest.mark.parametrize(
    ("check", "told", "mutate"), MISTAKES, ids=[f"{c}: {t}" for c, t, _ in MISTAKES]
)
def test_a_mistake_is_found(check: str, told: str, mutate: Mutation) -> None:
    manifests = built("production").copy()
    mutate(manifests)
    assert told in "\n".join(CHECKS[check](manifests))


def test_every_check_has_a_mistake_that_it_finds() -> None:
    assert {check for check, _, _ in MISTAKES} == set(CHECKS)


@pytest.mark.parametrize(
    "check", ["bounds_are_in_order", "scaled_metrics_exist", "trainer_fits_its_job"]
)
def test_the_alternatives_are_checked_too(check: str) -> None:
    keda, trainjob = built("keda").copy(), built("trainjob").copy()
    scaled = spec(keda, "ScaledObject", "synthagent-rollout")
    scaled["minReplicaCount"] = 99
    scaled["triggers"][1]["metadata"]["query"] = "synthagent_waiting"
    spec(trainjob, "TrainJob", "synthagent-trainer")["trainer"]["numNodes"] = 5
    changed = trainjob if check == "trainer_fits_its_job" else keda
    assert list(CHECKS[check](changed))
