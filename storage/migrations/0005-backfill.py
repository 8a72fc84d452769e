"""Rows that were there before: their seq, cursors and keys. See storage/backfill.py."""

from yoyo import step

from storage.backfill import backfill

__depends__ = {"0004-bounty-events"}
__transactional__ = False  # in batches, each of them a transaction

steps = [step(backfill)]
