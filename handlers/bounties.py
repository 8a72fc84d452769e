"""Bounties over REST. A change of status only changes the row; the event stream hears of it from the database."""

from handlers.operation import operation
from handlers.rest import RestHandler
from protocol.answers import Bounties, OneBounty, Pagination
from protocol.codes import AppError, ErrorCode
from protocol.inbound import ChangeStatus, NewBounty
from protocol.queries import BountiesQuery


class BountiesHandler(RestHandler):
    """``/api/bounties``"""

    open_methods = frozenset({"GET", "HEAD"})

    @operation(answer=Bounties, query=BountiesQuery)
    async def get(self) -> None:
        """List bounties, newest first."""
        query = self.query(BountiesQuery)
        bounties, has_more = await self.context.stored_bounties.page(query.status, query.page, query.limit)
        pagination = Pagination(page=query.page, limit=query.limit, has_more=has_more)
        self.answer(Bounties(bounties=bounties, pagination=pagination))

    @operation(answer=OneBounty, statuses=(201,), body=NewBounty)
    async def post(self) -> None:
        """Post a bounty."""
        body = self.body(NewBounty)
        bounty = await self.context.stored_bounties.create(
            await self.known_user(), body.title, body.description, body.amount_cents, body.is_for_honor
        )
        self.answer(OneBounty(bounty=bounty), 201)


class BountyHandler(RestHandler):
    """``/api/bounties/{id}``"""

    authenticate = False

    @operation(answer=OneBounty, errors=(ErrorCode.NOT_FOUND,))
    async def get(self, bounty: str) -> None:
        """Return one bounty."""
        self.answer(OneBounty(bounty=await self.context.stored_bounties.get(self.id_of(bounty, "id"))))


class BountyStatusHandler(RestHandler):
    """``/api/bounties/{id}/status``"""

    @operation(
        answer=OneBounty, body=ChangeStatus, errors=(ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND, ErrorCode.UNKNOWN_USER)
    )
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
        self.answer(OneBounty(bounty=await store.change_status(bounty_id, body.status, body.hunter_id)))
