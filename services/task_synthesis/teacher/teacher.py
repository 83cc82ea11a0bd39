"""The model teacher: from a persona to a certified task, step by step (method, section 1).

    draft    tool set, tool check, fuzzy task, leak check -> a certified task without a rubric
    (the caller lets agents attempt the draft)
    finish   rubric as typed criteria, from workflow and attempts -> the final, certified task
    (the caller judges the attempts by it)
    keep     enough attempts succeed, and the teacher still wants the task

An `sql` draft is final at once: its gold plans were executed by every gate. The teacher holds no
state: calls of one item share its key, and the same key gives the same stored answers again, so an
item that was cut off is made again up to where it was. A model that cannot be reached raises
ModelUnavailable and decides nothing; everything else ends in a value or in Rejected.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from services.task_synthesis.teacher import (
    drafting,
    fuzzy_task,
    prompting,
    rubric,
    sql_world,
    tool_check,
)
from services.task_synthesis.teacher.attempts import Attempt, solves
from services.task_synthesis.teacher.fuzzy_task import ToldTask
from services.task_synthesis.teacher.products import (
    Distractors,
    FuzzyTask,
    KeepVerdict,
    LeakVerdict,
    Rubric,
    ToolCheck,
    ToolSet,
)
from services.task_synthesis.teacher.repair import DECIDE, INVENT, Broken, Item
from services.task_synthesis.teacher.route import Route, Step, ToolKind
from services.task_synthesis.teacher.sql_product import SqlWorld
from services.task_synthesis.teacher.tool_check import CheckedTools
from synthagent.llm import LanguageModel, Usage
from synthagent.worlds.spec import Certificate, Persona, Split, Task

Certify = Callable[[Task], Awaitable[Certificate]]
"""Runs the gates without the novelty gate; `certifying.in_workers` gives one."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What the teacher made of an item so far.

    `task` carries a certificate that passed (novelty not applicable yet). Its id is `m-<digest>`,
    with `-draft` behind it until `finish`. `usage` and `product` are those of the whole item.
    `complete`: needs neither attempts nor `finish` (sql).
    """

    task: Task
    product: Mapping[str, JsonValue]
    usage: Usage
    complete: bool


class ModelTeacher:
    """Makes tasks with the model of the role `teacher`."""

    def __init__(self, model: LanguageModel, certify: Certify) -> None:
        self._model = model
        self._certify = certify

    async def draft(
        self,
        route: Route,
        persona: Persona,
        split: Split,
        *,
        key: str,
        tool_kind: ToolKind = ToolKind.SIMULATED,
        repairs: int = 2,
    ) -> Draft:
        """A certified task to attempt or, of kind sql, to admit.

        `key` names the item ("<request_id>/<attempt>"). `repairs` is how often each product that
        breaks a rule or fails a gate goes back to the model with the reason.

        Raises Rejected, ModelUnavailable; and ModelFault where the server takes no request at all.
        """
        item = Item(self._model, key, repairs)
        making = _Making(item, self._certify, route, persona, split)
        if tool_kind is ToolKind.SQL:
            task = await making.sql_world()
        else:
            task = await making.fuzzy_task(await making.tool_set())
        return Draft(task, item.product, item.usage, complete=tool_kind is ToolKind.SQL)

    async def finish(
        self, draft: Draft, attempts: Sequence[Attempt], *, key: str, repairs: int = 2
    ) -> Draft:
        """The final task: the draft with a typed rubric, certified under its final id.

        Raises Rejected (rubric, or a gate), ModelUnavailable.
        """
        item = Item(self._model, key, repairs, usage=draft.usage, product=dict(draft.product))

        async def build(product: Rubric, _: str) -> Task:
            return await _certified(rubric.typed(draft.task, product, attempts), self._certify)

        opening = prompting.rubric(draft.task, attempts)
        task = await item.make(Step.RUBRIC, "rubric", opening, Rubric, build, temperature=DECIDE)
        return Draft(task, item.product, item.usage, complete=True)

    async def keep(
        self, finished: Draft, attempts: Sequence[Attempt], *, key: str, min_solutions: int = 2
    ) -> Draft:
        """The same draft with its usage brought up to date, where the task is worth keeping.

        `attempts` carry verdicts by the final rubric. Raises Rejected (too_few_solutions,
        discarded), ModelUnavailable.
        """
        item = Item(self._model, key, 0, usage=finished.usage, product=dict(finished.product))
        solved = sum(solves(finished.task, attempt) for attempt in attempts)
        if solved < min_solutions:
            raise item.rejected(
                Step.TOO_FEW_SOLUTIONS,
                f"{solved} of {len(attempts)} attempts solve the task; {min_solutions} are needed",
            )
        opening = prompting.keep(finished.task, attempts, solved)
        verdict = await item.ask(Step.DISCARDED, "keep", opening, KeepVerdict)
        if not verdict.keep:
            raise item.rejected(Step.DISCARDED, verdict.reason or "the teacher gave no reason")
        return replace(finished, product=item.product, usage=item.usage)


async def _certified(task: Task, certify: Certify) -> Task:
    """The task with its certificate. Raises Broken with the gate that failed and its detail."""
    certificate = await certify(task)
    if not certificate.passed:
        last = certificate.gates[-1]
        raise Broken(last.gate.value, last.detail)
    return task.model_copy(update={"certificate": certificate})


class _Making:
    """The steps of one draft."""

    def __init__(
        self, item: Item, certify: Certify, route: Route, persona: Persona, split: Split
    ) -> None:
        self._item = item
        self._certify = certify
        self._route = route
        self._persona = persona
        self._split = split

    async def tool_set(self) -> CheckedTools:
        """Tools under every rule, without those that a model can replace, with distractors."""
        opening = prompting.tool_set(self._route, self._persona)
        tools = await self._item.make(
            Step.TOOL_SET, "tool_set", opening, ToolSet, self._check_tools, temperature=INVENT
        )

        async def add(product: Distractors, _: str) -> CheckedTools:
            return tool_check.with_distractors(tools, product.tools)

        return await self._item.make(
            Step.TOOL_CHECK,
            "distractors",
            prompting.distractors(self._route, tools),
            Distractors,
            add,
            temperature=INVENT,
        )

    async def _check_tools(self, product: ToolSet, place: str) -> CheckedTools:
        checked = tool_check.check(product)
        answers = await self._item.ask(
            Step.TOOL_CHECK, "tool_check", prompting.tool_check(checked), ToolCheck, within=place
        )
        kept, dropped = tool_check.without_replaceable(checked, answers.answers)
        self._item.product["dropped_tools"] = list(dropped)
        return kept

    async def fuzzy_task(self, tools: CheckedTools) -> Task:
        """The certified draft of what the persona asks for."""

        async def build(product: FuzzyTask, place: str) -> Task:
            told = fuzzy_task.check(
                product,
                tool_names=[tool.name for tool in tools.tools],
                workflow=tools.workflow,
            )
            await self._ask_for_leaks(told, tools, place)
            task = drafting.draft_task(self._route, self._persona, self._split, tools, told)
            return await _certified(task, self._certify)

        return await self._item.make(
            Step.FUZZY_TASK,
            "fuzzy_task",
            prompting.fuzzy_task(self._route, self._persona, tools),
            FuzzyTask,
            build,
            temperature=INVENT,
        )

    async def _ask_for_leaks(self, told: ToldTask, tools: CheckedTools, place: str) -> None:
        """Asks the model for what words alone do not show. Raises Broken."""
        opening = prompting.leak_check(told, tools)
        verdict = await self._item.ask(
            Step.LEAK_CHECK, "leak_check", opening, LeakVerdict, within=place
        )
        if verdict.leaks:
            reason = verdict.reason or "the sentence gives away facts or steps"
            raise Broken(Step.LEAK_CHECK, reason)

    async def sql_world(self) -> Task:
        """A certified task whose tools are programs."""

        async def build(product: SqlWorld, _: str) -> Task:
            task = sql_world.assembled(self._route, self._persona, self._split, product)
            return await _certified(task, self._certify)

        return await self._item.make(
            Step.SQL_WORLD,
            "sql_world",
            prompting.sql_world(self._route, self._persona),
            SqlWorld,
            build,
            temperature=INVENT,
        )
