import services.rollout.policy  # noqa: F401 - before torch: it keeps idle OpenMP threads asleep
