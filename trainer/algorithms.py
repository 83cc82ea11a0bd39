"""The algorithms of reinforcement learning, as data: what each sets where a configuration does not.

An algorithm is a choice of advantage, aggregation, ratio and bounds; nothing else in the trainer
knows its name. A configuration that sets a key itself wins over its algorithm. Values are those of
the papers; where a paper leaves one open, it is left to the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Advantage(StrEnum):
    """How rewards become advantages."""

    GROUP_STANDARDISED = "group_standardised"
    """Reward minus the group's mean, over the group's standard deviation."""
    GROUP_CENTRED = "group_centred"
    """Reward minus the group's mean."""
    LEAVE_ONE_OUT = "leave_one_out"
    """Reward minus the mean of the group's other rewards."""
    BATCH_STANDARDISED = "batch_standardised"
    """Reward minus the batch's mean, over the batch's standard deviation."""


class Aggregation(StrEnum):
    """How the losses of tokens become the loss of an update."""

    TOKEN = "token"  # noqa: S105 - of text, not of access
    """Mean over all policy tokens of the update."""
    SEQUENCE = "sequence"
    """Mean over episodes of each one's mean over its policy tokens."""
    SEQUENCE_SUM = "sequence_sum"
    """Mean over episodes of each one's sum over its policy tokens."""
    CONSTANT = "constant"
    """As `sequence_sum`, over the most tokens that an episode may have."""


class Ratio(StrEnum):
    """What is compared with the policy that sampled."""

    TOKEN = "token"  # noqa: S105 - of text, not of access
    """Each token's probability, clipped."""
    SEQUENCE = "sequence"
    """Each episode's probability, its geometric mean over policy tokens, clipped."""
    NONE = "none"
    """Nothing: plain policy gradient on the log-probability."""


@dataclass(frozen=True)
class Algorithm:
    """What an algorithm sets, by key of the configuration's [rl] section, and where it stands."""

    source: str
    settings: Mapping[str, object]


ALGORITHMS: Mapping[str, Algorithm] = {
    "grpo": Algorithm(
        "DeepSeekMath, arXiv 2402.03300, eq. 3 and section 4.1.2",
        {
            "advantage": Advantage.GROUP_STANDARDISED,
            "aggregation": Aggregation.SEQUENCE,
            "ratio": Ratio.TOKEN,
            "clip_low": 0.2,
            "clip_high": 0.2,
        },
    ),
    "dapo": Algorithm(
        "DAPO, arXiv 2503.14476, eq. 8 to 13",
        {
            "advantage": Advantage.GROUP_STANDARDISED,
            "aggregation": Aggregation.TOKEN,
            "ratio": Ratio.TOKEN,
            "clip_low": 0.2,
            "clip_high": 0.28,
            "oversampling": 2.0,
            "overlong_fraction": 0.2,
        },
    ),
    "dr_grpo": Algorithm(
        "Understanding R1-Zero-Like Training, arXiv 2503.20783, section 3.2",
        {
            "advantage": Advantage.GROUP_CENTRED,
            "aggregation": Aggregation.CONSTANT,
            "ratio": Ratio.TOKEN,
            "clip_low": 0.2,
            "clip_high": 0.2,
        },
    ),
    "gspo": Algorithm(
        "GSPO, arXiv 2507.18071, eq. 5 to 7; bounds of section 5.1",
        {
            "advantage": Advantage.GROUP_STANDARDISED,
            "aggregation": Aggregation.SEQUENCE,
            "ratio": Ratio.SEQUENCE,
            "clip_low": 3e-4,
            "clip_high": 4e-4,
        },
    ),
    "rloo": Algorithm(
        "Back to Basics, arXiv 2402.14740, section 3.3",
        {
            "advantage": Advantage.LEAVE_ONE_OUT,
            "aggregation": Aggregation.SEQUENCE_SUM,
            "ratio": Ratio.NONE,
        },
    ),
    "reinforce_plus_plus": Algorithm(
        "REINFORCE++, arXiv 2501.03262, section 3",
        {
            "advantage": Advantage.BATCH_STANDARDISED,
            "aggregation": Aggregation.TOKEN,
            "ratio": Ratio.TOKEN,
            "clip_low": 0.2,
            "clip_high": 0.2,
        },
    ),
}
