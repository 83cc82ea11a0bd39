"""The audit of a user that a model played: one question to a model after the episode, counted."""

from __future__ import annotations

from collections.abc import Sequence

from synthagent.llm import LanguageModel
from synthagent.llm.audit import audit
from synthagent.metrics import ServerMetrics
from synthagent.worlds.episode import Event, UserReply
from synthagent.worlds.spec import Task


class UserAuditor:
    """Asks the user's model whether the user kept to its rules."""

    def __init__(self, model: LanguageModel, metrics: ServerMetrics) -> None:
        self._model = model
        self._audits = metrics.user_audits

    async def audit(self, task: Task, events: Sequence[Event], *, key: str) -> str:
        """What the user did that it must not, in a sentence, or "".

        A user that never spoke is not asked about. Raises ModelUnavailable and ModelFault.
        """
        if not any(isinstance(event.body, UserReply) for event in events):
            return ""
        problem = await audit(self._model, task, events, key=key)
        self._audits.labels("unfaithful" if problem else "faithful").inc()
        return problem
