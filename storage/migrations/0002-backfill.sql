-- Rows that were there before: their seq, cursors and keys. On new tables there is nothing to do.
-- depends: 0001-core

-- Triggers of the tables' own (updated_at = now(), say) rest meanwhile: what is filled in here is no change of a row.
CREATE TEMPORARY TABLE resting_triggers ON COMMIT DROP AS
    SELECT tgrelid::regclass::text AS of_table, quote_ident(tgname) AS name FROM pg_trigger
    WHERE NOT tgisinternal AND tgenabled = 'O' AND tgrelid IN (
        'messages'::regclass, 'conversations'::regclass, 'conversation_participants'::regclass, 'bounties'::regclass
    );
DO $$
DECLARE
    resting record;
BEGIN
    FOR resting IN SELECT * FROM resting_triggers LOOP
        EXECUTE 'ALTER TABLE ' || resting.of_table || ' DISABLE TRIGGER ' || resting.name;
    END LOOP;
END
$$;

UPDATE messages m SET seq = numbered.seq
FROM (
    SELECT id, row_number() OVER (PARTITION BY conversation_id ORDER BY created_at, id) AS seq
    FROM messages
) numbered
WHERE m.id = numbered.id AND m.seq IS NULL;

UPDATE conversations c SET last_seq = newest.seq
FROM (SELECT conversation_id, max(seq) AS seq FROM messages GROUP BY conversation_id) newest
WHERE c.id = newest.conversation_id AND c.last_seq = 0;

-- Who was already a participant has had the old messages by other ways: none of them is replayed or counted unread.
UPDATE conversation_participants p SET delivered_seq = c.last_seq, read_seq = c.last_seq
FROM conversations c
WHERE c.id = p.conversation_id AND c.last_seq > 0 AND p.delivered_seq = 0;

-- Two people may have several conversations from before; the newest is the one that is found again.
UPDATE conversations c SET direct_key = pairs.key
FROM (
    SELECT DISTINCT ON (key) id, key
    FROM (
        SELECT c2.id, c2.updated_at,
            min(p.user_id::text) || ':' || max(p.user_id::text) || ':' || coalesce(c2.bounty_id::text, '') AS key
        FROM conversations c2 JOIN conversation_participants p ON p.conversation_id = c2.id
        WHERE NOT c2.is_group
        GROUP BY c2.id
        HAVING count(*) = 2
    ) direct
    ORDER BY key, updated_at DESC
) pairs
WHERE c.id = pairs.id AND c.direct_key IS NULL;

-- The app's earlier tables name some things otherwise; both names stay filled, whoever writes.
DO $$
DECLARE
    body text := '';
    has_user boolean;
    has_poster boolean;
    has_amount boolean;
    has_deleted boolean;
BEGIN
    SELECT count(*) FILTER (WHERE table_name = 'bounties' AND column_name = 'user_id') > 0,
           count(*) FILTER (WHERE table_name = 'bounties' AND column_name = 'poster_id') > 0,
           count(*) FILTER (WHERE table_name = 'bounties' AND column_name = 'amount') > 0,
           count(*) FILTER (WHERE table_name = 'conversation_participants' AND column_name = 'deleted_at') > 0
    INTO has_user, has_poster, has_amount, has_deleted
    FROM information_schema.columns WHERE table_schema = current_schema();
    IF has_deleted THEN
        EXECUTE 'UPDATE conversation_participants p SET hidden_seq = c.last_seq FROM conversations c
                 WHERE c.id = p.conversation_id AND p.deleted_at IS NOT NULL AND p.hidden_seq IS NULL';
    END IF;
    IF has_user THEN
        EXECUTE 'UPDATE bounties SET creator_id = user_id WHERE creator_id IS NULL AND user_id IS NOT NULL';
        body := body || 'NEW.creator_id := coalesce(NEW.creator_id, NEW.user_id); NEW.user_id := coalesce(NEW.user_id, NEW.creator_id);';
    END IF;
    IF has_poster THEN
        EXECUTE 'UPDATE bounties SET creator_id = poster_id WHERE creator_id IS NULL AND poster_id IS NOT NULL';
        body := body || 'NEW.creator_id := coalesce(NEW.creator_id, NEW.poster_id); NEW.poster_id := coalesce(NEW.poster_id, NEW.creator_id);';
    END IF;
    IF has_amount THEN
        EXECUTE 'UPDATE bounties SET amount_cents = round(amount * 100) WHERE amount_cents = 0 AND amount > 0';
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

DO $$
DECLARE
    resting record;
BEGIN
    FOR resting IN SELECT * FROM resting_triggers LOOP
        EXECUTE 'ALTER TABLE ' || resting.of_table || ' ENABLE TRIGGER ' || resting.name;
    END LOOP;
END
$$;
