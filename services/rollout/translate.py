"""Between the messages of rollout.proto and this service's values."""

from __future__ import annotations

from pydantic import TypeAdapter

from services.rollout.agents import ReferenceAgent
from services.rollout.run_control import RunView
from services.rollout.spec import (
    DEFAULT_POLICY,
    ModelAgentSpec,
    PolicyAgentSpec,
    RunId,
    RunSpec,
    Selection,
    Training,
)
from synthagent.api.v1 import rollout_pb2 as pb
from synthagent.api.v1 import trajectory_pb2
from synthagent.convert import (
    OUTCOME,
    SPLIT,
    build,
    event_to_proto,
    sampling_from_proto,
    sampling_to_proto,
    segment_to_proto,
    timestamp,
    verdict_to_proto,
)
from synthagent.convert.parts import EnumTable, chosen, required
from synthagent.errors import InvalidInput
from synthagent.store.episodes import StoredTrajectory
from synthagent.store.runs import RunState
from synthagent.worlds.spec import Split

_AGENT = EnumTable(ReferenceAgent, pb.ReferenceAgent, "REFERENCE_AGENT")
_STATE = EnumTable(RunState, pb.RunState, "RUN_STATE")
_RUN_ID: TypeAdapter[str] = TypeAdapter(RunId)


def run_id_from(text: str) -> str:
    """A run_id for creation. Raises InvalidInput."""
    try:
        return _RUN_ID.validate_python(text)
    except ValueError as error:
        raise InvalidInput(
            f"run_id {text!r} does not fit; use 1 to 48 of a-z, 0-9 and -, not - first.",
            field="run_id",
        ) from error


def spec_from_proto(message: pb.RunSpec, path: str = "spec") -> RunSpec:
    """The specification of a message, defaults filled in. Raises InvalidInput."""
    reference = policy = model = None
    agent = chosen(message, "agent", path)
    if agent == "reference":
        reference = _AGENT.from_number(message.reference, f"{path}.reference")
    elif agent == "policy":
        policy = _policy_from_proto(message.policy, f"{path}.policy")
    else:
        model = _model_from_proto(message.model, f"{path}.model")
    return build(
        path,
        RunSpec,
        reference=reference,
        policy=policy,
        model=model,
        tasks=_selection_from_proto(message.tasks, required(message, "tasks", path)),
        group_size=message.group_size or 1,
        max_turns=message.max_turns or 16,
        reward_preset=message.reward_preset or "paper",
        seed=message.seed,
        training=_training_from_proto(message.training, f"{path}.training")
        if message.HasField("training")
        else None,
        facts_in_instruction=message.facts_in_instruction,
    )


def _model_from_proto(message: pb.ModelAgent, path: str) -> ModelAgentSpec:
    return build(
        path,
        ModelAgentSpec,
        role=message.role or "teacher",
        temperature=message.temperature if message.HasField("temperature") else None,
        max_turn_tokens=message.max_turn_tokens,
    )


def _policy_from_proto(message: pb.PolicyAgent, path: str) -> PolicyAgentSpec:
    return build(
        path,
        PolicyAgentSpec,
        policy=message.policy or DEFAULT_POLICY,
        sampling=sampling_from_proto(message.sampling, required(message, "sampling", path)),
        max_episode_tokens=message.max_episode_tokens or 2048,
    )


def _selection_from_proto(message: pb.TaskSelection, path: str) -> Selection:
    return build(
        path,
        Selection,
        task_ids=tuple(message.task_ids),
        split=SPLIT.from_optional(message.split, f"{path}.split"),
        difficulty=message.difficulty,
        count=message.count,
    )


def _training_from_proto(message: pb.TrainingSteps, path: str) -> Training:
    return build(
        path,
        Training,
        steps=message.steps,
        groups_per_step=message.groups_per_step,
        max_staleness=message.max_staleness,
        first_policy_version=message.first_policy_version,
    )


def spec_to_proto(spec: RunSpec) -> pb.RunSpec:
    """The message of a specification."""
    message = pb.RunSpec(
        tasks=pb.TaskSelection(
            task_ids=spec.tasks.task_ids,
            split=SPLIT.to_number(spec.tasks.split),
            difficulty=spec.tasks.difficulty,
            count=spec.tasks.count,
        ),
        group_size=spec.group_size,
        max_turns=spec.max_turns,
        reward_preset=spec.reward_preset,
        seed=spec.seed,
        facts_in_instruction=spec.facts_in_instruction,
    )
    if spec.reference:
        message.reference = _AGENT.to_number(spec.reference)
    if spec.policy:
        message.policy.policy = spec.policy.policy
        message.policy.sampling.CopyFrom(sampling_to_proto(spec.policy.sampling))
        message.policy.max_episode_tokens = spec.policy.max_episode_tokens
    if spec.model:
        message.model.role = spec.model.role
        message.model.max_turn_tokens = spec.model.max_turn_tokens
        if spec.model.temperature is not None:
            message.model.temperature = spec.model.temperature
    if spec.training:
        message.training.CopyFrom(pb.TrainingSteps(**spec.training.model_dump()))
    return message


def run_to_proto(view: RunView) -> pb.Run:
    """The message of a run as it is now."""
    return pb.Run(
        run_id=view.run.run_id,
        spec=spec_to_proto(view.spec),
        state=_STATE.to_number(view.run.state),
        progress=pb.RunProgress(
            episodes_total=view.episodes_total,
            episodes_ended=view.progress.ended,
            episodes_invalid=view.progress.invalid,
            mean_reward=view.progress.mean_reward,
            reward_sem=view.progress.reward_sem,
            policy_tokens=view.progress.policy_tokens,
        ),
        created_at=timestamp(view.run.created_at),
    )


def trajectory_to_proto(stored: StoredTrajectory, spec: RunSpec) -> trajectory_pb2.Trajectory:
    """The message of a trajectory, running or ended."""
    episode = stored.episode
    return trajectory_pb2.Trajectory(
        trajectory_id=episode.trajectory_id,
        run_id=episode.run_id,
        group_id=episode.group_id,
        index=episode.index,
        task_id=episode.task_id,
        agent=episode.agent,
        outcome=OUTCOME.to_number(episode.outcome),
        events=[
            event_to_proto(event, recorded_at)
            for event, recorded_at in zip(stored.events, stored.recorded_at, strict=True)
        ],
        segments=[segment_to_proto(segment) for segment in stored.segments],
        sampling=sampling_to_proto(spec.policy.sampling) if spec.policy else None,
        verdict=verdict_to_proto(episode.verdict) if episode.verdict else None,
        started_at=timestamp(episode.started_at) if episode.started_at is not None else None,
        ended_at=timestamp(episode.ended_at) if episode.ended_at is not None else None,
        split=SPLIT.to_number(Split(episode.split)),
        facts_in_instruction=spec.facts_in_instruction,
    )


def page_size_from(number: int) -> int:
    """The size of a page: 1 to 1,000, 100 where none is given. Raises InvalidInput."""
    if number > 1000:
        raise InvalidInput(f"page_size {number} is above 1000.", field="page_size")
    return number or 100


def cursor_from(page_token: str) -> int | None:
    """The position in a page token; None for an empty one. Raises InvalidInput."""
    if not page_token:
        return None
    if not (page_token.isascii() and page_token.isdigit() and len(page_token) <= 18):
        raise InvalidInput(
            f"page_token {page_token!r} is not one that a page gave.", field="page_token"
        )
    return int(page_token)
