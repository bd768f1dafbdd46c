-- The database of sessiond, as a new one is made. PRAGMA user_version is the version of this schema; what leads an older
-- one to it is in src/store/sqlite.rs. Times are integer milliseconds since the Unix epoch, UTC. Secrets are never
-- stored, only their SHA-256, or what the key file seals.

-- Facts about the whole file, one row each.
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;
-- 'epoch':      16 random bytes made with the file; cursors into events are good only for this epoch.
-- 'high_water': the largest time that was ever written; the clock never answers an earlier one.

CREATE TABLE sessions (
    -- UUIDv7, strictly growing: inserts append to the table and to this index. The token carries it, so that no
    -- index on a hash is needed.
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    app                 TEXT    NOT NULL,
    user_id             TEXT,              -- NULL: anonymous
    client_session_id   INTEGER,           -- an id that the client chose, unique per app among active ones
    token_hash          BLOB    NOT NULL CHECK (length(token_hash) = 32),
    previous_token_hash BLOB,              -- the replaced token after a renewal or a new sign-in, to recognise it
    renew_nonce         BLOB,              -- the current token was made with it by a renewal; erased after the grace
    grace_ends_at       INTEGER,           -- until when a renewed token is still good; NULL: its successor is not seen yet
    replaced_reported_at INTEGER,          -- when a use of the replaced token was last told
    name                TEXT,
    is_trusted          INTEGER NOT NULL DEFAULT 0 CHECK (is_trusted IN (0, 1)),
    user_agent          TEXT,              -- raw, bounded
    browser             TEXT,
    browser_version     TEXT,
    os                  TEXT,
    os_version          TEXT,
    device_type         TEXT,
    is_bot              INTEGER,           -- NULL: nothing is known about the device
    city                TEXT,
    country             TEXT,              -- ISO 3166-1 alpha-2
    ip_address          TEXT,              -- the first one seen, as far as addresses are kept
    last_ip_address     TEXT,              -- the latest, if it is another
    created_at          INTEGER NOT NULL,
    signed_in_at        INTEGER NOT NULL,  -- last authentication, else creation: limits and lists order by it
    authenticated_at    INTEGER,           -- when the credentials were verified; NULL: anonymous
    last_activity_at    INTEGER NOT NULL,
    idle_timeout        INTEGER NOT NULL CHECK (idle_timeout > 0),
    absolute_expires_at INTEGER NOT NULL,
    expires_at          INTEGER NOT NULL,  -- min(last_activity_at + idle_timeout, absolute_expires_at)
    ended_at            INTEGER,           -- NULL: not written down as ended; still over once expires_at has passed
    revoked_reason      TEXT,
    ended_by            TEXT CHECK (ended_by IN ('user', 'app', 'operator', 'limit', 'timeout', 'security')),
    auth                TEXT,              -- JSON object about the sign-in, bounded
    identities          TEXT,              -- JSON object: named identities beside the root one
    data_version        INTEGER NOT NULL DEFAULT 0,
    started_from        TEXT,              -- the network of a visitor who started it alone, or, where addresses are not
                                           -- kept whole, a fingerprint of it; NULL: a backend did
    expiring_notice     INTEGER CHECK (expiring_notice > 0), -- how long before a deadline that is told; NULL: never
    notice_at           INTEGER,           -- when to look next whether that is to be told; NULL: nothing to tell. Uses do
                                           -- not move it. absolute_expires_at - expiring_notice once nothing else is left
    sweep_at            INTEGER NOT NULL DEFAULT 0 CHECK (sweep_at <= expires_at), -- when the sweeper looks next whether
                                           -- it is over. Uses do not move it: who was used since is given another moment
                                           -- then. 0: made by an older version, and looked at at once
    CHECK (expires_at = min(last_activity_at + idle_timeout, absolute_expires_at)),
    CHECK ((ended_at IS NULL) = (revoked_reason IS NULL) AND (ended_at IS NULL) = (ended_by IS NULL))
) STRICT;

-- Counting, listing and finding the oldest among a user's active sessions, and, by its prefix, ending all of an app.
-- Partial, so that the ended ones of thirty days slow no sign-in down. With ended_at, always NULL here, as SQLite else
-- looks into each row to see that it is: a sign-in counts by this index alone.
CREATE INDEX sessions_active_by_user ON sessions (app, user_id, signed_in_at, id, ended_at) WHERE ended_at IS NULL;
-- The list of a user's ended sessions. A session is in this index or in the one above.
CREATE INDEX sessions_ended_by_user ON sessions (app, user_id, signed_in_at, id) WHERE ended_at IS NOT NULL;
-- The sweeper: deadlines that may have passed.
CREATE INDEX sessions_by_sweep ON sessions (sweep_at) WHERE ended_at IS NULL;
-- The purge: rows whose time is over.
CREATE INDEX sessions_by_ending ON sessions (ended_at) WHERE ended_at IS NOT NULL;
-- Holds what the code assumes about ids that clients choose; empty without them.
CREATE UNIQUE INDEX sessions_by_client_id ON sessions (app, client_session_id)
    WHERE ended_at IS NULL AND client_session_id IS NOT NULL;

-- The sweeper: nonces of renewals that are to be erased. Rows are here for some seconds after a renewal.
CREATE INDEX sessions_by_grace ON sessions (grace_ends_at)
    WHERE renew_nonce IS NOT NULL AND grace_ends_at IS NOT NULL;
-- The sweeper: sessions of which may be told that a deadline is near. Empty where none is to be told.
CREATE INDEX sessions_by_notice ON sessions (notice_at) WHERE notice_at IS NOT NULL AND ended_at IS NULL;
-- Counting what visitors of a network started within an hour; also what has ended since, or was given to a user.
CREATE INDEX sessions_by_visitor ON sessions (app, started_from, created_at) WHERE started_from IS NOT NULL;

-- Nested data of a session, apart from it so that lists and the cache stay small.
CREATE TABLE session_data (
    session_id BLOB NOT NULL PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
    data       TEXT NOT NULL                 -- JSON object, bounded
) STRICT, WITHOUT ROWID;

-- Settings of users who have any. Users are implicit: most have no row.
CREATE TABLE users (
    app                    TEXT    NOT NULL,
    user_id                TEXT    NOT NULL,
    tier                   TEXT,             -- NULL: the default tier
    max_sessions           INTEGER CHECK (max_sessions BETWEEN 0 AND 10000),
    is_blocked             INTEGER NOT NULL DEFAULT 0 CHECK (is_blocked IN (0, 1)),
    credentials_changed_at INTEGER,          -- sign-ins verified before this are refused
    PRIMARY KEY (app, user_id)
) STRICT, WITHOUT ROWID;

-- What users signed in with, to tell of a device that is new to one. At most a hundred a user: the one seen first longest
-- ago makes room. Kept beyond the retention of sessions: a device that comes back after a month is not new.
CREATE TABLE user_devices (
    app           TEXT    NOT NULL,
    user_id       TEXT    NOT NULL,
    browser       TEXT    NOT NULL,          -- without its version; '' if it is not known
    os            TEXT    NOT NULL,          -- likewise
    first_seen_at INTEGER NOT NULL,
    PRIMARY KEY (app, user_id, browser, os)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    app        TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    key_hash   BLOB    NOT NULL CHECK (length(key_hash) = 32),
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT, WITHOUT ROWID;

-- Creations that can be repeated for a day. Of the calls only fingerprints are kept, made with the API key's secret.
CREATE TABLE idempotency_keys (
    api_key_id  BLOB    NOT NULL,
    key_print   BLOB    NOT NULL CHECK (length(key_print) = 32),  -- of the caller's key for the call
    body_print  BLOB    NOT NULL CHECK (length(body_print) = 32), -- of what was asked for
    session_id  BLOB    NOT NULL,
    token_hash  BLOB    NOT NULL CHECK (length(token_hash) = 32), -- the session's first one: another means it changed
    nonce       BLOB    NOT NULL,                                 -- makes the same token again with the API key
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (api_key_id, key_print)
) STRICT, WITHOUT ROWID;
-- The purge: calls that are older than a day.
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- What happened; each row is written in the transaction of the change it tells of.
CREATE TABLE events (
    id                INTEGER PRIMARY KEY AUTOINCREMENT, -- grows and is never given twice: consumers keep it as cursor
    type              TEXT    NOT NULL,                  -- 'erased': of a user's event only id and age are left
    occurred_at       INTEGER NOT NULL,                  -- for an expired session its deadline
    recorded_at       INTEGER NOT NULL,                  -- when the row was written: the purge goes by it, in id order
    app               TEXT    NOT NULL,
    user_id           TEXT,
    session_id        BLOB,
    client_session_id INTEGER,
    reason            TEXT,
    ended_by          TEXT,
    device_info       TEXT,
    ip_address        TEXT,
    location          TEXT,
    data              TEXT                               -- JSON object: what only this type has
) STRICT;
-- The events of one user, or of one session while it is nobody's: what a person is shown. In the order of their ids, as every
-- entry of an index ends with the row's.
CREATE INDEX events_by_subject ON events (app, coalesce(user_id, session_id));

-- Where events are sent, by HTTP.
CREATE TABLE webhooks (
    id                   BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    app                  TEXT    NOT NULL,
    name                 TEXT    UNIQUE,           -- its name in the configuration; NULL: made by the API
    url                  TEXT    NOT NULL,
    types                TEXT    NOT NULL,         -- names of events with commas between them; empty: all
    description          TEXT,
    secret               BLOB    NOT NULL,         -- what it signs with, sealed with the key file
    previous_secret      BLOB,                     -- the one before a rotation, sealed; erased a day after it
    previous_valid_until INTEGER,
    state                TEXT    NOT NULL CHECK (state IN ('active', 'paused', 'disabled')),
    disabled_reason      TEXT,
    cursor               INTEGER NOT NULL,         -- the event up to which deliveries were made rows
    created_at           INTEGER NOT NULL,
    last_attempt_at      INTEGER,                  -- the latest attempt of any of its deliveries
    last_status          INTEGER,
    last_error           TEXT,
    CHECK ((previous_secret IS NULL) = (previous_valid_until IS NULL)),
    CHECK ((state = 'disabled') = (disabled_reason IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- Events on their way to a webhook, and those that were. What is sent is made from the event's row.
CREATE TABLE webhook_deliveries (
    webhook_id       BLOB    NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id         INTEGER NOT NULL,             -- no reference: a delivery may be kept longer than its event
    type             TEXT    NOT NULL,             -- the event's
    subject          TEXT    NOT NULL,             -- whom it concerns: those of one subject go one after the other
    state            TEXT    NOT NULL CHECK (state IN ('pending', 'delivered', 'failed', 'skipped')),
    attempts         INTEGER NOT NULL DEFAULT 0,
    first_attempt_at INTEGER,                      -- retries end a day after it
    next_attempt_at  INTEGER,
    last_attempt_at  INTEGER,
    last_status      INTEGER,
    last_error       TEXT,
    created_at       INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, event_id),
    CHECK ((state = 'pending') = (next_attempt_at IS NOT NULL))
) STRICT, WITHOUT ROWID;
-- The oldest pending delivery of each subject, and how many are pending.
CREATE INDEX webhook_deliveries_pending ON webhook_deliveries (webhook_id, subject, event_id) WHERE state = 'pending';
-- The purge: those that are done.
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at) WHERE state <> 'pending';
