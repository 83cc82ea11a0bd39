"""Proof by failure: episodes come out the same while faults of every kind strike the system."""
