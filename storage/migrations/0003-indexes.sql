-- What is found by, and what can't be twice. Built while others write (CONCURRENTLY), before the backfill: it finds its
-- way by them, and they keep it from giving a place twice.
-- transactional: false
-- depends: 0002-rules

-- Building waits for transactions that are older, and nobody waits for it meanwhile.
SET lock_timeout = 0;

-- What was being built when an earlier attempt was ended is there, and worth nothing.
DO $$
DECLARE
    half_made regclass;
BEGIN
    FOR half_made IN
        SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid AND indexrelid::regclass::text IN (
            'messages_conversation_seq', 'messages_unnumbered', 'messages_sender_key', 'conversations_direct_key',
            'conversations_unnumbered', 'conversation_participants_pair', 'conversation_participants_user',
            'bounties_newest', 'bounties_status_newest'
        )
    LOOP
        EXECUTE 'DROP INDEX ' || half_made;
    END LOOP;
END
$$;

CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS messages_conversation_seq ON messages (conversation_id, seq);
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS messages_sender_key ON messages (sender_id, client_message_id);
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS conversations_direct_key ON conversations (direct_key);
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS conversation_participants_pair
    ON conversation_participants (conversation_id, user_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS conversation_participants_user
    ON conversation_participants (user_id, conversation_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS bounties_newest ON bounties (created_at DESC, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS bounties_status_newest ON bounties (status, created_at DESC, id);

-- For the backfill alone; 0006-enforce drops them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS messages_unnumbered
    ON messages (conversation_id, created_at, id) WHERE seq IS NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS conversations_unnumbered ON conversations (id) WHERE last_seq IS NULL;
