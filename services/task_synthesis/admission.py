"""The last gate, which looks at other tasks, and with it the admission of a task.

Takes tasks that passed all other gates, in order, and completes their certificates. An index knows
the listed evaluation items and the tasks admitted through it.
"""

from __future__ import annotations

from pathlib import Path

from synthagent.errors import PreconditionFailed
from synthagent.worlds.certify import Rejected
from synthagent.worlds.novelty import NoveltyError, NoveltyIndex
from synthagent.worlds.spec import Gate, GateResult, GateStatus, Task


def new_index(evaluation_items: Path | None) -> NoveltyIndex:
    """An index that knows the evaluation items only. Raises PreconditionFailed (the file)."""
    index = NoveltyIndex()
    if evaluation_items is not None:
        try:
            index.load_items(evaluation_items)
        except (NoveltyError, OSError) as error:
            raise PreconditionFailed(
                f"The evaluation items cannot be read: {error}. Mend the file, or set "
                "SYNTHAGENT_EVALUATION_ITEMS to another."
            ) from error
    return index


def admit_novel(task: Task, index: NoveltyIndex) -> Task:
    """The task with its certificate completed, added to the index.

    Raises Rejected where it nearly equals an admitted task or an evaluation item.
    """
    neighbour = index.nearest(task)
    if neighbour is not None:
        what = "evaluation item" if neighbour.is_item else "task"
        raise Rejected(
            Gate.NOVELTY, f"similarity {neighbour.similarity:.2f} to the {what} {neighbour.name}"
        )
    index.add(task)
    if task.certificate is None:
        raise ValueError(f"task {task.task_id} comes without the result of the other gates")
    passed = GateResult(gate=Gate.NOVELTY, status=GateStatus.PASSED)
    gates = (*task.certificate.gates[:-1], passed)
    certificate = task.certificate.model_copy(update={"gates": gates})
    return task.model_copy(update={"certificate": certificate})
