-- In-app notifications, who wants which, and the devices of people. Each table may exist already, with rows.
-- depends: 0010-analytics

-- What we make is closed to the app's direct clients; a table that is there keeps its own policies.
DO $$
BEGIN
    IF to_regclass('notifications') IS NULL THEN
        CREATE TABLE notifications (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            user_id uuid NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
            title text NOT NULL
        );
        ALTER TABLE notifications ENABLE ROW LEVEL SECURITY;
    END IF;
    IF to_regclass('notification_preferences') IS NULL THEN
        CREATE TABLE notification_preferences (user_id uuid PRIMARY KEY REFERENCES profiles (id) ON DELETE CASCADE);
        ALTER TABLE notification_preferences ENABLE ROW LEVEL SECURITY;
    END IF;
    IF to_regclass('push_tokens') IS NULL THEN
        CREATE TABLE push_tokens (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            user_id uuid NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
            token text NOT NULL
        );
        ALTER TABLE push_tokens ENABLE ROW LEVEL SECURITY;
    END IF;
END
$$;

ALTER TABLE notifications ADD COLUMN IF NOT EXISTS type text NOT NULL DEFAULT 'system';
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS body text;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS data jsonb;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS is_read boolean DEFAULT false;
ALTER TABLE notifications ADD COLUMN IF NOT EXISTS created_at timestamptz DEFAULT now();
-- A kind that the wire knows and an older table's check does not must be storable.
ALTER TABLE notifications DROP CONSTRAINT IF EXISTS notifications_type_check;

ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS applications_enabled boolean DEFAULT true;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS acceptances_enabled boolean DEFAULT true;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS completions_enabled boolean DEFAULT true;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS payments_enabled boolean DEFAULT true;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS messages_enabled boolean DEFAULT true;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS follows_enabled boolean DEFAULT true;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS reminders_enabled boolean DEFAULT true;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS system_enabled boolean DEFAULT true;
-- Wall-clock times, "22:00", in a time zone of the IANA's database. All three or none.
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS quiet_start text;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS quiet_end text;
ALTER TABLE notification_preferences ADD COLUMN IF NOT EXISTS quiet_time_zone text;
ALTER TABLE conversation_participants ADD COLUMN IF NOT EXISTS muted boolean NOT NULL DEFAULT false;

ALTER TABLE push_tokens ADD COLUMN IF NOT EXISTS id uuid DEFAULT gen_random_uuid();
ALTER TABLE push_tokens ADD COLUMN IF NOT EXISTS device_id text;
ALTER TABLE push_tokens ADD COLUMN IF NOT EXISTS updated_at timestamptz DEFAULT now();

-- A table of the app's may name the mark otherwise; both names stay filled, whoever writes.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM information_schema.columns
        WHERE table_schema = current_schema() AND table_name = 'notifications' AND column_name = 'read'
    ) THEN
        UPDATE notifications SET is_read = "read" WHERE is_read IS DISTINCT FROM "read";
        CREATE FUNCTION realtime_notification_aliases() RETURNS trigger LANGUAGE plpgsql AS $f$
        BEGIN
            IF TG_OP = 'INSERT' THEN
                NEW.is_read := coalesce(NEW.is_read, false) OR coalesce(NEW."read", false);
            ELSIF NEW."read" IS DISTINCT FROM OLD."read" THEN
                NEW.is_read := NEW."read";
            END IF;
            NEW."read" := NEW.is_read;
            RETURN NEW;
        END
        $f$;
        CREATE TRIGGER realtime_notification_aliases BEFORE INSERT OR UPDATE ON notifications
            FOR EACH ROW EXECUTE FUNCTION realtime_notification_aliases();
    END IF;
END
$$;

-- A wake-up for the servers: what this person has not read has changed.
CREATE FUNCTION realtime_notifications_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF coalesce(NEW.user_id, OLD.user_id) IS NOT NULL THEN
        PERFORM pg_notify('realtime_notifications', coalesce(NEW.user_id, OLD.user_id)::text);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER realtime_notifications_changed AFTER INSERT OR DELETE ON notifications
    FOR EACH ROW EXECUTE FUNCTION realtime_notifications_changed();
CREATE TRIGGER realtime_notifications_read AFTER UPDATE ON notifications
    FOR EACH ROW WHEN (OLD.is_read IS DISTINCT FROM NEW.is_read) EXECUTE FUNCTION realtime_notifications_changed();

-- The creator and the hunter of a bounty learn of its new status. A table that refuses the row (a check or a column
-- of the app's own) must not keep the status from changing.
CREATE FUNCTION realtime_notify_bounty_status() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO notifications (user_id, type, title, body, data)
    SELECT DISTINCT person,
        CASE NEW.status WHEN 'in_progress' THEN 'acceptances' WHEN 'completed' THEN 'completions' ELSE 'system' END,
        NEW.title,
        CASE NEW.status
            WHEN 'cancellation_requested' THEN 'Its cancellation was requested.'
            ELSE 'It is now ' || replace(NEW.status, '_', ' ') || '.'
        END,
        jsonb_build_object('bountyId', NEW.id, 'status', NEW.status)
    FROM unnest(ARRAY[NEW.creator_id, NEW.hunter_id]) person WHERE person IS NOT NULL;
    RETURN NULL;
EXCEPTION WHEN others THEN
    RAISE WARNING 'no notification of bounty %: %', NEW.id, SQLERRM;
    RETURN NULL;
END
$$;
CREATE TRIGGER realtime_bounty_status_notification AFTER UPDATE ON bounties
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION realtime_notify_bounty_status();
