"""The frames that each socket sends. Those that it takes are the unions at the decoders, in inbound."""

from protocol.dashboard import DashboardHello, DashboardUpdate
from protocol.notifications import NotificationNew, NotificationRead
from protocol.outbound import (
    AuthExpiring,
    AuthRefreshed,
    BountyStatusEvent,
    Connected,
    Connection,
    ConversationNew,
    Error,
    EventReplayComplete,
    Joined,
    Left,
    MessageAck,
    MessageDelivered,
    MessageNew,
    MessageRead,
    Pong,
    PresenceUpdate,
    ReplayComplete,
    ServerDraining,
    Subscribed,
    SyncComplete,
    TypingStart,
    TypingStop,
)

EventsServerFrame = Connection | BountyStatusEvent | EventReplayComplete | Subscribed | Pong | ServerDraining | Error
MessagesServerFrame = (
    Connected
    | MessageNew
    | MessageAck
    | MessageDelivered
    | MessageRead
    | TypingStart
    | TypingStop
    | PresenceUpdate
    | ConversationNew
    | NotificationNew
    | NotificationRead
    | Joined
    | Left
    | ReplayComplete
    | SyncComplete
    | AuthExpiring
    | AuthRefreshed
    | Pong
    | ServerDraining
    | Error
)
DashboardServerFrame = DashboardHello | DashboardUpdate | AuthExpiring | Pong | ServerDraining | Error
