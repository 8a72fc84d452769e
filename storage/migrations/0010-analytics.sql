-- What the dashboard shows over time: small rows that the servers write once a minute.
-- depends: 0006-enforce

-- One row a minute and server process. A process writes each minute once, so writing it again changes nothing.
CREATE TABLE analytics_minutes (
    minute timestamptz NOT NULL,
    instance uuid NOT NULL,
    messages integer NOT NULL,
    -- Whom those messages were for; and the messages, of whatever age, that reached or were read by one of them.
    recipients integer NOT NULL,
    delivered integer NOT NULL,
    read integer NOT NULL,
    -- How long that took: counts by the bounds in storage/analytics.py.
    delivered_after integer[] NOT NULL,
    read_after integer[] NOT NULL,
    conversations integer NOT NULL,
    connects integer NOT NULL,
    disconnects integer NOT NULL,
    errors integer NOT NULL,
    peak_connections integer NOT NULL,
    peak_people integer NOT NULL,
    PRIMARY KEY (minute, instance)
);
ALTER TABLE analytics_minutes ENABLE ROW LEVEL SECURITY;

-- Who was there in an hour, as a bitmap that a hash of each person sets one bit of: 8 KB however many they are, the
-- same whoever writes it how often, hours and processes are joined with OR, and nobody can be found in it.
CREATE TABLE analytics_hours (
    hour timestamptz PRIMARY KEY,
    people bit(65536) NOT NULL
);
ALTER TABLE analytics_hours ENABLE ROW LEVEL SECURITY;
