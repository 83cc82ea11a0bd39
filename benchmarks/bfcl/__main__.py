"""`python -m benchmarks.bfcl`: a model's scores on categories of the BFCL.

    python -m benchmarks.bfcl --model runs/train/model --folder runs/bfcl/after
    python -m benchmarks.bfcl --base-url http://127.0.0.1:8000/v1 --served-model NAME --folder ...

Needs the environment that `make bfcl` makes. A repeat goes on with what the folder holds. Exit code
0: every item is scored; 1: some have no answer (faults of the machinery, or --minutes were over),
and a repeat asks them again; 2: something is wrong with the request.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.bfcl.answers import AnswerFolder, Answering, Settings
from benchmarks.bfcl.chat import FORMAT
from benchmarks.bfcl.models import Limits, Open, opener
from benchmarks.bfcl.process import BfclFault, Item, checker
from benchmarks.bfcl.scores import Report, Score, score, summarize
from synthagent.errors import InvalidInput, SynthAgentError

CATEGORIES = {
    "simple": "simple_python",  # renamed in version 4; Java and JavaScript have others
    "multiple": "multiple",
    "irrelevance": "irrelevance",
    "multi_turn_base": "multi_turn_base",
}
console = Console()


@dataclass(frozen=True)
class Request:
    """What is asked for. `limit` items of each single-turn category, `multi_turn_limit` of others;
    0 means all. They are drawn by the seed, so two models get the same.
    """

    categories: Sequence[str]
    folder: Path
    command: str
    limit: int = 0
    multi_turn_limit: int = 0
    seed: int = 0
    minutes: float = 0.0
    python: Path | None = None


Choose = Callable[[str, Sequence[Item]], Sequence[Item]]


async def evaluate(
    request: Request, open_model: Open, limits: Limits, *, choose: Choose | None = None
) -> Report:
    """Answers what has no answer, and scores. Raises SynthAgentError and BfclFault.

    `choose` says which items of a category are asked; `request` draws them otherwise.
    """
    started = time.perf_counter()
    deadline = time.monotonic() + request.minutes * 60 if request.minutes else None
    log = request.folder / "checker.log"
    async with checker(log, request.python) as process, open_model(limits) as model:
        known = await process.items(request.categories)
        choose = choose or (lambda _, items: draw(items, request))
        chosen = {name: choose(name, known.by_category[name]) for name in request.categories}
        settings = Settings(
            model=model.identity,
            format=FORMAT,
            bfcl_eval=known.version,
            turn_tokens=limits.turn_tokens,
            context_tokens=limits.context_tokens,
        )
        folder = AnswerFolder(request.folder, settings)
        items = [item for group in chosen.values() for item in group]
        with _bar() as bar:
            ready = sum(item.item_id in folder.by_id for item in items)
            line = bar.add_task("answers", total=len(items), completed=ready)
            faults = await Answering(model, process, folder, known.max_steps).run(
                items, done=lambda: bar.advance(line), deadline=deadline
            )
    scores: dict[str, Score] = {}
    for name, group in chosen.items():
        ids = [item.item_id for item in group if item.item_id in folder.by_id]
        answers = [folder.by_id[each] for each in ids]
        wrong = await score(answers, request.folder / "scores" / name, request.python)
        scores[name] = summarize(answers, wrong, len(group))
    report = Report(
        command=request.command,
        bfcl_eval=known.version,
        format=FORMAT,
        model=settings.model,
        turn_tokens=limits.turn_tokens,
        seed=request.seed,
        limit=request.limit,
        seconds=round(time.perf_counter() - started, 1),
        scores=scores,
        faults=dict(faults),
    )
    path = request.folder / "report.json"
    path.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def draw(items: Sequence[Item], request: Request) -> list[Item]:
    """The items to ask, in the package's order."""
    limit = request.multi_turn_limit if items and items[0].multi_turn else request.limit
    if not limit or limit >= len(items):
        return list(items)
    generator = random.Random(request.seed)  # noqa: S311 - a draw to be repeated, no secret
    return [items[place] for place in sorted(generator.sample(range(len(items)), limit))]


def show(report: Report) -> None:
    """Prints the scores."""
    table = Table(title=f"BFCL, bfcl-eval {report.bfcl_eval}, {report.format}")
    for head in ("category", "accuracy", "SEM", "n", "not answered"):
        table.add_column(head, justify="left" if head == "category" else "right")
    for name, found in report.scores.items():
        figures = (
            f"{each:.3f}" if each is not None else "-" for each in (found.accuracy, found.sem)
        )
        table.add_row(name, *figures, str(found.n), str(found.missing))
    console.print(table)
    for item, fault in list(report.faults.items())[:3]:
        console.print(f"no answer to {item}: {fault}", markup=False)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)


def named(categories: Sequence[str]) -> list[str]:
    """The package's names. Raises InvalidInput."""
    for name in categories:
        if name not in CATEGORIES:
            known = ", ".join(CATEGORIES)
            raise InvalidInput(f"no category {name!r}; there are {known}", field="categories")
    return [CATEGORIES[name] for name in categories]


def main(
    *,
    model: Annotated[str, typer.Option(help="A model folder. Empty: the default model.")] = "",
    base_url: Annotated[str, typer.Option(help="An OpenAI-compatible server instead.")] = "",
    served_model: Annotated[str, typer.Option(help="The model's name there.")] = "",
    categories: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(CATEGORIES),
    limit: Annotated[int, typer.Option(min=0, help="Items of a category; 0: all.")] = 0,
    multi_turn_limit: Annotated[
        int, typer.Option(min=0, help="Items of a multi-turn category; 0: all.")
    ] = 0,
    folder: Annotated[Path, typer.Option(help="Keeps answers, scores and report.json.")],
    seed: Annotated[int, typer.Option(help="Which items, where there is a limit.")] = 0,
    minutes: Annotated[float, typer.Option(min=0, help="Begin no item after; 0: no end.")] = 0.0,
    turn_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a turn.")] = 256,
    context_tokens: Annotated[int, typer.Option(min=64, help="Of a conversation.")] = 8192,
    places: Annotated[int, typer.Option(min=1, help="Conversations at once.")] = 8,
    device: Annotated[str, typer.Option(help="Of the local engine: auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Of the local engine; 0: all cores.")] = 0,
) -> None:
    """Scores a model on the Berkeley Function Calling Leaderboard by its own checker."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        request = Request(
            categories=named(categories.split(",")),
            folder=folder,
            command=shlex.join(["python", "-m", "benchmarks.bfcl", *sys.argv[1:]]),
            limit=limit,
            multi_turn_limit=multi_turn_limit,
            seed=seed,
            minutes=minutes,
        )
        open_model = opener(model, base_url, served_model, device, threads)
        limits = Limits(turn_tokens, context_tokens, places)
        report = asyncio.run(evaluate(request, open_model, limits))
    except SynthAgentError as error:
        typer.echo(f"bfcl: {error}", err=True)
        raise typer.Exit(2) from error
    except BfclFault as error:
        typer.echo(f"bfcl: {error} Answers are kept; repeat the command.", err=True)
        raise typer.Exit(1) from error
    show(report)
    raise typer.Exit(1 if any(each.missing for each in report.scores.values()) else 0)


app = typer.Typer(add_completion=False)
app.command()(main)


if __name__ == "__main__":
    app()
