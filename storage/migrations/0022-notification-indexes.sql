-- How notifications, preferences and devices are found. Built while others write, as in 0003-indexes.
-- transactional: false
-- depends: 0021-push

-- Building waits for transactions that are older, and nobody waits for it meanwhile.
SET lock_timeout = 0;

-- What was being built when an earlier attempt was ended is there, and worth nothing.
DO $$
DECLARE
    half_made regclass;
BEGIN
    FOR half_made IN
        SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid AND indexrelid::regclass::text IN (
            'notifications_newest', 'notifications_unread', 'notification_preferences_user', 'push_tokens_of_user',
            'push_tokens_token'
        )
    LOOP
        EXECUTE 'DROP INDEX ' || half_made;
    END LOOP;
END
$$;

CREATE INDEX CONCURRENTLY IF NOT EXISTS notifications_newest ON notifications (user_id, created_at DESC, id DESC);
CREATE INDEX CONCURRENTLY IF NOT EXISTS notifications_unread ON notifications (user_id, created_at DESC, id DESC)
    WHERE is_read IS NOT TRUE;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS notification_preferences_user ON notification_preferences (user_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS push_tokens_of_user ON push_tokens (user_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS push_tokens_token ON push_tokens (token);
