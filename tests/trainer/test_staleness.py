from __future__ import annotations

import numpy as np
import pytest

from synthagent.errors import Corrupt
from trainer.episodes import Episode
from trainer.packing import Sample
from trainer.staleness import Age, age_of, measure, require_fresh


def episode(name: str, sampled_tokens: dict[int, int]) -> Episode:
    ids = np.arange(3)
    sample = Sample(name, ids, np.array([False, True, True]), np.zeros(3, dtype=np.float32), 1)
    return Episode(sample, 1.0, sampled_tokens)


def test_tokens_and_episodes_are_as_old_as_the_version_that_sampled_them() -> None:
    ages = [
        age_of(episode("a", {5: 30, 6: 10}), 7),
        age_of(episode("b", {7: 20}), 7),
        age_of(episode("no policy", {}), 7),
    ]
    assert ages[0] == Age("a", {2: 30, 1: 10})
    assert measure(ages) == {
        "staleness": pytest.approx((2 * 30 + 1 * 10) / 60),
        "staleness_max": 2,
        "episode_staleness": 1,
    }
    assert set(measure([]).values()) == {0.0}


def test_what_is_older_than_allowed_is_refused_by_name() -> None:
    ages = [age_of(episode("fine", {6: 1}), 7), age_of(episode("run.3.1", {4: 1, 7: 9}), 7)]
    require_fresh(ages, 3, 7)
    with pytest.raises(Corrupt, match=r"run\.3\.1 was sampled by policy version 4, 3 before ver"):
        require_fresh(ages, 2, 7)


def test_what_is_newer_than_the_policy_that_trains_is_refused() -> None:
    with pytest.raises(Corrupt, match="sampled by policy version 8, which is newer than version 7"):
        require_fresh([age_of(episode("r.0.0", {8: 1}), 7)], 2, 7)
