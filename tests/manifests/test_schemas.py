"""The schemas can fail: they find what does not belong, what is missing, and what is unknown."""

import pytest

from tests.manifests.mutations import Mutation, container, spec
from tests.manifests.objects import built
from tests.manifests.schemas import VERSIONS, violations

SCHEMA_MISTAKES: list[tuple[str, str, str, Mutation]] = [
    (
        "production",
        "Deployment/synthagent-rollout",
        "replica'",
        lambda m: spec(m, "Deployment", "synthagent-rollout").update(replica=2),
    ),
    (
        "production",
        "Job/synthagent-trainer",
        "'many'",
        lambda m: spec(m, "Job", "synthagent-trainer").update(completions="many"),
    ),
    (
        "production",
        "NetworkPolicy/rollout",
        "'from'",
        lambda m: spec(m, "NetworkPolicy", "rollout")["egress"][0].update({"from": []}),
    ),
    (
        "production",
        "Gateway/synthagent",
        "certificateRef'",
        lambda m: spec(m, "Gateway", "synthagent")["listeners"][0]["tls"].update(certificateRef=[]),
    ),
    (
        "production",
        "GRPCRoute/synthagent",
        "'matches' is a required property",
        lambda m: spec(m, "GRPCRoute", "synthagent")["rules"][0].pop("matches"),
    ),
    (
        "production",
        "PodMonitor/synthagent",
        "endpoints'",
        lambda m: spec(m, "PodMonitor", "synthagent").update(endpoints=[]),
    ),
    (
        "production",
        "Service/synthagent-rollout",
        "Couldn't find schema",
        lambda m: m.one("Service", "synthagent-rollout").update(apiVersion="v2"),
    ),
    (
        "keda",
        "ScaledObject/synthagent-rollout",
        "is not valid under any of the given schemas",
        lambda m: spec(m, "ScaledObject", "synthagent-rollout")["triggers"][0].pop("metadata"),
    ),
    (
        "trainjob",
        "TrainJob/synthagent-trainer",
        "numProcs'",
        lambda m: spec(m, "TrainJob", "synthagent-trainer")["trainer"].update(numProcs=1),
    ),
    (
        "trainjob",
        "TrainingRuntime/synthagent-trainer",
        "'many'",
        lambda m: spec(m, "TrainingRuntime", "synthagent-trainer")["mlPolicy"]["torch"].update(
            numProcPerNode="many"
        ),
    ),
    (
        "trainjob",
        "PodTemplate/node",
        "imagePolicy'",
        lambda m: container(m, "trainer").update(imagePolicy="x"),
    ),
]


@pytest.mark.parametrize(("variant", "where", "told", "mutate"), SCHEMA_MISTAKES)
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_the_schemas_find(
    variant: str, where: str, told: str, mutate: Mutation, version: str
) -> None:
    manifests = built(variant).copy()
    mutate(manifests)
    changed = [o for o in manifests.objects if o not in built(variant).objects]
    assert len(changed) == 1
    [violation] = violations(changed[0], version)
    assert violation.startswith(where)
    assert told in violation
