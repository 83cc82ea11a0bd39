"""Whether a user that a model plays kept to its rules: asked once of a model after an episode.

Lives beside the door to models because the judge asks it and the user is audited by it, and
services never import one another.
"""

from synthagent.llm.audit.user import audit

__all__ = ["audit"]
