"""Every variant builds, fits the API of every supported Kubernetes, and passes every check."""

import re

import pytest

from tests.manifests.checks import CHECKS
from tests.manifests.checks.configuration import documented_settings, setting_names
from tests.manifests.objects import ROOT, VARIANTS, build, built, is_ours
from tests.manifests.schemas import CUSTOM, VERSIONS, violations

variants = pytest.mark.parametrize("variant", VARIANTS)


@variants
def test_it_fits_the_schemas(variant: str) -> None:
    found = [
        v for each in built(variant).objects for ver in VERSIONS for v in violations(each, ver)
    ]
    assert found == []


@variants
@pytest.mark.parametrize("check", CHECKS)
def test_it_passes(variant: str, check: str) -> None:
    assert list(CHECKS[check](built(variant))) == []


def test_base_builds_by_itself() -> None:
    assert len(build(ROOT / "k8s/base").objects) > 30


def test_every_file_of_k8s_is_part_of_a_build() -> None:
    """What no kustomization names would be applied by nobody, and checked by nobody."""
    k8s = ROOT / "k8s"
    named = "\n".join(path.read_text() for path in k8s.rglob("kustomization.yaml"))
    for path in k8s.rglob("*"):
        if path.is_file() and path.name not in ("kustomization.yaml", "README.md"):
            assert path.name in named, path
    used = named + "".join(
        path.read_text() for path in (ROOT / "tests/manifests").rglob("kustomization.yaml")
    )
    for component in (k8s / "components").iterdir():
        assert f"components/{component.name}\n" in used, component


def test_every_custom_resource_is_somewhere() -> None:
    kinds = {found["kind"] for variant in VARIANTS for found in built(variant).objects}
    assert set(CUSTOM) <= kinds


def test_every_setting_is_set_somewhere_or_documented_as_left_alone() -> None:
    given = {
        name
        for variant in VARIANTS
        for pod in built(variant).pods()
        for container in filter(is_ours, pod.every_container)
        for name in built(variant).environment(container)
        if name.startswith("SYNTHAGENT_")
    }
    assert setting_names() - given <= documented_settings() <= setting_names()


def test_prometheus_asks_the_one_node_of_the_trainer_that_tells_metrics() -> None:
    """Rank 0 opens the port; the other nodes of the Indexed Job would count as down."""
    manifests = built("production")
    job = manifests.one("Job", "synthagent-trainer")
    assert job["spec"]["completions"] > 1
    assert "metrics" in manifests.pod("trainer").ports
    (monitor,) = manifests.of("PodMonitor")
    (asked,) = (e for e in monitor["spec"]["podMetricsEndpoints"] if e["port"] == "metrics")
    (kept,) = asked["relabelings"]
    index = "__meta_kubernetes_pod_label_batch_kubernetes_io_job_completion_index"
    assert (kept["action"], kept["sourceLabels"]) == ("keep", [index])
    # Pods of the services have no such label: Prometheus compares the empty text.
    found = [bool(re.fullmatch(kept["regex"], value)) for value in ("", "0", "1", "10")]
    assert found == [True, True, False, False]
