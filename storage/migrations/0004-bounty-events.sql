-- The public event log: one row a committed new bounty or change of status, whoever made it.
-- depends: 0003-indexes

CREATE TABLE bounty_events (
    log_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Given by the relay, under a lock: log_id commits out of order, event_id is the order that clients see.
    event_id bigint UNIQUE,
    bounty_id uuid NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX bounty_events_unnumbered ON bounty_events (log_id) WHERE event_id IS NULL;
CREATE INDEX bounty_events_bounty ON bounty_events (bounty_id, event_id);
ALTER TABLE bounty_events ENABLE ROW LEVEL SECURITY;

-- One row: the newest event_id, and the lock under which the next are given.
CREATE TABLE bounty_event_head (last_event_id bigint NOT NULL);
INSERT INTO bounty_event_head VALUES (0);
ALTER TABLE bounty_event_head ENABLE ROW LEVEL SECURITY;

-- Definer's rights: whoever may change a bounty need not be able to write the log.
CREATE FUNCTION realtime_log_bounty_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO bounty_events (bounty_id, status) VALUES (NEW.id, NEW.status);
    PERFORM pg_notify('realtime_bounty_events', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER realtime_bounty_created AFTER INSERT ON bounties
    FOR EACH ROW EXECUTE FUNCTION realtime_log_bounty_event();
CREATE TRIGGER realtime_bounty_status AFTER UPDATE ON bounties
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION realtime_log_bounty_event();

-- Numbers what is not numbered yet, in log order, then returns the events after a position, oldest first.
-- Each statement of a volatile function sees what was committed when it began, so the row lock is enough.
CREATE FUNCTION realtime_relay_bounty_events(after_id bigint, batch integer)
RETURNS TABLE (event_id bigint, bounty_id uuid, status text, created_at timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    given bigint;
BEGIN
    IF EXISTS (SELECT FROM bounty_events e WHERE e.event_id IS NULL) THEN
        SELECT last_event_id INTO head FROM bounty_event_head FOR UPDATE;
        UPDATE bounty_events e SET event_id = head + fresh.place
        FROM (
            SELECT f.log_id, row_number() OVER (ORDER BY f.log_id) AS place
            FROM bounty_events f WHERE f.event_id IS NULL ORDER BY f.log_id LIMIT batch
        ) fresh
        WHERE e.log_id = fresh.log_id;
        GET DIAGNOSTICS given = ROW_COUNT;
        UPDATE bounty_event_head SET last_event_id = head + given;
    END IF;
    RETURN QUERY
        SELECT e.event_id, e.bounty_id, e.status, e.created_at FROM bounty_events e
        WHERE e.event_id > after_id ORDER BY e.event_id LIMIT batch;
END
$$;
