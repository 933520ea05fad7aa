-- What any replica does for all: take back what is lost, let in what is due, erase what was kept for long enough.
--
-- $1 of the deletions: how many at most. Rows that another replica has in hand are left to it.

-- name: overdue
-- $1: all leases, run out or not.
SELECT leases.job_id, token, leases.tenant_id, attempt, losses
FROM antiphon.leases JOIN antiphon.jobs ON jobs.id = leases.job_id
WHERE $1 OR lease_until <= now()
ORDER BY lease_until
LIMIT $2
FOR UPDATE OF leases SKIP LOCKED;

-- name: leased
SELECT job_id, token, tenant_id FROM antiphon.leases WHERE token = ANY ($1);

-- name: due
WITH due AS MATERIALIZED (
    SELECT id FROM antiphon.jobs
    WHERE next_attempt_at <= now()
    ORDER BY next_attempt_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE antiphon.jobs SET next_attempt_at = NULL, ready_at = now()
FROM due WHERE jobs.id = due.id
RETURNING tenant_id;

-- name: fallen
-- Tenants out of the turn that have a job to claim and may run it; from one to the next along the index of head jobs.
-- One statement sees one moment, and who gives work lets its tenant in at the same one: so there are none.
WITH RECURSIVE waiting AS (
    (SELECT tenant_id FROM antiphon.jobs
    WHERE status = 'pending' AND next_attempt_at IS NULL AND losses = 0
    ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT tenant_id FROM antiphon.jobs
        WHERE status = 'pending' AND next_attempt_at IS NULL AND losses = 0 AND tenant_id > waiting.tenant_id
        ORDER BY tenant_id LIMIT 1)
    FROM waiting WHERE tenant_id IS NOT NULL
)
SELECT tenant_id FROM waiting LEFT JOIN antiphon.tenants USING (tenant_id)
WHERE tenant_id IS NOT NULL AND ready IS NOT true AND coalesce(
    (SELECT count(*) FROM antiphon.leases WHERE leases.tenant_id = waiting.tenant_id) < coalesce(max_running, $1),
    true);

-- name: expire_jobs
WITH batch AS MATERIALIZED (
    SELECT id FROM antiphon.jobs WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED
)
DELETE FROM antiphon.jobs USING batch WHERE jobs.id = batch.id RETURNING true;

-- name: expire_keys
WITH batch AS MATERIALIZED (
    SELECT tenant_id, key FROM antiphon.idempotency_keys
    WHERE created_at <= now() - make_interval(secs => $2)
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM antiphon.idempotency_keys AS old USING batch
WHERE old.tenant_id = batch.tenant_id AND old.key = batch.key
RETURNING true;

-- name: expire_deliveries
WITH batch AS MATERIALIZED (
    SELECT id FROM antiphon.deliveries
    WHERE next_try_at IS NULL AND created_at <= now() - make_interval(secs => $2)
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM antiphon.deliveries USING batch WHERE deliveries.id = batch.id RETURNING true;

-- name: health
SELECT * FROM antiphon.queue_depth, antiphon.queue_lately;

-- name: oldest_snapshot
SELECT coalesce(extract(epoch FROM max(now() - xact_start)), 0)::float8
FROM pg_stat_activity WHERE datname = current_database() AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid();
