-- Clients, keys, CRLs, and what may be used once.

-- What there is one of. The counts grow with every change of what nodes keep in memory: by them a node finds out that it
-- missed a notice.
CREATE TABLE state (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    clients     bigint NOT NULL,        -- how often a client was changed
    keys        bigint NOT NULL,        -- how often a key was
    restored_at timestamptz             -- when the store was brought back from a backup; null if never
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
INSERT INTO state (clients, keys) VALUES (0, 0);

CREATE TABLE clients (
    id      text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    record  json NOT NULL               -- of authserver.Client
);

CREATE TABLE keys (
    id      text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    use     text COLLATE "C" NOT NULL,
    record  json NOT NULL               -- of keyring.Key
);

-- The newest CRL of each shard. Its text is in blocks, of which it has most in common with the list before it: a new
-- list writes only those that changed, and a node that has the list before reads only those.
CREATE TABLE crls (
    issuer      text COLLATE "C",
    shard       bigint,
    number      bigint NOT NULL,
    this_update timestamptz NOT NULL,
    next_update timestamptz NOT NULL,
    blocks      bytea NOT NULL,         -- the hashes of its blocks, in their order, 32 octets each
    delta       bytea,                  -- the delta CRL that was published with it
    PRIMARY KEY (issuer, shard)
);
CREATE TABLE crl_blocks (
    issuer text COLLATE "C",
    shard  bigint,
    hash   bytea,                       -- SHA-256 of data
    data   bytea NOT NULL,
    PRIMARY KEY (issuer, shard, hash)
);
-- Half of each entry is random, and hashes are altogether: it would not become smaller.
ALTER TABLE crls ALTER COLUMN blocks SET STORAGE EXTERNAL, ALTER COLUMN delta SET STORAGE EXTERNAL;
ALTER TABLE crl_blocks ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE TABLE revoked_tokens (
    key   bytea PRIMARY KEY,            -- SHA-256 of the token's id
    until timestamptz NOT NULL
);
CREATE INDEX revoked_tokens_by_end ON revoked_tokens (until);

-- DPoP proofs and client assertions that were used. Rows come and go by the thousand.
CREATE TABLE uses (
    key   bytea PRIMARY KEY,
    until timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
CREATE INDEX uses_by_end ON uses (until);
