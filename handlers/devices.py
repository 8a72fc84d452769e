"""Devices over REST: the push tokens of the app's installations."""

from handlers.operation import operation
from handlers.rest import RestHandler
from protocol.notifications import PushToken


class PushTokensHandler(RestHandler):
    """``/api/push-tokens``"""

    @operation(answer=None, statuses=(204,), body=PushToken)
    async def post(self) -> None:
        """Register a device: from now on it is this user's and nobody else's."""
        body = self.body(PushToken)
        await self.context.devices.register(await self.known_user(), body.token, body.device_id)
        self.set_status(204)

    @operation(answer=None, statuses=(204,), body=PushToken)
    async def delete(self) -> None:
        """Forget a device of this user's; what is somebody else's, or nobody's, looks the same."""
        body = self.body(PushToken)
        await self.context.devices.unregister(self.user_id, body.token)
        self.set_status(204)
