-- Pushes: what is owed to people who are away, on its way to Expo, and waiting for Expo's receipt.
-- depends: 0020-notifications

-- The badge that this device was last told to show; where it shows none, reading needs no push to clear it.
ALTER TABLE push_tokens ADD COLUMN IF NOT EXISTS badge_sent int NOT NULL DEFAULT 0;

-- Servers with pushes on. One is alive while it says so; its open messaging sockets, counted by person, are below.
CREATE TABLE push_servers (id uuid PRIMARY KEY, seen_at timestamptz NOT NULL);
CREATE INDEX push_servers_seen ON push_servers (seen_at);
CREATE TABLE push_presence (
    user_id uuid NOT NULL,
    server_id uuid NOT NULL REFERENCES push_servers (id) ON DELETE CASCADE,
    PRIMARY KEY (user_id, server_id)
);
CREATE INDEX push_presence_server ON push_presence (server_id);

-- The outbox, written with the message: one row for all that one sender writes in one conversation within the time in
-- which messages become one push. No foreign keys: each message would pay for their checks.
CREATE TABLE push_outbox (
    conversation_id uuid NOT NULL,
    sender_id uuid NOT NULL,
    from_seq bigint NOT NULL,
    upto_seq bigint NOT NULL,
    first_at timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, sender_id)
) WITH (fillfactor = 50);
CREATE INDEX push_outbox_first ON push_outbox (first_at);

-- What the outbox comes to for each device: one row, one push. Claimed while a server has it in its hands.
CREATE TABLE push_queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    token text NOT NULL,
    user_id uuid NOT NULL,
    what text NOT NULL CHECK (what IN ('messages', 'notification', 'badge')),
    conversation_id uuid,
    sender_id uuid,
    from_seq bigint,
    upto_seq bigint,
    notification_id uuid,
    first_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL DEFAULT now(),
    claimed_by uuid
);
CREATE INDEX push_queue_due ON push_queue (due_at);

-- Accepted by Expo; what became of it is asked for at due_at.
CREATE TABLE push_tickets (
    id text PRIMARY KEY,
    token text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL
);
CREATE INDEX push_tickets_due ON push_tickets (due_at);

ALTER TABLE push_servers ENABLE ROW LEVEL SECURITY;
ALTER TABLE push_presence ENABLE ROW LEVEL SECURITY;
ALTER TABLE push_outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE push_queue ENABLE ROW LEVEL SECURITY;
ALTER TABLE push_tickets ENABLE ROW LEVEL SECURITY;

-- Each token with whose it is: the person who registered it last.
CREATE VIEW realtime_push_tokens WITH (security_invoker = true) AS
SELECT t.token, t.user_id, t.badge_sent FROM push_tokens t
WHERE t.user_id IS NOT NULL AND t.token IS NOT NULL AND NOT EXISTS (
    SELECT FROM push_tokens n
    WHERE n.token = t.token AND n.user_id IS NOT NULL AND n.id <> t.id
        AND (coalesce(n.updated_at, '-infinity'), n.id) > (coalesce(t.updated_at, '-infinity'), t.id)
);

-- Whether a person has an open messaging socket at any server, or had one within the presence grace.
CREATE FUNCTION realtime_online(person uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM push_presence p JOIN push_servers s ON s.id = p.server_id
        WHERE p.user_id = person AND s.seen_at > now() - interval '10 seconds'
    )
$$;

-- How many messages of others a person has not read, in the conversations that their list shows; of one conversation
-- counted up to 1,000, so that nobody's neglect costs more than that.
CREATE FUNCTION realtime_unread(person uuid) RETURNS int LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(unread.count), 0)::int
    FROM conversation_participants p JOIN conversations c ON c.id = p.conversation_id
    CROSS JOIN LATERAL (
        SELECT count(*) FROM (
            SELECT FROM messages m
            WHERE m.conversation_id = p.conversation_id AND m.seq > p.read_seq AND m.sender_id <> person LIMIT 1000
        ) counted
    ) unread
    WHERE p.user_id = person AND c.last_seq > p.read_seq AND (p.hidden_seq IS NULL OR c.last_seq > p.hidden_seq)
$$;

-- A notification is pushed too, if a server with pushes on was there within the longest time that a push may be old.
CREATE FUNCTION realtime_owe_notification() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM push_servers WHERE seen_at > now() - interval '1 day') THEN
        INSERT INTO push_queue (token, user_id, what, notification_id)
        SELECT t.token, t.user_id, 'notification', NEW.id FROM realtime_push_tokens t WHERE t.user_id = NEW.user_id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER realtime_owe_notification AFTER INSERT ON notifications
    FOR EACH ROW WHEN (NEW.is_read IS NOT TRUE) EXECUTE FUNCTION realtime_owe_notification();
