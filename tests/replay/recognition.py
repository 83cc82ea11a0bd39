"""Which product a request is about.

A request names its product by what only that one holds: names of tools, the instruction, the
persona. The first step of a persona that no product knows gets the product that was given out least
often, and the same persona always gets the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from tests.replay.products import ReplayProduct

_FIRST_STEPS = ("ToolSet", "SqlWorld")
_PERSONA = re.compile(r"^Persona: <data>(.*)</data>$", re.MULTILINE)
_INSTRUCTION_COUNTS = 3  # as much as so many names of tools


class UnknownRequestError(ValueError):
    """A request that no product answers; the text says what is missing."""


class Recognition:
    """Finds products. Remembers which persona got which."""

    def __init__(self, products: Mapping[str, ReplayProduct]) -> None:
        self._products = products
        self._given: dict[str, ReplayProduct] = {}
        self._counts: Counter[str] = Counter()
        self._marks = {name: _marks(product) for name, product in products.items()}

    def product(self, text: str, schema: str, least: int = 1) -> ReplayProduct:
        """The product that a text is about, by `least` tools. Raises UnknownRequestError."""
        if schema in _FIRST_STEPS:
            return self._first(text, schema)
        scores = Counter({name: _score(text, *marks) for name, marks in self._marks.items()})
        (best, score), *others = scores.most_common(2)
        if score < least or (others and others[0][1] == score):
            raise UnknownRequestError(f"no product is recognised in a request for {schema!r}")
        return self._products[best]

    def _first(self, text: str, schema: str) -> ReplayProduct:
        able = [product for product in self._products.values() if schema in product.steps]
        for product in able:
            if product.persona.name in text and product.persona.role in text:
                return product
        persona = _PERSONA.search(text)
        if persona is None or not able:
            raise UnknownRequestError(f"no product has a {schema} for this persona")
        key = f"{schema} {persona[1]}"
        if key not in self._given:
            chosen = min(able, key=lambda product: self._counts[product.name])
            self._counts[chosen.name] += 1
            self._given[key] = chosen
        return self._given[key]


def _marks(product: ReplayProduct) -> tuple[re.Pattern[str], str]:
    """The names of its tools, and its instruction."""
    names = sorted(product.tool_names, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, names))})(?![\w-])"), (
        product.instruction
    )


def _score(text: str, tools: re.Pattern[str], instruction: str) -> int:
    return len(set(tools.findall(text))) + _INSTRUCTION_COUNTS * (instruction in text)
