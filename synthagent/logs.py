"""Structured logs on standard error, configured once by a process's main module.

Every module takes its logger by `structlog.get_logger()` and logs events as short nouns with
key-value pairs. Standard output is left to what a command was asked for.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from synthagent.tracing import add_trace


def configure(level: str, log_format: Literal["console", "json"]) -> None:
    """Sends the logs of this process, libraries' included, to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_trace,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The default also prints local variables, which may hold secrets.
            exception_formatter=structlog.dev.plain_traceback,
        )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=renderer)
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(number)
    for chatty in ("alembic", "sqlalchemy.engine", "openai", "httpx2", "httpcore2"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))
