-- What the database itself does for whoever writes. First of all that touches rows: what is written while the rows from
-- before are filled in (0005-backfill) is whole already, or is left to that.
-- transactional: false
-- depends: 0001-core

-- Other writers (psql, the app's earlier backend) know no seq: theirs is given here, under the conversation's row lock.
-- A conversation that is not numbered yet has no last_seq, so NULL comes out: the message is numbered with the others.
CREATE OR REPLACE FUNCTION realtime_number_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.conversation_id IS NULL THEN
        NEW.seq := 0;  -- an earlier table may allow it; nobody ever sees such a message
    ELSE
        UPDATE conversations SET last_seq = last_seq + 1, updated_at = now()
        WHERE id = NEW.conversation_id RETURNING last_seq INTO NEW.seq;
    END IF;
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

-- The app's earlier tables name some things otherwise; both names stay filled, whoever writes.
DO $$
DECLARE
    body text := '';
    has_user boolean;
    has_poster boolean;
    has_amount boolean;
BEGIN
    SELECT count(*) FILTER (WHERE column_name = 'user_id') > 0,
           count(*) FILTER (WHERE column_name = 'poster_id') > 0,
           count(*) FILTER (WHERE column_name = 'amount') > 0
    INTO has_user, has_poster, has_amount
    FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = 'bounties';
    IF has_user THEN
        body := body || 'NEW.creator_id := coalesce(NEW.creator_id, NEW.user_id); NEW.user_id := coalesce(NEW.user_id, NEW.creator_id);';
    END IF;
    IF has_poster THEN
        body := body || 'NEW.creator_id := coalesce(NEW.creator_id, NEW.poster_id); NEW.poster_id := coalesce(NEW.poster_id, NEW.creator_id);';
    END IF;
    IF has_amount THEN
        body := body || 'IF NEW.amount IS NULL OR NEW.amount = 0 THEN NEW.amount := NEW.amount_cents / 100.0;
                         ELSIF NEW.amount_cents = 0 THEN NEW.amount_cents := round(NEW.amount * 100); END IF;';
    END IF;
    IF body <> '' THEN
        EXECUTE 'CREATE OR REPLACE FUNCTION realtime_bounty_aliases() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN '
                || body || ' RETURN NEW; END $f$';
        EXECUTE 'CREATE OR REPLACE TRIGGER realtime_bounty_aliases BEFORE INSERT ON bounties
                 FOR EACH ROW EXECUTE FUNCTION realtime_bounty_aliases()';
    END IF;
END
$$;
