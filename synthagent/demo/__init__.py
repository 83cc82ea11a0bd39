"""The walk through everything: `make demo`. Uses the system only as its users do."""
