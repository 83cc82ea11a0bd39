"""The tool mock: sessions of a task's world that answer tool calls."""
