-- The chain's face: whose turn it is, who has a job, and how it ended.
--
-- A transaction locks first and reads in a later statement, which sees all that was committed before it had the lock.
-- Whether there is a job to claim is always asked in the order of their index: to EXISTS the planner may answer by
-- reading all jobs, since most tenants have one among the first.

-- name: turn
-- Whose turn it is: of those that are ready, none of $1, the one that has cost least. Its row is the lock of a claim.
SELECT tenant_id FROM antiphon.tenants
WHERE ready AND tenant_id <> ALL ($1)
ORDER BY cost, tenant_id
LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED;

-- name: await_turn
-- The same where other claims hold all that are ready.
SELECT tenant_id FROM antiphon.tenants
WHERE ready AND tenant_id <> ALL ($1)
ORDER BY cost, tenant_id
LIMIT 1
FOR NO KEY UPDATE;

-- name: limit_waiting
SELECT set_config('lock_timeout', $1, true);

-- name: lock_alone
-- Taken by a replica that would empty itself for a job. Names of tenants are never empty.
SELECT pg_try_advisory_xact_lock(antiphon.turn_key(''));

-- name: alone
-- The job that has lost a worker and been ready for longest, $1 seconds at least, of a tenant that may run one more;
-- and none where $2 and another waits to be alone. It is locked, and its tenant, whose row is the lock of a claim.
SELECT id, tenant_id
FROM antiphon.jobs JOIN antiphon.tenants USING (tenant_id)
WHERE status = 'pending' AND next_attempt_at IS NULL AND losses > 0
    AND ready_at <= now() - make_interval(secs => $1)
    AND NOT ($2 AND EXISTS (SELECT FROM antiphon.leases WHERE waits))
    AND coalesce(
        (SELECT count(*) FROM antiphon.leases WHERE leases.tenant_id = jobs.tenant_id) < coalesce(max_running, $3),
        true)
ORDER BY ready_at, seq
LIMIT 1
FOR NO KEY UPDATE OF tenants SKIP LOCKED
FOR UPDATE OF jobs SKIP LOCKED;

-- name: claim
-- Of the tenant $1, which is locked: take in what its jobs have really cost, and claim one if it may run one more than
-- it does: its head job, or $6, which has lost a worker and is locked as well. Always one row; id is NULL where nothing
-- was claimed. spent: it has to leave the turn.
WITH charged AS (
    DELETE FROM antiphon.charges WHERE tenant_id = $1 RETURNING delta, seconds
), terms AS (
    SELECT weight, coalesce(max_running, $5) AS max_running,
        -- A fifth of the newest jobs in what is usual: five or so make it forget the first guess.
        usual_seconds + 0.2 * coalesce((SELECT avg(seconds) FROM charged) - usual_seconds, 0) AS usual_seconds,
        coalesce((SELECT sum(delta) FROM charged), 0) AS delta
    FROM antiphon.tenants WHERE tenant_id = $1
), room AS MATERIALIZED (
    SELECT CASE WHEN max_running IS NOT NULL
        THEN max_running - (SELECT count(*) FROM antiphon.leases WHERE tenant_id = $1) END AS places  -- NULL: any
    FROM terms
), head AS MATERIALIZED (
    SELECT id FROM antiphon.jobs
    WHERE tenant_id = $1 AND status = 'pending' AND next_attempt_at IS NULL AND losses = 0 AND $6::uuid IS NULL
        AND coalesce((SELECT places FROM room) > 0, true)
    ORDER BY priority DESC, seq
    LIMIT 1
    FOR UPDATE SKIP LOCKED
), next AS MATERIALIZED (
    SELECT id FROM head
    UNION ALL SELECT $6 FROM room WHERE $6 IS NOT NULL AND coalesce(places > 0, true)
), tenant AS (
    UPDATE antiphon.tenants
    SET usual_seconds = terms.usual_seconds,
        cost = cost + delta / terms.weight
            + CASE WHEN next.id IS NULL THEN 0 ELSE terms.usual_seconds / terms.weight END
    FROM terms LEFT JOIN next ON true WHERE tenant_id = $1
), job AS (
    UPDATE antiphon.jobs
    SET status = 'running', attempt = attempt + 1, started_at = now()
    FROM next WHERE jobs.id = next.id
    RETURNING jobs.*
), lease AS (
    INSERT INTO antiphon.leases
        (job_id, token, tenant_id, replica, lease_until, progress, waits, charged, waited_seconds)
    SELECT id, $2, tenant_id, $3, now() + make_interval(secs => $4), progress, losses > 0, usual_seconds,
        extract(epoch FROM now() - ready_at)
    FROM job, terms
)
SELECT job.*, weight,
    EXISTS (SELECT FROM antiphon.checkpoints WHERE job_id = job.id) AS resumes,
    coalesce(places <= 1, false) OR (
        SELECT id FROM antiphon.jobs
        WHERE tenant_id = $1 AND status = 'pending' AND next_attempt_at IS NULL AND losses = 0
            AND jobs.id IS DISTINCT FROM job.id
        ORDER BY priority DESC, seq LIMIT 1
    ) IS NULL AS spent
FROM terms CROSS JOIN room LEFT JOIN job ON true;

-- name: lock_turn
-- Tried, and never waited for: whoever holds it shared is about to give this tenant work, or room for it.
SELECT pg_try_advisory_xact_lock(antiphon.turn_key($1));

-- name: leave_turn
UPDATE antiphon.tenants SET ready = false
WHERE tenant_id = $1 AND (
    coalesce((SELECT count(*) FROM antiphon.leases WHERE tenant_id = $1) >= coalesce(max_running, $2), false)
    OR (SELECT id FROM antiphon.jobs
        WHERE tenant_id = $1 AND status = 'pending' AND next_attempt_at IS NULL AND losses = 0
        ORDER BY priority DESC, seq LIMIT 1) IS NULL);

-- name: begin
UPDATE antiphon.leases SET waits = false WHERE job_id = $1 AND token = $2 RETURNING true;

-- name: renew
UPDATE antiphon.leases SET lease_until = now() + make_interval(secs => $3)
FROM unnest($1::uuid[], $2::uuid[]) AS held (job_id, token) JOIN antiphon.jobs ON jobs.id = held.job_id
WHERE leases.job_id = held.job_id AND leases.token = held.token
RETURNING leases.token, cancel_requested_at IS NOT NULL AS cancelled;

-- name: report
-- A lease that somebody else has in hand is left out until the next report: the heartbeat locks the same ones, in an
-- order of its own.
WITH held AS MATERIALIZED (
    SELECT told.* FROM antiphon.leases
    JOIN unnest($1::uuid[], $2::uuid[], $3::jsonb[], $4::float8[]) AS told (job_id, token, progress, engine_seconds)
        USING (job_id, token)
    FOR NO KEY UPDATE OF leases SKIP LOCKED
)
UPDATE antiphon.leases SET progress = held.progress, engine_seconds = held.engine_seconds
FROM held WHERE leases.job_id = held.job_id;

-- name: hold
-- The lease stays until the end of this transaction. Heartbeats do not wait for that, and settling does.
SELECT true FROM antiphon.leases WHERE job_id = $1 AND token = $2 FOR KEY SHARE;

-- name: keep
INSERT INTO antiphon.checkpoints (job_id, tenant_id, asked, draft)
SELECT $1, $2, asked, draft FROM unnest($3::bytea[], $4::json[]) AS said (asked, draft)
ON CONFLICT (job_id, asked) DO UPDATE SET draft = excluded.draft;

-- name: kept
SELECT asked, draft FROM antiphon.checkpoints WHERE job_id = $1;

-- name: settle
-- $1 job, $2 token, $3 how the attempt ended, $4 progress or NULL for what the lease knows, $5 problem, $6 seconds to
-- the next attempt or NULL for none, $7 losses at which a job fails, $8 engine seconds or NULL for what the lease
-- knows, $9 transcript, $10 its warnings, $11 its usage, $12 its model.
--
-- It begins by deleting the lease that goes with the token, and all else hangs on that row. This is the fence. A lease
-- is locked before the job, as by everybody who locks both: a deletion that met it half way would wait in a circle.
WITH lease AS (
    DELETE FROM antiphon.leases WHERE job_id = $1 AND token = $2 RETURNING *
), job AS MATERIALIZED (
    -- Locked, and so as the last request to cancel it has left it.
    SELECT jobs.*, lease.token, lease.replica, lease.claimed_at, lease.waited_seconds, lease.charged,
        coalesce($4, lease.progress) AS reached, coalesce($8, lease.engine_seconds) AS engine_seconds,
        CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
            WHEN $3 = 'lost' AND lease.waits THEN 'given back'  -- it was never begun
            ELSE $3 END AS outcome
    FROM antiphon.jobs JOIN lease ON jobs.id = lease.job_id
    FOR UPDATE OF jobs
), fate AS MATERIALIZED (
    SELECT job.*, CASE outcome
        WHEN 'given back' THEN 'pending'
        WHEN 'lost' THEN CASE WHEN losses + 1 < $7 THEN 'pending' ELSE 'failed' END
        WHEN 'failed' THEN CASE WHEN $6::float8 IS NOT NULL AND attempt - losses < max_attempts
            THEN 'pending' ELSE 'failed' END
        ELSE outcome END AS next
    FROM job
), ended AS (
    SELECT * FROM fate WHERE next <> 'pending'
), again AS (
    UPDATE antiphon.jobs
    SET status = 'pending', started_at = NULL, ready_at = now(), progress = jsonb_set(reached, '{stage}', '"pending"'),
        attempt = fate.attempt - (outcome = 'given back')::int, losses = fate.losses + (outcome = 'lost')::int,
        last_error = CASE WHEN outcome = 'given back' THEN fate.last_error ELSE $5 END,
        next_attempt_at = CASE WHEN outcome IN ('failed', 'given back') AND $6 > 0
            THEN now() + make_interval(secs => $6) END
    FROM fate WHERE jobs.id = fate.id AND next = 'pending'
), over AS (
    UPDATE antiphon.jobs
    SET status = next, completed_at = now(), losses = ended.losses + (outcome = 'lost')::int,
        progress = CASE next WHEN 'completed'
            THEN reached || '{"stage": "committing", "fraction": 1.0}' ELSE reached END,
        error = CASE next WHEN 'failed' THEN $5 END, usage = CASE next WHEN 'completed' THEN $11::json END,
        warnings = CASE next WHEN 'completed' THEN $10 ELSE ended.warnings END,
        expires_at = now() + make_interval(secs => ended.retention_seconds),
        secrets = NULL, callback_url = NULL, uploads = '{}'
    FROM ended WHERE jobs.id = ended.id
), attempted AS (
    INSERT INTO antiphon.attempts
        (token, job_id, tenant_id, replica, started_at, outcome, problem, waited_seconds, engine_seconds)
    SELECT token, id, tenant_id, replica, claimed_at, outcome,
        CASE WHEN outcome IN ('failed', 'lost') THEN $5 END, waited_seconds, engine_seconds
    FROM fate
), charge AS (
    INSERT INTO antiphon.charges (tenant_id, delta, seconds)
    SELECT tenant_id, engine_seconds - charged, engine_seconds FROM fate
    WHERE $8 IS NOT NULL OR engine_seconds > charged  -- of a silent worker the estimate stands, or what is more
), said AS (
    INSERT INTO antiphon.transcripts (job_id, tenant_id, transcript)
    SELECT id, tenant_id, $9 FROM ended WHERE next = 'completed'
), used AS (
    INSERT INTO antiphon.usage
        (job_id, tenant_id, attempt, outcome, mode, model, created_at, media_seconds, track_seconds, speech_seconds,
        processing_seconds, engine_seconds)
    SELECT id, tenant_id, attempt, next, antiphon.mode(request), CASE next WHEN 'completed' THEN $12 END, created_at,
        coalesce(media_seconds, 0), coalesce(track_seconds, 0), coalesce(speech_seconds, 0),
        coalesce(processing_seconds, extract(epoch FROM now() - claimed_at)),
        engine_seconds + (SELECT coalesce(sum(engine_seconds), 0) FROM antiphon.attempts WHERE job_id = ended.id)
    FROM ended LEFT JOIN json_to_record($11::json) AS seconds (
        media_seconds float8, track_seconds float8, speech_seconds float8, processing_seconds float8)
        ON next = 'completed'
), told AS (
    INSERT INTO antiphon.deliveries (tenant_id, job_id, url, status, external_id)
    SELECT tenant_id, id, callback_url, next, external_id FROM ended WHERE callback_url IS NOT NULL
), files AS (
    UPDATE antiphon.uploads SET job_id = NULL, discarded = true FROM ended WHERE uploads.job_id = ended.id
)
SELECT tenant_id FROM fate;

-- name: forget
-- After settle and not within it, which waits for a write of checkpoints that holds the lease, but does not see its
-- rows.
DELETE FROM antiphon.checkpoints USING antiphon.jobs
WHERE job_id = $1 AND jobs.id = $1 AND completed_at IS NOT NULL;

-- name: settled
-- Whether an attempt has ended already, and in this very way – or as its client wished, which was stronger.
SELECT true FROM antiphon.attempts JOIN antiphon.jobs ON jobs.id = job_id
WHERE token = $1 AND (outcome = $2 OR (outcome = 'cancelled' AND cancel_requested_at IS NOT NULL));
