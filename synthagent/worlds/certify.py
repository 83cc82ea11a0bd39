"""Certification: the nine gates, in order, and the certificate that records them.

`certify` runs the gates up to the first that fails; `admit` returns the task with its certificate
or says which gate rejected it. The gates themselves are in `gates` (what a plan does) and `secrecy`
(what an agent can read); `certificate` checks what they left behind.
"""

from __future__ import annotations

from collections.abc import Callable

from synthagent.worlds.content import task_digest
from synthagent.worlds.engine import ENGINE_VERSION, WorldError
from synthagent.worlds.gates import Examination, Failed, NotApplicable
from synthagent.worlds.novelty import NoveltyIndex
from synthagent.worlds.secrecy import information_gap
from synthagent.worlds.session import EngineFault
from synthagent.worlds.spec import Certificate, Gate, GateResult, GateStatus, Task


class Rejected(ValueError):
    """A task that a gate rejected: which, and why."""

    def __init__(self, gate: Gate, reason: str) -> None:
        super().__init__(f"{gate}: {reason}")
        self.gate = gate
        self.reason = reason


def certify(task: Task, novelty: NoveltyIndex | None = None) -> Certificate:
    """Runs the gates. The last result is the first failure, if any; a passed one holds all nine.

    Without an index there is nothing to be near to, and the novelty gate is not applicable.
    """
    results: list[GateResult] = []
    try:
        with Examination(task) as examination:
            for gate in Gate:
                results.append(_run(gate, examination, novelty))
                if results[-1].status is GateStatus.FAILED:
                    break
    except WorldError as error:
        results.append(_failed(Gate.COMPILES, str(error)))
    return Certificate(
        engine_version=ENGINE_VERSION, task_digest=task_digest(task), gates=tuple(results)
    )


def _run(gate: Gate, examination: Examination, novelty: NoveltyIndex | None) -> GateResult:
    try:
        if gate is Gate.NOVELTY:
            detail = _novel(examination.task, novelty)
        else:
            detail = _GATES[gate](examination)
    except NotApplicable as reason:
        return GateResult(gate=gate, status=GateStatus.NOT_APPLICABLE, detail=str(reason))
    except (Failed, WorldError) as reason:
        return _failed(gate, str(reason))
    except EngineFault as fault:  # a plan that exhausts the engine is no plan, whoever is at fault
        return _failed(gate, f"the engine gave up: {fault}")
    return GateResult(gate=gate, status=GateStatus.PASSED, detail=detail)


_GATES: dict[Gate, Callable[[Examination], str]] = {
    Gate.COMPILES: Examination.compiles,
    Gate.GOLD: Examination.gold,
    Gate.NO_OP: Examination.no_op,
    Gate.NECESSITY: Examination.necessity,
    Gate.WRONG_ENTITY: Examination.wrong_entity,
    Gate.RESTRICTION: Examination.restriction,
    Gate.INFORMATION_GAP: information_gap,
    Gate.DETERMINISM: Examination.determinism,
}


def _novel(task: Task, novelty: NoveltyIndex | None) -> str:
    if novelty is None:
        raise NotApplicable("there is no index of admitted tasks to compare with")
    neighbour = novelty.nearest(task)
    if neighbour is not None:
        what = "evaluation item" if neighbour.is_item else "task"
        raise Failed(
            f"similarity {neighbour.similarity:.2f} to the {what} {neighbour.name}; "
            "vary its instruction, facts or tools"
        )
    return ""


def _failed(gate: Gate, detail: str) -> GateResult:
    return GateResult(gate=gate, status=GateStatus.FAILED, detail=detail)


def admit(task: Task, novelty: NoveltyIndex | None = None) -> Task:
    """The task with its certificate, added to the index. Raises Rejected."""
    certificate = certify(task, novelty)
    if not certificate.passed:
        last = certificate.gates[-1]
        raise Rejected(last.gate, last.detail)
    if novelty is not None:
        novelty.add(task)
    return task.model_copy(update={"certificate": certificate})
