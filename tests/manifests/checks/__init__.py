"""What schemas miss: checks of a whole build. Each yields a sentence for each thing that is wrong.

`wiring` follows references, `workloads` looks into pods, `configuration` holds settings against
the code, `scaling` holds numbers against each other. Every check has mistakes in
test_mutations.py that it must find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.manifests.checks import configuration, scaling, wiring, workloads
from tests.manifests.objects import Manifests

Check = Callable[[Manifests], Iterable[str]]

CHECKS: dict[str, Check] = {
    check.__name__: check
    for module in (wiring, workloads, configuration, scaling)
    for check in module.CHECKS
}
