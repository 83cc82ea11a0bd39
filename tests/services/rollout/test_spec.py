from services.rollout.agents import ReferenceAgent
from services.rollout.spec import RunSpec, Selection, digest
from synthagent.worlds.spec import Split


def test_what_is_not_used_changes_no_digest() -> None:
    spec = RunSpec(reference=ReferenceAgent.GOLD, tasks=Selection(split=Split.TRAIN))
    # Stored before there were such agents and such an ablation.
    assert "model" not in spec.canonical
    assert "facts_in_instruction" not in spec.canonical
    assert RunSpec.model_validate_json(spec.canonical) == spec
    told = spec.model_copy(update={"facts_in_instruction": True})
    assert '"facts_in_instruction":true' in told.canonical
    assert digest(told.canonical) != digest(spec.canonical)
    assert RunSpec.model_validate_json(told.canonical) == told
