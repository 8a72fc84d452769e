"""The route table: which handler answers at which address."""

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from handlers.bounties import BountiesHandler, BountyHandler, BountyStatusHandler
from handlers.console import ConsoleSchemaHandler, ConsoleTokenHandler
from handlers.conversations import (
    ConversationHandler,
    ConversationsHandler,
    MessagesHandler,
    MessageStatusHandler,
    TypingHandler,
)
from handlers.dashboard import DashboardHandler, HistoryHandler
from handlers.devices import PushTokensHandler
from handlers.documents import AsyncApiHandler, OpenApiHandler
from handlers.events import EventsHandler, SubscribeInfoHandler
from handlers.health import (
    DetailedHealthHandler,
    EventsStatsHandler,
    HealthHandler,
    IndexHandler,
    MessagesStatsHandler,
)
from handlers.messages import MessagesHandler as MessagesSocketHandler
from handlers.metrics import MetricsHandler
from handlers.notifications import NotificationsHandler, NotificationsReadHandler, PreferencesHandler
from handlers.pages import NO_MARKUP_FROM_TEXT, STATIC, FileHandler
from handlers.route import Route

_ID = r"([^/]+)"
# The dashboard's charts are drawn by uPlot, as it comes with this package.
_CHARTS = Path(str(distribution("youplot").locate_file("youplot/vendor")))
_CHART_FILES = r"(uplot\.iife\.min\.js|uplot\.min\.css)"
_FILE = r"([\w.-]+)"

# Every address that is answered. The documents are made from it.
ROUTES = [
    Route(r"/events/subscribe", EventsHandler),
    Route(r"/messages/subscribe", MessagesSocketHandler),
    Route(r"/api/conversations", ConversationsHandler),
    Route(rf"/api/conversations/{_ID}", ConversationHandler),
    Route(rf"/api/conversations/{_ID}/messages", MessagesHandler),
    Route(rf"/api/conversations/{_ID}/messages/status", MessageStatusHandler),
    Route(rf"/api/conversations/{_ID}/typing", TypingHandler),
    Route(r"/api/bounties", BountiesHandler),
    Route(rf"/api/bounties/{_ID}", BountyHandler),
    Route(rf"/api/bounties/{_ID}/status", BountyStatusHandler),
    Route(r"/api/notifications", NotificationsHandler),
    Route(r"/api/notifications/read", NotificationsReadHandler),
    Route(r"/api/notification-preferences", PreferencesHandler),
    Route(r"/api/push-tokens", PushTokensHandler),
    Route(r"/health", HealthHandler),
    Route(r"/health/detailed", DetailedHealthHandler),
    Route(r"/events/stats", EventsStatsHandler),
    Route(r"/messages/stats", MessagesStatsHandler),
    Route(r"/events/subscribe-info", SubscribeInfoHandler),
    Route(r"/metrics", MetricsHandler),
    Route(r"/dashboard/stream", DashboardHandler),
    Route(r"/dashboard/history", HistoryHandler),
    Route(r"/dashboard", FileHandler, {"root": STATIC / "dashboard" / "index.html"}),
    Route(rf"/static/vendor/{_CHART_FILES}", FileHandler, {"root": _CHARTS}),
    Route(rf"/static/dashboard/{_FILE}", FileHandler, {"root": STATIC / "dashboard"}),
    Route(r"/", IndexHandler),
    Route(r"/docs/openapi\.json", OpenApiHandler),
    Route(r"/docs/asyncapi\.json", AsyncApiHandler),
    # The files at the top of static/ are for every client; a folder belongs to the page that it is of.
    Route(rf"/static/{_FILE}", FileHandler, {"root": STATIC}),
]

# Only where the console is on: a tool of development, and so no part of the documents.
_CONSOLE: dict[str, Any] = {"root": STATIC / "console", "more_policy": NO_MARKUP_FROM_TEXT}
CONSOLE_ROUTES = [
    Route(r"/console/schema\.json", ConsoleSchemaHandler),
    Route(r"/console/token", ConsoleTokenHandler),
    Route(r"/console/?", FileHandler, _CONSOLE | {"root": STATIC / "console" / "index.html"}),
    Route(rf"/console/{_FILE}", FileHandler, _CONSOLE),
]
