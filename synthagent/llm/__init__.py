"""The one door to language models: all questions to OpenAI-compatible servers go through it.

`Models` holds a `LanguageModel` per configured role (teacher, tool, user, judge). A question ends,
within its deadline, in an `Answer` or in one of ModelUnavailable, ModelRefused, ModelTruncated,
ModelMalformed and ModelFault; never in a default. `connection` speaks HTTP, `concurrency` adapts
the requests in flight, `structure` holds answers to a schema, `prompts` renders what is sent.
"""

from synthagent.llm.answers import Answer, Message, Meter, Usage, metered
from synthagent.llm.language_model import LanguageModel
from synthagent.llm.models import ROLES, Models, RoleName

__all__ = [
    "ROLES",
    "Answer",
    "LanguageModel",
    "Message",
    "Meter",
    "Models",
    "RoleName",
    "Usage",
    "metered",
]
