-- The chain's face: who took a job, who has it, and how it ended.
--
-- A settling statement begins by deleting the lease that goes with its token. No row: no lease, and nothing else of
-- the statement happens either, since all of it hangs on that row. This is the fence.

-- name: claim
-- Who is served next: the highest priority, and then whoever came first.
WITH next AS MATERIALIZED (
    SELECT id FROM antiphon.jobs
    WHERE status = 'pending' AND (next_attempt_at IS NULL OR next_attempt_at <= now())
    ORDER BY priority DESC, seq
    LIMIT 1
    FOR UPDATE SKIP LOCKED
), job AS (
    UPDATE antiphon.jobs
    SET status = 'running', attempt = attempt + 1, started_at = now(), next_attempt_at = NULL
    FROM next WHERE jobs.id = next.id
    RETURNING jobs.*
), lease AS (
    INSERT INTO antiphon.leases (job_id, token, tenant_id, replica, lease_until, progress)
    SELECT id, $1, tenant_id, $2, now() + make_interval(secs => $3), progress FROM job
)
SELECT * FROM job;

-- name: renew
UPDATE antiphon.leases SET lease_until = now() + make_interval(secs => $3)
FROM unnest($1::uuid[], $2::uuid[]) AS held (job_id, token)
WHERE leases.job_id = held.job_id AND leases.token = held.token
RETURNING leases.token;

-- name: report
UPDATE antiphon.leases SET progress = held.progress
FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[]) AS held (job_id, token, progress)
WHERE leases.job_id = held.job_id AND leases.token = held.token;

-- name: commit
WITH lease AS (
    DELETE FROM antiphon.leases WHERE job_id = $1 AND token = $2 RETURNING *
), attempt AS (
    INSERT INTO antiphon.attempts (token, job_id, tenant_id, replica, started_at, outcome)
    SELECT token, job_id, tenant_id, replica, claimed_at, 'completed' FROM lease
), transcript AS (
    INSERT INTO antiphon.transcripts (job_id, tenant_id, transcript)
    SELECT job_id, tenant_id, $4 FROM lease
), upload AS (
    UPDATE antiphon.uploads SET job_id = NULL, discarded = true FROM lease WHERE uploads.job_id = lease.job_id
)
UPDATE antiphon.jobs
SET status = 'completed', completed_at = now(), progress = $3, usage = $5, warnings = $6, secrets = NULL, uploads = '{}'
FROM lease WHERE jobs.id = lease.job_id
RETURNING jobs.id;

-- name: fail
-- $3 outcome, $4 problem, $5 seconds until the next attempt or NULL for none, $6 progress or NULL for the lease's.
WITH lease AS (
    DELETE FROM antiphon.leases WHERE job_id = $1 AND token = $2 RETURNING *
), attempt AS (
    INSERT INTO antiphon.attempts (token, job_id, tenant_id, replica, started_at, outcome, problem)
    SELECT token, job_id, tenant_id, replica, claimed_at, $3, $4 FROM lease
), fate AS (
    SELECT lease.job_id, coalesce($6, lease.progress) AS progress,
        $5::float8 IS NOT NULL AND attempt < max_attempts AS again
    FROM lease JOIN antiphon.jobs ON jobs.id = lease.job_id
), upload AS (
    UPDATE antiphon.uploads SET job_id = NULL, discarded = true
    FROM fate WHERE uploads.job_id = fate.job_id AND NOT again
), retried AS (
    UPDATE antiphon.jobs
    SET status = 'pending', started_at = NULL, next_attempt_at = now() + make_interval(secs => $5), last_error = $4,
        progress = jsonb_set(fate.progress, '{stage}', '"pending"')
    FROM fate WHERE jobs.id = fate.job_id AND again
), failed AS (
    UPDATE antiphon.jobs
    SET status = 'failed', completed_at = now(), error = $4, progress = fate.progress, secrets = NULL, uploads = '{}'
    FROM fate WHERE jobs.id = fate.job_id AND NOT again
)
SELECT job_id FROM fate;

-- name: give_back
WITH lease AS (
    DELETE FROM antiphon.leases WHERE job_id = $1 AND token = $2 RETURNING *
), attempt AS (
    INSERT INTO antiphon.attempts (token, job_id, tenant_id, replica, started_at, outcome)
    SELECT token, job_id, tenant_id, replica, claimed_at, 'given back' FROM lease
)
UPDATE antiphon.jobs
SET status = 'pending', started_at = NULL, attempt = attempt - 1, progress = jsonb_set($3, '{stage}', '"pending"')
FROM lease WHERE jobs.id = lease.job_id
RETURNING jobs.id;

-- name: cancel
WITH lease AS (
    DELETE FROM antiphon.leases WHERE job_id = $1 AND token = $2 RETURNING *
), attempt AS (
    INSERT INTO antiphon.attempts (token, job_id, tenant_id, replica, started_at, outcome)
    SELECT token, job_id, tenant_id, replica, claimed_at, 'cancelled' FROM lease
), upload AS (
    UPDATE antiphon.uploads SET job_id = NULL, discarded = true FROM lease WHERE uploads.job_id = lease.job_id
)
UPDATE antiphon.jobs
SET status = 'cancelled', completed_at = now(), progress = $3, secrets = NULL, uploads = '{}'
FROM lease WHERE jobs.id = lease.job_id
RETURNING jobs.id;

-- name: settled
-- Whether an attempt has ended already, and in this very way.
SELECT true FROM antiphon.attempts WHERE token = $1 AND outcome = $2;

-- name: expired
-- $1: all leases, run out or not. Those that another replica rescues at this moment are left to it.
SELECT leases.job_id, token, attempt, max_attempts
FROM antiphon.leases JOIN antiphon.jobs ON jobs.id = leases.job_id
WHERE $1 OR lease_until <= now()
ORDER BY lease_until
LIMIT 500
FOR UPDATE OF leases SKIP LOCKED;
