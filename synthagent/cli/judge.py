"""`synthagent judge`: judge a stored trajectory again, and calibrate the judge's model."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from typer.core import TyperGroup

from synthagent.cli.connection import Address, DataDir, fail, run
from synthagent.cli.exits import EPILOG, ExitCode, exit_code
from synthagent.cli.files import InputFile
from synthagent.cli.output import AsJson, counting, is_plain, screen, write_json, write_table
from synthagent.cli.rollout import Preset
from synthagent.client import SynthAgentClient
from synthagent.conversation import conversation
from synthagent.convert import event_from_proto, verdict_to_proto
from synthagent.errors import InvalidInput, PreconditionFailed

if TYPE_CHECKING:
    from synthagent.calibration import Calibration

_TRAJECTORY = "trajectory"


class _TrajectoryByDefault(TyperGroup):
    """Takes `judge ID` for `judge trajectory ID`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # the type of ctx is Typer's own
        """Puts the command in where none is named."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [_TRAJECTORY, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_TrajectoryByDefault,
    help="Judge a stored trajectory again (`synthagent judge ID`); calibrate the judge's model.",
    no_args_is_help=True,
)


@app.command(_TRAJECTORY, epilog=EPILOG)
def trajectory(
    trajectory_id: Annotated[str, typer.Argument(help="Identifier of the trajectory.")],
    preset: Preset = "paper",
    address: Address = None,
    data_dir: DataDir = None,
    *,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Ask the judge's model anew instead of repeating its answers."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Judges a stored trajectory again. What is stored stays. Exit code 1 says INVALID."""

    async def work(client: SynthAgentClient) -> ExitCode:
        stored = await client.get_trajectory(trajectory_id)
        if not stored.HasField("ended_at"):
            raise PreconditionFailed(f"Trajectory {trajectory_id!r} still runs; wait for its end.")
        events = [event_from_proto(event) for event in stored.events]
        key = uuid.uuid4().hex if again else f"{trajectory_id}/{preset}"
        request_id = f"judge-{hashlib.sha256(key.encode()).hexdigest()[:48]}"
        verdict = await client.judge(request_id, stored.task_id, events, preset)
        if as_json:
            document = {
                "trajectory_id": trajectory_id,
                "task_id": stored.task_id,
                "verdict": MessageToDict(
                    verdict_to_proto(verdict),
                    preserving_proto_field_name=True,
                    always_print_fields_with_no_presence=True,
                ),
            }
            write_json(document)
        else:
            task = await client.get_task(stored.task_id)
            screen().print(conversation(task, events, verdict, plain=is_plain()))
        return ExitCode.PARTLY if verdict.reward is None else ExitCode.DONE

    run(address, data_dir, work, as_json=as_json)


@app.command("calibrate", epilog=EPILOG)
def calibrate_(
    file: InputFile,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Items judged at a time.")] = 8,
    name: Annotated[
        str, typer.Option(help="Name of the calibration; the same name repeats its answers.")
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Scores the judge's model on a labelled set: agreement, Cohen's kappa, abstention.

    A line of the JSONL file is {"id", "task" or "task_id", "events", "criterion_id", "label": "YES"
    or "NO"}. Needs a model for the judge (SYNTHAGENT_JUDGE__BASE_URL, SYNTHAGENT_JUDGE__MODEL).
    Exit code 1 says that the model failed on some item.
    """
    # Imported here: scikit-learn under it takes longer to load than other commands to run.
    from synthagent.calibration import asking, calibrate, read_labelled  # noqa: PLC0415

    try:
        items = read_labelled(file)
    except InvalidInput as error:
        fail(exit_code(error), error.reason, error.message, as_json=as_json)

    async def work(client: SynthAgentClient) -> ExitCode:
        with counting() as bar:
            line = bar.add_task("judged items", total=len(items))
            result = await calibrate(
                items,
                asking(client, name or uuid.uuid4().hex),
                concurrency=concurrency,
                on_judged=lambda _: bar.advance(line),
            )
        if as_json:
            write_json(result.model_dump(mode="json"))
        else:
            _report(result)
        return ExitCode.PARTLY if result.faults else ExitCode.DONE

    run(address, data_dir, work, as_json=as_json)


def _report(result: Calibration) -> None:
    figures = (
        ("items", result.items),
        ("decided", result.decided),
        ("abstained", result.abstained),
        ("faults of the model", result.faults),
        ("agreement", result.agreement),
        ("Cohen's kappa", result.kappa),
        ("abstention", result.abstention),
        ("agreement among votes", result.vote_agreement),
    )
    rows = [(name, _figure(value)) for name, value in figures]
    write_table("Calibration", ["what", "figure"], rows)
    told = [*result.disagreements, *result.undecided]
    if told:
        heads = ("id", "criterion", "label", "judged", "explanation")
        table = [
            (
                each.item_id,
                each.criterion_id,
                each.label,
                each.judgement or "fault",
                each.explanation,
            )
            for each in told
        ]
        write_table("Judged otherwise, or not at all", heads, table)


def _figure(value: float | None) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
