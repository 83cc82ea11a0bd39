"""The model teacher: makes certified tasks with a language model.

teacher = ModelTeacher(models.need("teacher"), in_workers(workers))
draft = await teacher.draft(route, persona, split, key="<request_id>/<attempt>")
final = await teacher.finish(draft, attempts, key=...)   # not where draft.complete (sql)
final = await teacher.keep(final, judged_attempts, key=..., min_solutions=2)
"""

from services.task_synthesis.teacher.attempts import Attempt
from services.task_synthesis.teacher.certifying import certificate_of, in_workers
from services.task_synthesis.teacher.route import LENGTHS, Rejected, Route, Step, ToolKind
from services.task_synthesis.teacher.teacher import Certify, Draft, ModelTeacher

__all__ = [
    "LENGTHS",
    "Attempt",
    "Certify",
    "Draft",
    "ModelTeacher",
    "Rejected",
    "Route",
    "Step",
    "ToolKind",
    "certificate_of",
    "in_workers",
]
