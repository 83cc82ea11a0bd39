"""Generated from proto/synthagent/api/v1 by `make proto`; never edited."""
