"""Prompts: Markdown files beside the code that sends them, filled in by Jinja2.

`render("services.rubric_judge", "vote", ...)` fills in `services/rubric_judge/prompts/vote.md`. The
file is the template; values are put in as they are and never read as templates. Text of others goes
through the filter `quoted`, JSON of others through `escaped`. A name that the file uses and the
caller did not give is an error.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template

from synthagent.llm.quotation import escaped, quoted

_environment = Environment(
    undefined=StrictUndefined,
    autoescape=False,  # noqa: S701 - prompts are plain text for a model, no HTML
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(escaped=escaped, quoted=quoted)


def render(package: str, name: str, **values: object) -> str:
    """The text of `prompts/NAME.md` of the package, with the values filled in.

    Raises jinja2.UndefinedError where the file uses a name that is not given.
    """
    return _template(package, name).render(values).strip()


@cache
def _template(package: str, name: str) -> Template:
    source = resources.files(package).joinpath("prompts", f"{name}.md").read_text("utf-8")
    return _environment.from_string(source)
