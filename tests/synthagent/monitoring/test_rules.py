"""Rules speak of methods that exist."""

import re

from synthagent.monitoring.rules import OBJECTIVES
from synthagent.security.access import METHODS


def test_methods_in_rules_are_those_of_the_contract() -> None:
    methods = {path.rpartition("/")[2] for path in METHODS}
    named = {
        name
        for objective in OBJECTIVES
        for matcher in re.findall(r'method=~"([^"]+)"', objective.bad + objective.total)
        for name in matcher.split("|")
    }
    assert named == {"CallTool", "Reply", "Judge"}
    assert named <= methods
