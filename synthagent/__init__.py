"""Certified mock worlds, their services, and a trainer for small language-model agents."""
