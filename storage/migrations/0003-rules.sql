-- What the database itself holds to: a gapless seq, one message a key, one conversation a pair.
-- depends: 0002-backfill

ALTER TABLE messages ALTER COLUMN seq SET NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS messages_conversation_seq ON messages (conversation_id, seq);
CREATE UNIQUE INDEX IF NOT EXISTS messages_sender_key ON messages (sender_id, client_message_id);
CREATE UNIQUE INDEX IF NOT EXISTS conversations_direct_key ON conversations (direct_key);
CREATE UNIQUE INDEX IF NOT EXISTS conversation_participants_pair ON conversation_participants (conversation_id, user_id);
CREATE INDEX IF NOT EXISTS conversation_participants_user ON conversation_participants (user_id, conversation_id);
CREATE INDEX IF NOT EXISTS bounties_newest ON bounties (created_at DESC, id);
CREATE INDEX IF NOT EXISTS bounties_status_newest ON bounties (status, created_at DESC, id);

-- Other writers (psql, the app's earlier backend) know no seq: theirs is given here, under the same lock.
CREATE OR REPLACE FUNCTION realtime_number_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE conversations SET last_seq = last_seq + 1, updated_at = now()
    WHERE id = NEW.conversation_id RETURNING last_seq INTO NEW.seq;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER realtime_number_message BEFORE INSERT ON messages
    FOR EACH ROW WHEN (NEW.seq IS NULL) EXECUTE FUNCTION realtime_number_message();

-- Who joins later starts at the end: history is there to read, but nothing of it is unread, or takes back a tick.
CREATE OR REPLACE FUNCTION realtime_start_cursors() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    newest bigint := (SELECT last_seq FROM conversations WHERE id = NEW.conversation_id);
BEGIN
    NEW.delivered_seq := greatest(NEW.delivered_seq, newest);
    NEW.read_seq := greatest(NEW.read_seq, newest);
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER realtime_start_cursors BEFORE INSERT ON conversation_participants
    FOR EACH ROW EXECUTE FUNCTION realtime_start_cursors();

-- A wake-up for the servers: who takes part in this conversation has changed.
CREATE OR REPLACE FUNCTION realtime_participants_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify('realtime_participants', coalesce(NEW.conversation_id, OLD.conversation_id)::text);
    -- What one of two was taken out of is no pair's any more: the two may begin another.
    IF TG_OP = 'DELETE' THEN
        UPDATE conversations SET direct_key = NULL WHERE id = OLD.conversation_id AND direct_key IS NOT NULL;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER realtime_participants_changed AFTER INSERT OR DELETE ON conversation_participants
    FOR EACH ROW EXECUTE FUNCTION realtime_participants_changed();
