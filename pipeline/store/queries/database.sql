-- Every transaction, and the schema.

-- name: enter
-- Who the rest of this transaction is, and whether its commit waits for the disk. A process that is stopped half way
-- keeps its locks, and its jobs out of everybody's reach: after so long the server ends the transaction, as it does
-- where nobody waits any more for what a statement will say.
SELECT set_config('role', $1, true), set_config('app.tenant_id', $2, true), set_config('synchronous_commit', $3, true),
    set_config('idle_in_transaction_session_timeout', '5s', true), set_config('statement_timeout', '5s', true);

-- name: ping
-- Some builds tell more behind the version.
SELECT split_part(current_setting('server_version'), ' ', 1);

-- name: ring
SELECT pg_notify($1, '');

-- name: wake
SELECT antiphon.wake($1);

-- name: begin_migrations
CREATE SCHEMA IF NOT EXISTS antiphon;
CREATE TABLE IF NOT EXISTS antiphon.migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: applied
SELECT number FROM antiphon.migrations;

-- name: record
INSERT INTO antiphon.migrations (number, name) VALUES ($1, $2);
