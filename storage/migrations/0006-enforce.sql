-- Every message has its place, and every conversation its newest. Checked without a lock that a writer would wait for:
-- SET NOT NULL believes a validated constraint and does not look at the rows again.
-- transactional: false
-- depends: 0005-backfill

ALTER TABLE messages DROP CONSTRAINT IF EXISTS messages_seq_given,
    ADD CONSTRAINT messages_seq_given CHECK (seq IS NOT NULL) NOT VALID;
ALTER TABLE messages VALIDATE CONSTRAINT messages_seq_given;
ALTER TABLE messages ALTER COLUMN seq SET NOT NULL;
ALTER TABLE messages DROP CONSTRAINT messages_seq_given;

ALTER TABLE conversations DROP CONSTRAINT IF EXISTS conversations_last_seq_given,
    ADD CONSTRAINT conversations_last_seq_given CHECK (last_seq IS NOT NULL) NOT VALID;
ALTER TABLE conversations VALIDATE CONSTRAINT conversations_last_seq_given;
ALTER TABLE conversations ALTER COLUMN last_seq SET NOT NULL;
ALTER TABLE conversations DROP CONSTRAINT conversations_last_seq_given;

SET lock_timeout = 0;
DROP INDEX CONCURRENTLY IF EXISTS messages_unnumbered;
DROP INDEX CONCURRENTLY IF EXISTS conversations_unnumbered;
