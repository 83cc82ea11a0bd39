"""Data of other projects, read and written without loss.

`release` maps items in the authors' released form to tasks and back; `personas` reads persona
JSONL. Pure: files in, values out, no network. What cannot be understood is reported with its place
(`findings`), never dropped in silence.
"""

from synthagent.interchange.documents import Document, Unreadable, read_documents
from synthagent.interchange.findings import Note, Rejection, Unparsed
from synthagent.interchange.personas import ImportedPersona, read_personas
from synthagent.interchange.release import (
    DOMAIN,
    FORMAT,
    Imported,
    from_item,
    read_released,
    to_item,
)

__all__ = [
    "DOMAIN",
    "FORMAT",
    "Document",
    "Imported",
    "ImportedPersona",
    "Note",
    "Rejection",
    "Unparsed",
    "Unreadable",
    "from_item",
    "read_documents",
    "read_personas",
    "read_released",
    "to_item",
]
