-- The tables of the marketplace that realtime needs. Each may exist already, with rows and more columns
-- (a Supabase project of the app): what is missing is added, nothing is taken away.
-- Each statement is a transaction of its own, so that no table stays locked while the next is waited for, and can be
-- run again after a lock that was not to be had.
-- transactional: false
-- depends:

CREATE TABLE IF NOT EXISTS profiles (
    id uuid PRIMARY KEY,
    username text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS bounties (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    creator_id uuid REFERENCES profiles (id) ON DELETE SET NULL,
    hunter_id uuid REFERENCES profiles (id) ON DELETE SET NULL,
    title text NOT NULL,
    description text DEFAULT '',
    amount_cents bigint NOT NULL DEFAULT 0,
    is_for_honor boolean NOT NULL DEFAULT false,
    status text NOT NULL DEFAULT 'open',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE bounties ADD COLUMN IF NOT EXISTS creator_id uuid REFERENCES profiles (id) ON DELETE SET NULL;
ALTER TABLE bounties ADD COLUMN IF NOT EXISTS hunter_id uuid REFERENCES profiles (id) ON DELETE SET NULL;
ALTER TABLE bounties ADD COLUMN IF NOT EXISTS amount_cents bigint NOT NULL DEFAULT 0;
ALTER TABLE bounties ADD COLUMN IF NOT EXISTS is_for_honor boolean NOT NULL DEFAULT false;
-- A status that the wire knows and an older table's check does not must be storable. What an older table holds besides
-- stays: never validated.
ALTER TABLE bounties DROP CONSTRAINT IF EXISTS bounties_status_check, ADD CONSTRAINT bounties_status_check CHECK (
    status IN ('open', 'in_progress', 'completed', 'archived', 'deleted', 'cancelled', 'cancellation_requested')
) NOT VALID;

CREATE TABLE IF NOT EXISTS conversations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    is_group boolean NOT NULL DEFAULT false,
    bounty_id uuid REFERENCES bounties (id) ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
-- The newest message's seq; who holds this row's lock gives out the next. NULL: not numbered yet (0005-backfill), so
-- rows that are there already have none, and new ones begin at 0.
ALTER TABLE conversations ADD COLUMN IF NOT EXISTS last_seq bigint, ALTER COLUMN last_seq SET DEFAULT 0;
-- Names the one conversation of two people about one bounty (or none); null for groups.
ALTER TABLE conversations ADD COLUMN IF NOT EXISTS direct_key text;

CREATE TABLE IF NOT EXISTS conversation_participants (
    conversation_id uuid NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
    joined_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (conversation_id, user_id)
);
ALTER TABLE conversation_participants ADD COLUMN IF NOT EXISTS delivered_seq bigint NOT NULL DEFAULT 0;
ALTER TABLE conversation_participants ADD COLUMN IF NOT EXISTS read_seq bigint NOT NULL DEFAULT 0;
-- Hidden by its user while last_seq has not passed this: a new message brings it back without a write.
ALTER TABLE conversation_participants ADD COLUMN IF NOT EXISTS hidden_seq bigint;

CREATE TABLE IF NOT EXISTS messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    sender_id uuid NOT NULL REFERENCES profiles (id) ON DELETE CASCADE,
    text text NOT NULL,
    media_url text,
    reply_to uuid REFERENCES messages (id) ON DELETE SET NULL,
    is_pinned boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE messages ADD COLUMN IF NOT EXISTS seq bigint;
ALTER TABLE messages ADD COLUMN IF NOT EXISTS client_message_id text;
