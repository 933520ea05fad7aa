-- The door's face: what a tenant does with its jobs. Row-level security holds, and every statement says so again.

-- name: submit
INSERT INTO antiphon.jobs (id, tenant_id, request, secrets, trace, uploads, priority, max_attempts, progress)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING id, tenant_id, request, uploads, status, attempt, max_attempts, losses, created_at, started_at, completed_at,
    next_attempt_at, progress, error, last_error, usage, warnings;

-- name: get
SELECT id, jobs.tenant_id, request, uploads, status, attempt, max_attempts, losses, created_at, started_at, completed_at,
    next_attempt_at, coalesce(leases.progress, jobs.progress) AS progress, error, last_error, usage, warnings
FROM antiphon.jobs LEFT JOIN antiphon.leases ON leases.job_id = jobs.id
WHERE jobs.id = $1 AND jobs.tenant_id = $2;

-- name: transcript
-- A row without a transcript: the job is there and has none.
SELECT transcript
FROM antiphon.jobs LEFT JOIN antiphon.transcripts ON transcripts.job_id = jobs.id
WHERE jobs.id = $1 AND jobs.tenant_id = $2;
