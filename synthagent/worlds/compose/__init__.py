"""The programmatic teacher: composes tasks out of archetypes, modules and domains, from a seed."""

from synthagent.worlds.compose.composer import ComposeError, Composer, difficulties, domains
from synthagent.worlds.compose.library import LibraryError

DIFFICULTIES = difficulties()

__all__ = ["DIFFICULTIES", "ComposeError", "Composer", "LibraryError", "difficulties", "domains"]
