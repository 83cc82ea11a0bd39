"""The user simulator: answers the agent's questions as the user of a task."""
