"""The Berkeley Function Calling Leaderboard, answered by a policy and scored by its own checker."""
