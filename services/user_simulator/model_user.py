"""The user of a task, played by a model.

The model is told who it is, what it wants, its facts and background, and what was said. Tool calls,
their results and the agent's reasoning are kept from it: a person who asked for help sees none of
them, and what the model does not know of tools and solution it cannot hint at. What the agent said
stands in the prompt as JSON, so that no text of it can pass for anything else.

Each answer is checked by the engine. One that may not be sent goes back once with the reason; then
the reply is a fault (ModelMalformed), never a bad reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from services.user_simulator.answer import Spoken, SpokenWithoutFacts, UnfitReply, to_reply
from services.user_simulator.reply import last_message
from synthagent.errors import ModelMalformed
from synthagent.llm import Message
from synthagent.llm.prompts import render
from synthagent.llm.quotation import escaped, quoted
from synthagent.worlds.episode import AgentAction, AgentTurn, Event, UserReply
from synthagent.worlds.fidelity import Said, listen
from synthagent.worlds.spec import Task

if TYPE_CHECKING:  # the client library comes with it, which only a configured role needs
    from synthagent.llm import LanguageModel

_PACKAGE = "services.user_simulator"
_PURPOSE = "reply"
_TEMPERATURE = 0.7
_REMEMBERED = 40
"""Messages, of both sides, that the user still has in its ear."""

_READ_CHARACTERS = 2000
"""Of either end of a message. People skim; a flood is not a question."""


class ModelUser:
    """The users of all tasks, by the model of the user's role."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    async def reply(self, task: Task, events: Sequence[Event], *, key: str) -> UserReply:
        """The user's reply to the agent's message that ends `events`.

        `key` names the reply: the same key and events give the stored answer of the model. Raises
        InvalidInput where the events do not end with a message of the agent, and ModelUnavailable
        or a ModelFault where no good reply came.
        """
        last_message(events)
        said = listen(task, events)
        messages = [Message("system", _role(said)), Message("user", _turn(events))]
        form = Spoken if task.facts else SpokenWithoutFacts
        spoken = await self._ask(messages, form, key)
        try:
            return to_reply(said, spoken)
        except UnfitReply as unfit:
            problem = str(unfit)
        messages += [
            Message("assistant", escaped(spoken.model_dump_json())),
            Message("user", render(_PACKAGE, "repair", problem=problem)),
        ]
        try:
            return to_reply(said, await self._ask(messages, form, f"{key}/repair"))
        except UnfitReply as unfit:
            raise ModelMalformed(
                f"The user model broke the rules of its role twice: first {problem}; then {unfit}."
            ) from unfit

    async def _ask(self, messages: Sequence[Message], form: type[Spoken], key: str) -> Spoken:
        answer = await self._model.structured(
            messages, form, key=key, purpose=_PURPOSE, temperature=_TEMPERATURE
        )
        return answer.value


def _role(said: Said) -> str:
    task = said.task
    facts: list[JsonValue] = [
        {
            "id": fact.fact_id,
            "what it is": fact.label,
            "value": fact.value,
            "told": fact.fact_id in said.revealed,
        }
        for fact in task.facts
    ]
    return render(
        _PACKAGE,
        "role",
        persona=task.persona,
        instruction=task.instruction,
        facts=[quoted(fact) for fact in facts],
        background=quoted(task.background) if task.background else "",
    )


def _turn(events: Sequence[Event]) -> str:
    spoken: list[dict[str, JsonValue]] = [
        {"speaker": "you" if isinstance(event.body, UserReply) else "assistant", "says": text}
        for event in events
        if (text := _audible(event)) is not None
    ]
    *earlier, last = spoken[-_REMEMBERED:]
    return render(_PACKAGE, "turn", conversation=quoted([*earlier]), message=quoted(last["says"]))


def _audible(event: Event) -> str | None:
    """What the user hears or says in an event; None where it takes no part."""
    body = event.body
    if isinstance(body, UserReply):
        return body.text
    if isinstance(body, AgentTurn) and body.action is AgentAction.MESSAGE:
        text = body.content
        if len(text) > 2 * _READ_CHARACTERS:
            return f"{text[:_READ_CHARACTERS]} [...] {text[-_READ_CHARACTERS:]}"
        return text
    return None
