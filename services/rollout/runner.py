"""Runs one episode from wherever it is: gathers its task, its log and its parts, and lets it go on.

An `EpisodeRunner` owns nothing but references. Each run loads the episode's log from the database,
so the first start, a restart and a takeover from another replica are one and the same.
"""

from __future__ import annotations

from services.rollout.agents import ScriptedAgent
from services.rollout.counterparts import RemoteCounterparts
from services.rollout.episode import Agent, Episode
from services.rollout.journal import EpisodeJournal, JournalWriter
from services.rollout.model_speaker import ModelSpeaker
from services.rollout.order import noise_seed, ordinal_of
from services.rollout.policies import Policies
from services.rollout.prompt import with_facts_in_instruction
from services.rollout.speakers import PolicySpeaker, ReferenceSpeaker
from services.rollout.spec import RunSpec
from services.rollout.traced import TracedAgent, TracedCounterparts
from services.rollout.transcript import Transcript
from synthagent import accounts, tracing
from synthagent.client import SynthAgentClient
from synthagent.llm import Models
from synthagent.metrics import ServerMetrics
from synthagent.store import Store, TaskCache, episodes, runs
from synthagent.store.episodes import LeaseLost, StoredEpisode, StoredTrajectory
from synthagent.worlds.episode import EpisodeEnd, EpisodeOutcome, InvalidReason, Verdict
from synthagent.worlds.spec import Task

_KEPT_RUNS = 64
"""Runs whose specification is kept; the oldest goes first, and is read again where it is needed."""


class EpisodeRunner:
    """Runs episodes that this process holds under the lease name `owner`."""

    def __init__(
        self,
        store: Store,
        tasks: TaskCache,
        client: SynthAgentClient,
        policies: Policies,
        models: Models,
        *,
        metrics: ServerMetrics,
        owner: str,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._client = client
        self._policies = policies
        self._models = models
        self._metrics = metrics
        self._owner = owner
        self._writer = JournalWriter(store)
        self._runs: dict[str, tuple[RunSpec, int]] = {}

    async def run(self, stored: StoredEpisode) -> None:
        """Brings the episode to its end.

        Raises LeaseLost where it is no longer ours, and what the store raises.
        """
        spec, total = await self._spec(stored.run_id)
        task, _ = await self._tasks.get_certified(stored.task_id)
        trajectory = await self._load(stored)
        counterparts = RemoteCounterparts(
            self._client,
            trajectory_id=stored.trajectory_id,
            task_id=stored.task_id,
            reward_preset=spec.reward_preset,
        )
        episode = Episode(
            agent=TracedAgent(await self._agent(stored, spec, task, trajectory), stored.agent),
            counterparts=TracedCounterparts(counterparts),
            journal=self._journal(trajectory, total),
            events=trajectory.events,
            max_turns=spec.max_turns,
            reward_preset=spec.reward_preset,
        )
        attributes = {
            tracing.OPERATION: "invoke_agent",
            tracing.AGENT: stored.agent,
            tracing.CONVERSATION: stored.trajectory_id,
            "synthagent.run_id": stored.run_id,
            "synthagent.task_id": stored.task_id,
        }
        context = tracing.episode(stored.trajectory_id)
        with (
            accounts.charged(stored.run_id),
            tracing.span(f"invoke_agent {stored.agent}", attributes, context=context),
        ):
            self._count(stored, *await episode.run())

    async def close(self) -> None:
        """Returns once what episodes wrote is committed."""
        await self._writer.close()

    async def give_up(self, stored: StoredEpisode, detail: str) -> None:
        """Ends an episode that cannot be run as a fault. Raises as `run`."""
        spec, total = await self._spec(stored.run_id)
        trajectory = await self._load(stored)
        reason = InvalidReason.MALFORMED_LOG
        end = EpisodeEnd(outcome=EpisodeOutcome.FAULT, invalid_reason=reason, detail=detail)
        verdict = Verdict(
            reward=None, invalid_reason=reason, detail=detail, reward_preset=spec.reward_preset
        )
        await self._journal(trajectory, total).end(len(trajectory.events), end, verdict)
        self._count(stored, end, verdict)

    async def _spec(self, run_id: str) -> tuple[RunSpec, int]:
        """The run's specification and the number of its episodes; kept, because neither changes."""
        if run_id not in self._runs:
            run = await self._store.read(lambda c: runs.get(c, run_id))
            if run is None:
                raise LeaseLost(f"run {run_id} is not there")
            spec = RunSpec.model_validate_json(run.spec)
            while len(self._runs) >= _KEPT_RUNS:
                del self._runs[next(iter(self._runs))]
            self._runs[run_id] = (spec, spec.episodes_total(len(run.task_ids)))
        return self._runs[run_id]

    async def _load(self, stored: StoredEpisode) -> StoredTrajectory:
        if stored.fresh:
            return StoredTrajectory(stored)
        found = await self._store.read(lambda c: episodes.load(c, stored.trajectory_id))
        if found is None:
            raise LeaseLost(f"episode {stored.trajectory_id} is not there")
        return found

    def _journal(self, trajectory: StoredTrajectory, total: int) -> EpisodeJournal:
        return EpisodeJournal(
            self._writer,
            trajectory_id=trajectory.episode.trajectory_id,
            run_id=trajectory.episode.run_id,
            owner=self._owner,
            episodes_total=total,
            segments=trajectory.segments,
        )

    async def _agent(
        self, stored: StoredEpisode, spec: RunSpec, task: Task, trajectory: StoredTrajectory
    ) -> Agent:
        if spec.facts_in_instruction:
            task = with_facts_in_instruction(task)
        if spec.reference:
            chat = await self._policies.demonstration_chat()
            transcript = Transcript(chat, task, trajectory.segments) if chat else None
            script = ScriptedAgent(
                spec.reference, task, facts_in_instruction=spec.facts_in_instruction
            )
            return ReferenceSpeaker(script, transcript)
        noise = noise_seed(spec.seed, ordinal_of(stored.group_id), stored.index)
        if spec.model:
            model = self._models.need(spec.model.role)
            return ModelSpeaker(model, task, spec.model, key=stored.trajectory_id, noise_seed=noise)
        if spec.policy is None:
            raise TypeError(f"run {stored.run_id} has no agent")
        engine = await self._policies.engine()
        return PolicySpeaker(
            engine,
            Transcript(engine.chat, task, trajectory.segments),
            spec.policy,
            key=stored.trajectory_id,
            noise_seed=noise,
            metrics=self._metrics,
        )

    def _count(self, stored: StoredEpisode, end: EpisodeEnd, verdict: Verdict) -> None:
        self._metrics.episodes.labels(stored.agent, end.outcome.value).inc()
        if verdict.reward is not None:
            self._metrics.reward.labels(stored.agent).observe(verdict.reward)
        elif verdict.invalid_reason:
            self._metrics.episodes_invalid.labels(verdict.invalid_reason.value).inc()
