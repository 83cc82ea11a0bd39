"""How a step asks the model, and what happens when a product breaks a rule.

An `Item` is one item in the making: it holds the model, what was used and what was written so far.
`Item.make` asks for a product and builds something of it; where that raises Broken, the product
goes back to the model with the reason, as often as repairs are allowed, and then the item is
Rejected. Only the last product and its reason are shown, so that the conversation does not grow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import JsonValue

from services.task_synthesis.teacher.bounds import Product
from services.task_synthesis.teacher.route import Rejected, Step
from synthagent.errors import ModelFault, ModelMalformed, ModelRefused, ModelTruncated
from synthagent.llm import LanguageModel, Message, Usage, metered
from synthagent.llm.prompts import render
from synthagent.llm.quotation import escaped

PACKAGE = "services.task_synthesis.teacher"

INVENT = 0.9
"""Temperature of inventions (the paper's)."""

DECIDE = 0.0
"""Temperature of questions."""

P = TypeVar("P", bound=Product)
T = TypeVar("T")


class Broken(ValueError):
    """A product that breaks a rule: the step or gate that says so, and a sentence for the model."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(reason)
        self.step = step
        self.reason = reason


class Item:
    """One item in the making."""

    def __init__(
        self,
        model: LanguageModel,
        key: str,
        repairs: int,
        *,
        usage: Usage | None = None,
        product: dict[str, JsonValue] | None = None,
    ) -> None:
        self._model = model
        self._key = key
        self._repairs = repairs
        self.usage = Usage() if usage is None else usage
        self.product: dict[str, JsonValue] = {} if product is None else dict(product)

    async def make(
        self,
        step: Step,
        purpose: str,
        opening: str,
        schema: type[P],
        build: Callable[[P, str], Awaitable[T]],
        *,
        temperature: float,
        within: str = "",
    ) -> T:
        """What `build` makes of a product that breaks no rule. Raises Rejected, ModelUnavailable.

        `build` also gets the place of the product ("tool_set/0"), which is `within` for the
        questions that it asks itself. `purpose` names the product and its calls.
        """
        asked = [
            Message("system", render(PACKAGE, "system")),
            Message("user", f"Step: {purpose}\n\n{opening}"),
        ]
        messages = asked
        for number in range(self._repairs + 1):
            place = "/".join(filter(None, (within, purpose, str(number))))
            product = await self._ask(
                messages,
                schema,
                step=step,
                purpose=purpose,
                place=place,
                temperature=temperature,
            )
            try:
                return await build(product, place)
            except Broken as broken:
                last = broken
            self._note(last)
            repair = render(PACKAGE, "repair", purpose=purpose, step=last.step, reason=last.reason)
            messages = [
                *asked,
                Message("assistant", escaped(product.model_dump_json())),
                Message("user", repair),
            ]
        raise self.rejected(last.step, last.reason)

    async def ask(
        self, step: Step, purpose: str, opening: str, schema: type[P], *, within: str = ""
    ) -> P:
        """The answer to a question, which breaks no rule whatever it is."""

        async def as_it_is(product: P, _: str) -> P:
            return product

        return await self.make(
            step, purpose, opening, schema, as_it_is, temperature=DECIDE, within=within
        )

    def rejected(self, step: str, reason: str) -> Rejected:
        """The end of the item, with what it used and wrote."""
        return Rejected(step, reason, self.usage, self.product)

    async def _ask(
        self,
        messages: list[Message],
        schema: type[P],
        *,
        step: Step,
        purpose: str,
        place: str,
        temperature: float,
    ) -> P:
        key = f"{self._key}/{place}"
        digest = hashlib.sha256(key.encode()).digest()
        with metered() as meter:
            try:
                answer = await self._model.structured(
                    messages,
                    schema,
                    key=key,
                    purpose=purpose,
                    temperature=temperature,
                    seed=int.from_bytes(digest[:4], "big") >> 1,
                    repairs=min(1, self._repairs),
                )
            except (ModelRefused, ModelTruncated, ModelMalformed) as fault:
                self.usage += meter.usage
                raise self.rejected(step, f"the model gave no usable {purpose}: {fault}") from fault
            except ModelFault as fault:
                # A key or model that is wrong fails every item, so it is the caller's to see. A
                # server that answered before refuses this request only: it may be too long for it.
                if self.usage.calls == 0:
                    raise
                self.usage += meter.usage
                raise self.rejected(step, f"the server took no {purpose}: {fault}") from fault
        self.usage += meter.usage
        self.product[purpose] = answer.value.model_dump(mode="json")
        return answer.value

    def _note(self, broken: Broken) -> None:
        """Keeps the reason of a repair beside the product."""
        noted = self.product.get("repairs")
        earlier = noted if isinstance(noted, list) else []
        self.product["repairs"] = [*earlier, {"step": broken.step, "reason": broken.reason}]
