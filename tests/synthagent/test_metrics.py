import re

import pytest
from prometheus_client import generate_latest

from synthagent.metrics import ServerMetrics, TrainerMetrics


@pytest.mark.parametrize("kind", [ServerMetrics, TrainerMetrics])
def test_every_metric_has_the_prefix_a_text_and_no_twin(kind: type) -> None:
    families = [
        family for family in kind().registry.collect() if family.name.startswith("synthagent_")
    ]
    assert len(families) >= 8
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert re.fullmatch(r"synthagent_[a-z_]+", family.name)
        assert family.documentation.endswith(".")


def test_two_processes_parts_do_not_share_counts() -> None:
    one, other = ServerMetrics(), ServerMetrics()
    one.tasks_rejected.labels("novelty").inc()
    assert b'synthagent_tasks_rejected_total{gate="novelty"} 1.0' in generate_latest(one.registry)
    assert b"novelty" not in generate_latest(other.registry)
