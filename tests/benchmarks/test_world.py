from benchmarks.world import calls, stockroom
from synthagent.worlds.certify import admit
from synthagent.worlds.engine import compile_world


def test_the_timed_world_is_certified() -> None:
    certificate = admit(stockroom()).certificate
    assert certificate is not None
    assert certificate.passed


def test_every_timed_call_succeeds_and_a_cycle_ends_where_it_began() -> None:
    with compile_world(stockroom().world).open() as session:
        begun = session.state_hash
        hashes = []
        for tool, arguments in calls(8):
            assert session.call(tool, arguments).ok
            hashes.append(session.state_hash)
    assert hashes[3] == hashes[7] == begun
    assert len(set(hashes)) == 2
