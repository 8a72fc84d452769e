"""Bounties over REST. A change of status only changes the row; the event stream hears of it from the database."""

from handlers.rest import RestHandler
from protocol.codes import AppError, ErrorCode
from protocol.inbound import BOUNTY_STATUSES, ChangeStatus, NewBounty

_MAX_PAGE_SIZE = 200


class BountiesHandler(RestHandler):
    """``/api/bounties``"""

    @property
    def authenticate(self) -> bool:  # type: ignore[override]
        """Whoever reads needs no token."""
        return self.request.method != "GET"

    async def get(self) -> None:
        """List bounties, newest first."""
        status = self.get_query_argument("status", None)
        if status is not None and status not in BOUNTY_STATUSES:
            reason = f"`status` is wrong: expected one of {', '.join(BOUNTY_STATUSES)}."
            raise AppError(ErrorCode.INVALID_REQUEST, reason)
        page, limit = self.number("page", 1, 1, 10_000), self.number("limit", 50, 1, _MAX_PAGE_SIZE)
        bounties, has_more = await self.context.stored_bounties.page(status, page, limit)
        self.answer({"bounties": bounties, "pagination": {"page": page, "limit": limit, "hasMore": has_more}})

    async def post(self) -> None:
        """Post a bounty."""
        body = self.body(NewBounty)
        bounty = await self.context.stored_bounties.create(
            await self.known_user(), body.title, body.description, body.amount_cents, body.is_for_honor
        )
        self.answer({"bounty": bounty}, 201)


class BountyHandler(RestHandler):
    """``/api/bounties/{id}``"""

    authenticate = False

    async def get(self, bounty: str) -> None:
        """Return one bounty."""
        self.answer({"bounty": await self.context.stored_bounties.get(self.id_of(bounty, "id"))})


class BountyStatusHandler(RestHandler):
    """``/api/bounties/{id}/status``"""

    async def post(self, bounty: str) -> None:
        """Change the status: the creator, the hunter, an admin or the service role."""
        bounty_id = self.id_of(bounty, "id")
        body = self.body(ChangeStatus)
        identity, store = self.identity, self.context.stored_bounties
        assert identity is not None
        current = await store.get(bounty_id)
        is_party = identity.user_id is not None and identity.user_id in (current.creator_id, current.hunter_id)
        if not (is_party or identity.is_admin or identity.is_service):
            raise AppError(ErrorCode.FORBIDDEN, "Only the bounty's creator or hunter may change its status.")
        self.answer({"bounty": await store.change_status(bounty_id, body.status, body.hunter_id)})
