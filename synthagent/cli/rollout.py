"""`synthagent rollout`: an agent attempts tasks."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated

import typer

from synthagent.api.v1 import rollout_pb2, task_pb2, trajectory_pb2
from synthagent.cli.connection import Address, DataDir, run
from synthagent.cli.exits import ExitCode
from synthagent.cli.output import AsJson, counting, remark, say, write_json, write_table
from synthagent.cli.trajectory_rows import HEADS, json_row, table_row
from synthagent.client import SynthAgentClient
from synthagent.errors import InvalidInput
from synthagent.worlds.rewards import REWARD_PRESETS
from synthagent.worlds.spec import Split

_REFERENCES = ("gold", "noop", "careless", "forbidden", "pesterer")
_AGENTS = ("policy", "model", *_REFERENCES)


def _known_agent(name: str) -> str:
    if name not in _AGENTS:
        raise typer.BadParameter(f"there is no agent {name!r}; known are {', '.join(_AGENTS)}")
    return name


def _known_preset(name: str) -> str:
    if name not in REWARD_PRESETS:
        known = ", ".join(REWARD_PRESETS)
        raise typer.BadParameter(f"there is no preset {name!r}; known are {known}")
    return name


Preset = Annotated[
    str,
    typer.Option(
        callback=_known_preset,
        autocompletion=lambda: list(REWARD_PRESETS),
        help=f"Reward preset: {', '.join(REWARD_PRESETS)}.",
    ),
]


def rollout(
    *,
    task: Annotated[
        list[str] | None, typer.Option(help="Task to attempt; may be given again.")
    ] = None,
    split: Annotated[Split | None, typer.Option(help="Draw tasks of this split.")] = None,
    domain: Annotated[str, typer.Option(help="Attempt all tasks of this domain.")] = "",
    difficulty: Annotated[str, typer.Option(help="Only tasks of this difficulty.")] = "",
    count: Annotated[int, typer.Option(min=0, help="Most tasks; 0 means all.")] = 0,
    agent: Annotated[
        str,
        typer.Option(
            callback=_known_agent,
            autocompletion=lambda: list(_AGENTS),
            help="policy: the policy model; model: the chat model of the role teacher; or one of "
            f"known behaviour, which needs gold plans: {', '.join(_REFERENCES)}.",
        ),
    ] = "policy",
    group_size: Annotated[int, typer.Option(min=1, max=1024, help="Attempts at each task.")] = 1,
    max_turns: Annotated[int, typer.Option(min=1, max=1000, help="Most turns of the agent.")] = 16,
    preset: Preset = "paper",
    facts_in_instruction: Annotated[
        bool,
        typer.Option(
            "--facts-in-instruction",
            help="Tell the agent the private facts: the ablation of the information gap.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of order and sampling.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="Of the policy (default 1) or the model.")
    ] = None,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Of the policy.")] = 1.0,
    max_turn_tokens: Annotated[
        int,
        typer.Option(min=0, max=32_768, help="Most tokens of a turn; 0 means 256 for the policy."),
    ] = 0,
    policy: Annotated[str, typer.Option(help="Name of the policy.")] = "",
    max_episode_tokens: Annotated[
        int, typer.Option(min=0, help="Most tokens of an episode; 0 means 2,048. Of the policy.")
    ] = 0,
    run_id: Annotated[
        str, typer.Option(help="Name of the run; the name of an earlier one goes on with it.")
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Runs an agent on tasks and shows what each attempt was worth.

    Give --task, --split or --domain. An interrupted run goes on when the command is repeated with
    its --run-id. Exit code 1 says that some episode is INVALID.
    """
    if not (task or split or domain):
        raise typer.BadParameter("say which tasks: --task, --split or --domain")
    if task and (split or domain or difficulty or count):
        raise typer.BadParameter("--task names the tasks; give no other selection with it")
    spec = rollout_pb2.RunSpec(
        group_size=group_size,
        max_turns=max_turns,
        reward_preset=preset,
        seed=seed,
        facts_in_instruction=facts_in_instruction,
    )
    if agent == "policy":
        spec.policy.policy = policy
        spec.policy.max_episode_tokens = max_episode_tokens
        spec.policy.sampling.temperature = 1.0 if temperature is None else temperature
        spec.policy.sampling.top_p = top_p
        spec.policy.sampling.max_turn_tokens = max_turn_tokens or 256
    elif agent == "model":
        spec.model.max_turn_tokens = max_turn_tokens
        if temperature is not None:
            spec.model.temperature = temperature
    else:
        spec.reference = rollout_pb2.ReferenceAgent.Value(f"REFERENCE_AGENT_{agent.upper()}")
    spec.tasks.task_ids.extend(task or ())
    if split and not domain:
        spec.tasks.split = task_pb2.Split.Value(f"SPLIT_{split.name}")
        spec.tasks.difficulty = difficulty
        spec.tasks.count = count
    name = run_id or f"cli-{uuid.uuid4().hex[:16]}"

    async def work(client: SynthAgentClient) -> ExitCode:
        if domain:
            spec.tasks.task_ids.extend(await _of_domain(client, domain, split, difficulty, count))
        return await _roll_out(client, name, spec, as_json=as_json)

    run(address, data_dir, work, as_json=as_json)


async def _of_domain(
    client: SynthAgentClient, domain: str, split: Split | None, difficulty: str, count: int
) -> list[str]:
    """The tasks of a domain. Raises InvalidInput where there is none."""
    listed = client.list_tasks(split=split, domain=domain, difficulty=difficulty)
    found = [summary.task_id async for summary in listed]
    if not found:
        raise InvalidInput(f"No stored task fits domain {domain!r}; see `synthagent tasks list`.")
    return found[:count] if count else found


async def _roll_out(
    client: SynthAgentClient, run_id: str, spec: rollout_pb2.RunSpec, *, as_json: bool
) -> ExitCode:
    run_now = await client.create_run(run_id, spec)
    remark(f"Run {run_id}. After an interruption, repeat the command with --run-id {run_id}.")
    with counting() as bar:
        line = bar.add_task("episodes", total=run_now.progress.episodes_total)
        bar.update(line, completed=run_now.progress.episodes_ended)
        async for run_now in client.watch_run(run_id):
            bar.update(line, completed=run_now.progress.episodes_ended)
    trajectories = [each async for each in client.list_trajectories(run_id)]
    _report(run_now, trajectories, as_json=as_json)
    done = run_now.state == rollout_pb2.RUN_STATE_SUCCEEDED
    return ExitCode.DONE if done and not run_now.progress.episodes_invalid else ExitCode.PARTLY


def _report(
    run_now: rollout_pb2.Run, trajectories: Sequence[trajectory_pb2.Trajectory], *, as_json: bool
) -> None:
    progress = run_now.progress
    state = rollout_pb2.RunState.Name(run_now.state).removeprefix("RUN_STATE_").lower()
    if as_json:
        write_json(
            {
                "run_id": run_now.run_id,
                "state": state,
                "episodes": progress.episodes_ended,
                "invalid": progress.episodes_invalid,
                "mean_reward": progress.mean_reward,
                "reward_sem": progress.reward_sem,
                "policy_tokens": progress.policy_tokens,
                "trajectories": [json_row(each) for each in trajectories],
            }
        )
        return
    write_table(f"Run {run_now.run_id}", HEADS, [table_row(each) for each in trajectories])
    valid = progress.episodes_ended - progress.episodes_invalid
    say(
        f"{state}: {progress.episodes_ended} episodes, {progress.episodes_invalid} INVALID, mean "
        f"reward {progress.mean_reward:.3f} (SEM {progress.reward_sem:.3f}, n {valid})."
    )
