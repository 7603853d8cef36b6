-- Certificates, what became of them, and the audit log.
--
-- Text that is compared or sorted has the collation "C", so that a database's language changes nothing and an index
-- serves a search by prefix. Serials are 16 octets that begin with the time, so new rows go to the right edge of their
-- primary key.

-- What the log of audit entries ends with. Whoever writes an entry locks this row first and so has the end of the log,
-- and of the changes, for itself until it commits: see writer.go.
CREATE TABLE head (
    one       boolean PRIMARY KEY DEFAULT true CHECK (one),
    seq       bigint NOT NULL,          -- of the newest audit entry
    hash      bytea NOT NULL,           -- its hash
    base_seq  bigint NOT NULL,          -- of the newest entry that was dropped after it was archived
    base_hash bytea NOT NULL,
    position  bigint NOT NULL           -- of the newest row in changes
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO head (seq, hash, base_seq, base_hash, position)
VALUES (0, decode(repeat('00', 32), 'hex'), 0, decode(repeat('00', 32), 'hex'), 0);

CREATE TABLE audit (
    seq  bigint PRIMARY KEY,
    hash bytea NOT NULL,
    body bytea NOT NULL                 -- JSON, as octets: a requester may have sent what a text column cannot hold
);

CREATE TABLE certificates (
    serial     bytea PRIMARY KEY,
    not_before timestamptz NOT NULL,
    not_after  timestamptz NOT NULL,
    issued_at  timestamptz NOT NULL,
    shard      bigint NOT NULL,
    issuer     text COLLATE "C" NOT NULL,
    client_id  text COLLATE "C" NOT NULL,
    profile    text COLLATE "C" NOT NULL,
    thumbprint bytea NOT NULL,
    parent     bytea,                   -- of a renewal: the serial that it renews
    names      jsonb NOT NULL,          -- list of texts
    search     text COLLATE "C" NOT NULL, -- the names in lower case, one a line
    der        bytea                    -- none where a restore lost it and only its revocation is left
);
CREATE INDEX certificates_by_client ON certificates (client_id, serial);
CREATE INDEX certificates_by_thumbprint ON certificates (thumbprint);
CREATE INDEX certificates_by_expiry ON certificates (not_after, serial);

-- A certificate's row is never written again: what is revoked or held stands here, and only here.
CREATE TABLE revocations (
    serial     bytea PRIMARY KEY,
    revoked_at timestamptz NOT NULL,
    not_after  timestamptz NOT NULL,    -- the certificate's
    shard      bigint NOT NULL,
    reason     smallint NOT NULL,       -- RFC 5280 section 5.3.1
    issuer     text COLLATE "C" NOT NULL,
    thumbprint bytea NOT NULL
);
CREATE INDEX revocations_by_thumbprint ON revocations (thumbprint);
CREATE INDEX revocations_by_shard ON revocations (issuer, shard, serial);

-- Every revocation, hold and release, in the order in which they became durable.
CREATE TABLE changes (
    position   bigint PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    not_after  timestamptz NOT NULL,
    shard      bigint NOT NULL,
    reason     smallint NOT NULL,
    released   boolean NOT NULL,
    issuer     text COLLATE "C" NOT NULL,
    serial     bytea NOT NULL
);
CREATE INDEX changes_by_shard ON changes (issuer, shard, position);

-- How many certificates name each CRL, and when the last of them ends.
CREATE TABLE shards (
    issuer       text COLLATE "C",
    shard        bigint,
    certificates bigint NOT NULL,
    not_after    timestamptz NOT NULL,
    PRIMARY KEY (issuer, shard)
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE invitations (
    id           text COLLATE "C" PRIMARY KEY,
    secret_hash  bytea NOT NULL,
    client_id    text COLLATE "C" NOT NULL,
    profile      text COLLATE "C" NOT NULL,
    names        bytea NOT NULL,        -- JSON of ca.Names
    lifetime     bigint NOT NULL,       -- ns
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    spent_serial bytea,                 -- the certificate that it gave, with
    spent_use    bytea                  -- what tells a retry from another attempt
);
CREATE INDEX invitations_by_expiry ON invitations (expires_at);

-- Written to see whether anything can be.
CREATE TABLE probe (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    data bytea NOT NULL
);
ALTER TABLE probe ALTER COLUMN data SET STORAGE EXTERNAL;
INSERT INTO probe (data) VALUES ('');
