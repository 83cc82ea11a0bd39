"""From a world that the model wrote as data to a task of the contract, all of it programs.

Names of the model become identifiers, and what refers to them follows. Nothing is guessed beyond
that: a reference that leads nowhere stays, and the validation or the gate that finds it says where,
for the model to mend. Every gate applies to the task that comes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from services.task_synthesis.teacher import leak_check
from services.task_synthesis.teacher.bounds import identifier, plain
from services.task_synthesis.teacher.drafting import TEACHER, asked, identified, validated
from services.task_synthesis.teacher.facts import as_facts
from services.task_synthesis.teacher.fuzzy_task import one_sentence
from services.task_synthesis.teacher.repair import Broken
from services.task_synthesis.teacher.route import Route, Step
from services.task_synthesis.teacher.sql_product import (
    MatcherDesign,
    PlanDesign,
    SqlCriterionDesign,
    SqlToolDesign,
    SqlWorld,
    StatementDesign,
)
from services.task_synthesis.teacher.tool_check import (
    POLICY_ID,
    check_names,
    forbidden_use,
    restricted_tool,
    tool_name,
)
from synthagent.worlds.criteria import Section
from synthagent.worlds.spec import Persona, Split, Task

_ANSWER_SLOT = re.compile(r"\{(fact|step):([^{}:]+)((?::[^{}]*)?)\}")
_CODE = re.compile(r"[^a-z0-9]+")


def assembled(route: Route, persona: Persona, split: Split, product: SqlWorld) -> Task:
    """The task that the product describes, without a certificate. Raises Broken."""
    tools = [tool.model_copy(update={"name": tool_name(tool.name)}) for tool in product.tools]
    tool_names = [tool.name for tool in tools]
    check_names(tool_names)
    names = _Names(tools)
    facts, fact_ids = as_facts(product.facts, tool_names)
    instruction = one_sentence(product.instruction)
    leak_check.check(
        instruction,
        product.background,
        facts=facts,
        tool_names=tool_names,
        workflow=product.workflow,
    )
    restricted = restricted_tool(tool_names, product.restriction.tool)
    use = forbidden_use(product.restriction.forbidden_use)
    text = f"Tool {restricted} must NOT be used to {use}."
    plans = _Plans(names, fact_ids)
    policy = {
        "criterion_id": POLICY_ID,
        "section": Section.POLICY,
        "description": text,
        "source_text": text,
        "check": {"kind": "forbidden", "calls": [names.matcher(one) for one in product.forbidden]},
    }
    taken = {POLICY_ID, *(asked(fact).criterion_id for fact in facts)}
    content = {
        "task_id": "m",
        "split": split,
        "domain": route.domain,
        "difficulty": route.difficulty,
        "teacher": TEACHER,
        "persona": persona,
        "instruction": instruction,
        "world": {
            "tables": [table.model_dump() for table in product.tables],
            "tools": [_tool(tool) for tool in tools],
        },
        "facts": facts,
        "restriction": {
            "text": text,
            "reason": product.restriction.reason,
            "criterion_id": POLICY_ID,
            "probe": plans.plan("probe", product.probe),
        },
        "gold_plans": [
            plans.plan(f"plan_{number}", plan)
            for number, plan in enumerate(product.gold_plans, start=1)
        ],
        "criteria": [
            policy,
            *(_sub_goal(design, names, taken) for design in product.sub_goals),
            *map(asked, facts),
        ],
        "background": product.background,
        "workflow": product.workflow,
    }
    return identified(validated(content))


def _tool(design: SqlToolDesign) -> dict[str, Any]:
    return {
        "name": design.name,
        "description": design.description,
        "category": design.category,
        "input_schema": design.input_schema,
        "behaviour": {"kind": "sql", "statements": [_statement(s) for s in design.statements]},
    }


def _statement(design: StatementDesign) -> dict[str, Any]:
    """A statement without the fields that its kind does not have, whatever was written there."""
    returns = design.kind == "return"
    shape = (design.shape or ("rows" if design.key else "row")) if returns else None
    fails = design.kind == "require" or shape == "row"
    code = _CODE.sub("_", design.error_code.casefold()).strip("_")
    return {
        "kind": design.kind,
        "sql": design.sql.rstrip("; \n"),
        "error_code": (code or "not_found") if fails else "",
        "error_message": design.error_message if fails else "",
        "shape": shape,
        "key": (design.key or "items") if shape == "rows" else "",
    }


def _sub_goal(design: SqlCriterionDesign, names: _Names, taken: set[str]) -> dict[str, Any]:
    check: dict[str, Any] = {"kind": design.check}
    match design.check:
        case "state":
            check["sql"] = design.sql.rstrip("; \n")
        case "called":
            check["any_of"] = [names.matcher(one) for one in design.any_of]
        case "answer":
            check["values"] = [value for value in design.values if value is not None]
    return {
        "criterion_id": identifier(f"goal {design.text}"[:40], taken, "goal"),
        "section": Section.SUB_GOAL,
        "description": design.text,
        "source_text": design.text,
        "check": check,
    }


class _Names:
    """The tools by whatever spelling the model used for them."""

    def __init__(self, tools: Sequence[SqlToolDesign]) -> None:
        self._tools = {plain(tool.name): tool.name for tool in tools}

    def tool(self, name: str) -> str:
        return self._tools.get(plain(name), name)

    def matcher(self, design: MatcherDesign) -> dict[str, Any]:
        return {
            "tool": self.tool(design.tool),
            "arguments": [
                {"name": name, "equals": value} for name, value in design.arguments.items()
            ],
            "count_failed": design.count_failed,
            "error_code": design.error_code,
        }


class _Plans:
    """Plans with the identifiers of facts and steps in place of the names that the model gave."""

    def __init__(self, names: _Names, fact_ids: Mapping[str, str]) -> None:
        self._names = names
        self._facts = {**{fact_id: fact_id for fact_id in fact_ids.values()}, **fact_ids}

    def plan(self, plan_id: str, design: PlanDesign) -> dict[str, Any]:
        taken: set[str] = set()
        steps: dict[str, str] = {}
        for step in design.steps:
            if step.name in steps:
                raise Broken(Step.SQL_WORLD, f"{plan_id}: two steps have the name {step.name!r}")
            steps[step.name] = identifier(step.name, taken, "step")
        return {
            "plan_id": plan_id,
            "steps": [
                {
                    "step_id": steps[step.name],
                    "tool": self._names.tool(step.tool),
                    "arguments": {
                        name: self._reference(value, steps)
                        for name, value in step.arguments.items()
                    },
                    "expected_error_code": step.expected_error_code,
                }
                for step in design.steps
            ],
            "answer": self._answer(design.answer, steps),
        }

    def _reference(self, value: JsonValue, steps: Mapping[str, str]) -> JsonValue:
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("$fact"), str):
            name = str(value["$fact"])
            return {"$fact": self._facts.get(name, name)}
        if isinstance(value.get("$step"), str):
            name = str(value["$step"])
            return {"$step": steps.get(name, name), "path": str(value.get("path") or "")}
        return value

    def _answer(self, answer: str, steps: Mapping[str, str]) -> str:
        def fill(match: re.Match[str]) -> str:
            known = self._facts if match[1] == "fact" else steps
            return f"{{{match[1]}:{known.get(match[2], match[2])}{match[3]}}}"

        return _ANSWER_SLOT.sub(fill, answer)
