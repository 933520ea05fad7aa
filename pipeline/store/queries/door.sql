-- The door's face: what a tenant does with its jobs. Row-level security holds, and every statement says so again.
--
-- The door changes no job by itself: cancelling and deleting are functions of the schema, which run as the chain.

-- name: submit
-- most: so many jobs of a tenant may wait, by its terms or by the setting $13. full: so many did already. near: so many
-- would if every connection to the server were submitting one at this moment.
WITH made AS (
    INSERT INTO antiphon.jobs (id, tenant_id, request, secrets, trace, uploads, priority, max_attempts, progress,
        callback_url, external_id, retention_seconds)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    RETURNING id, tenant_id, request, uploads, status, attempt, max_attempts, losses, created_at, started_at,
        completed_at, next_attempt_at, progress, error, last_error, usage, warnings
), terms (most) AS MATERIALIZED (
    SELECT coalesce((SELECT max_pending FROM antiphon.tenants WHERE tenant_id = $2), $13::integer)
), room AS MATERIALIZED (
    SELECT most, most - (
        SELECT count(*) FROM (
            SELECT FROM antiphon.jobs WHERE tenant_id = $2 AND status = 'pending' AND next_attempt_at IS NULL
            UNION ALL
            SELECT FROM antiphon.jobs WHERE tenant_id = $2 AND next_attempt_at IS NOT NULL
            LIMIT most
        ) AS waiting
    ) AS places
    FROM terms WHERE most IS NOT NULL
)
SELECT made.*, most, places <= 0 AS full, places <= current_setting('max_connections')::integer AS near
FROM made LEFT JOIN room ON true;

-- name: count_alone
-- Until the commit nobody else counts the jobs of this tenant.
SELECT pg_advisory_xact_lock(hashtextextended($1, 7578));  -- the seed after that of the turn

-- name: waiting
SELECT (SELECT count(*) FROM antiphon.jobs WHERE tenant_id = $1 AND status = 'pending' AND next_attempt_at IS NULL)
    + (SELECT count(*) FROM antiphon.jobs WHERE tenant_id = $1 AND next_attempt_at IS NOT NULL);

-- name: use_key
-- Waits for whoever uses the same key at this moment. No row: it is used.
INSERT INTO antiphon.idempotency_keys (tenant_id, key, digest, job_id)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING
RETURNING true;

-- name: wake_own
SELECT antiphon.wake_own();

-- name: made_with
-- A row without a job: it was kept for its retention, and the key is kept longer.
SELECT idempotency_keys.digest, jobs.id, jobs.tenant_id, request, uploads, max_attempts, jobs.created_at
FROM antiphon.idempotency_keys LEFT JOIN antiphon.jobs ON jobs.id = job_id
WHERE idempotency_keys.tenant_id = $1 AND key = $2;

-- name: get
SELECT id, jobs.tenant_id, request, uploads, status, attempt, max_attempts, losses, created_at, started_at,
    completed_at, next_attempt_at, coalesce(leases.progress, jobs.progress) AS progress, error, last_error, usage,
    warnings
FROM antiphon.jobs LEFT JOIN antiphon.leases ON leases.job_id = jobs.id
WHERE jobs.id = $1 AND jobs.tenant_id = $2;

-- name: transcript
-- A row without a transcript: the job is there and has none.
SELECT transcript
FROM antiphon.jobs LEFT JOIN antiphon.transcripts ON transcripts.job_id = jobs.id
WHERE jobs.id = $1 AND jobs.tenant_id = $2;

-- name: in_order
-- Before list: how many jobs a tenant has is kept from the planner, which would rather sort them all than read them in
-- the order of their index. Planned for what is asked: what is not has no part in choosing the index.
SELECT set_config('enable_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
    set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: list
-- A comparison that is always there is one that the index can use: hence the furthest values in place of NULL.
SELECT id, jobs.tenant_id, request, uploads, status, attempt, max_attempts, losses, created_at, started_at,
    completed_at, next_attempt_at, coalesce(leases.progress, jobs.progress) AS progress, error, last_error, usage,
    warnings
FROM antiphon.jobs LEFT JOIN antiphon.leases ON leases.job_id = jobs.id
WHERE jobs.tenant_id = $1
    AND (created_at, id) <
        (coalesce($3, 'infinity'::timestamptz), coalesce($4, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid))
    AND created_at > coalesce($5, '-infinity'::timestamptz) AND created_at < coalesce($6, 'infinity'::timestamptz)
    AND ($7::text IS NULL OR status = $7) AND ($8::text IS NULL OR external_id = $8)
ORDER BY created_at DESC, id DESC
LIMIT $2;

-- name: cancel_own
SELECT antiphon.cancel_own($1);

-- name: delete_own
SELECT antiphon.delete_own($1);

-- name: standing
-- ahead and starts_in only where something may be claimed: a job of each tenant before this one, and its own next.
WITH ready AS (
    SELECT count(*) AS jobs, min(ready_at) AS since
    FROM antiphon.jobs WHERE tenant_id = $1 AND status = 'pending' AND next_attempt_at IS NULL
), turn AS MATERIALIZED (
    SELECT antiphon.ahead_of_own() AS ahead, antiphon.begun_lately() / 300.0::float8 AS a_second
    FROM ready WHERE jobs > 0
)
SELECT jobs + (SELECT count(*) FROM antiphon.jobs WHERE tenant_id = $1 AND next_attempt_at IS NOT NULL) AS pending,
    (SELECT count(*) FROM antiphon.leases WHERE tenant_id = $1) AS running,
    extract(epoch FROM now() - since)::float8 AS oldest_seconds, ahead, (ahead + 1) / nullif(a_second, 0) AS starts_in
FROM ready LEFT JOIN turn ON true;
