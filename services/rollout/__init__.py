"""The rollout service: runs groups of episodes and serves what happened in them."""
