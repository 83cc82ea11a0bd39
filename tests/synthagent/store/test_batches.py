from synthagent.store import Store, batches, episodes
from synthagent.store.episodes import (
    Append,
)
from tests.synthagent.store.test_episodes import EVENTS, SEGMENTS


async def test_weights_are_in_batch_order(admitted: Store) -> None:
    item = Append("r.0.1", EVENTS[:2], SEGMENTS)
    await admitted.write(lambda c: episodes.append(c, [item]))
    found = await admitted.read(lambda c: batches.weights(c, "r", 0))
    assert [(w.trajectory_id, w.tokens, w.events, w.ended) for w in found] == [
        ("r.0.0", 0, 0, False),
        ("r.0.1", 3, 2, False),
        ("r.1.0", 0, 0, False),
        ("r.1.1", 0, 0, False),
    ]


async def test_the_first_to_name_a_batch_wins(filled: Store) -> None:
    await filled.write(lambda c: batches.create_batch(c, "r", 0, "r.step-0", ["a", "b"]))
    await filled.write(lambda c: batches.create_batch(c, "r", 0, "r.step-0", ["c"]))
    assert await filled.read(lambda c: batches.batch(c, "r", 0)) == ("a", "b")
    assert await filled.read(lambda c: batches.batch(c, "r", 1)) is None
