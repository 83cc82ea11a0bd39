"""The rubric judge: turns an episode into a verdict."""
