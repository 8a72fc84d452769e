-- What a badge's count may cost is bounded for the person too, not only for each conversation.
-- depends: 0022-notification-indexes

-- How many messages of others a person has not read, in the conversations that their list shows: of one conversation
-- counted up to 1,000, and among its newest 2,000 past the cursor (one's own do not move it); in all up to 10,000.
CREATE OR REPLACE FUNCTION realtime_unread(person uuid) RETURNS int LANGUAGE sql STABLE AS $$
    SELECT count(*)::int FROM (
        SELECT FROM conversation_participants p JOIN conversations c ON c.id = p.conversation_id
        CROSS JOIN LATERAL (
            SELECT FROM (
                SELECT m.sender_id FROM messages m
                WHERE m.conversation_id = p.conversation_id AND m.seq > p.read_seq ORDER BY m.seq DESC LIMIT 2000
            ) newest
            WHERE newest.sender_id <> person LIMIT 1000
        ) counted
        WHERE p.user_id = person AND c.last_seq > p.read_seq AND (p.hidden_seq IS NULL OR c.last_seq > p.hidden_seq)
        LIMIT 10000
    ) unread
$$;
