-- For operators, who step into the role antiphon_chain to look. A view is as blind as whoever looks through it, and the
-- door may look through none.

-- All tenants together. pending may be claimed, waiting has a retry ahead of it. Counts every row that waits.
CREATE VIEW antiphon.queue_depth WITH (security_invoker = true) AS
SELECT count(*) AS pending,
    (SELECT count(*) FROM antiphon.jobs WHERE next_attempt_at IS NOT NULL) AS waiting,
    (SELECT count(*) FROM antiphon.leases) AS running,
    (SELECT count(*) FROM (
        SELECT tenant_id FROM antiphon.jobs WHERE status = 'pending' AND next_attempt_at IS NULL
        UNION SELECT tenant_id FROM antiphon.jobs WHERE next_attempt_at IS NOT NULL
        UNION SELECT tenant_id FROM antiphon.leases) AS present) AS tenants,
    coalesce(extract(epoch FROM max(now() - ready_at)), 0)::float8 AS oldest_seconds,
    (SELECT greatest(0, extract(epoch FROM max(now() - lease_until)))::float8 FROM antiphon.leases) AS late_seconds
FROM antiphon.jobs WHERE status = 'pending' AND next_attempt_at IS NULL;

-- What was begun, and what went wrong, in the last five minutes; and how long jobs waited for their claim.
CREATE VIEW antiphon.queue_lately WITH (security_invoker = true) AS
WITH ended AS (
    SELECT attempts.started_at, outcome, waited_seconds, status = 'failed' AND completed_at = ended_at AS for_good
    FROM antiphon.attempts JOIN antiphon.jobs ON jobs.id = job_id
    WHERE ended_at > now() - interval '5 minutes'
), begun AS (
    SELECT waited_seconds FROM ended WHERE started_at > now() - interval '5 minutes'
    UNION ALL
    SELECT waited_seconds FROM antiphon.leases WHERE claimed_at > now() - interval '5 minutes'
)
SELECT count(*) AS started,
    (SELECT count(*) FROM ended WHERE outcome = 'failed' AND NOT for_good) AS retried,
    (SELECT count(*) FROM ended WHERE outcome = 'lost') AS lost,
    (SELECT count(*) FROM ended WHERE for_good) AS failed,
    coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY waited_seconds), 0) AS wait_seconds_p50,
    coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY waited_seconds), 0) AS wait_seconds_p99
FROM begun;

-- place: in the turn. share: of the engine, while those who are in the turn stay. Both NULL for who is not in it.
CREATE VIEW antiphon.queue_tenants WITH (security_invoker = true) AS
SELECT tenant_id, weight, cost, usual_seconds, max_running, max_pending,
    CASE WHEN ready THEN rank() OVER (PARTITION BY ready ORDER BY cost, tenant_id) END AS place,
    CASE WHEN ready THEN weight / sum(weight) OVER (PARTITION BY ready) END AS share,
    (SELECT count(*) FROM antiphon.jobs WHERE jobs.tenant_id = tenants.tenant_id
        AND status = 'pending' AND next_attempt_at IS NULL) AS pending,
    (SELECT count(*) FROM antiphon.leases WHERE leases.tenant_id = tenants.tenant_id) AS running
FROM antiphon.tenants;

-- Who works on what. late_seconds: since the lease ran out. waits: until the job may run alone.
CREATE VIEW antiphon.queue_leases WITH (security_invoker = true) AS
SELECT job_id, tenant_id, replica, claimed_at, progress->>'stage' AS stage, waits,
    greatest(0, extract(epoch FROM now() - lease_until))::float8 AS late_seconds
FROM antiphon.leases;

-- Jobs that failed for good and are still kept. The code is found in the text, as the mode of a request is.
CREATE VIEW antiphon.queue_dead WITH (security_invoker = true) AS
SELECT id AS job_id, tenant_id, completed_at, attempt, losses,
    substring(error::text FROM '"code": ?"([\w-]+)"') AS code
FROM antiphon.jobs WHERE status = 'failed';

GRANT SELECT ON antiphon.queue_depth, antiphon.queue_lately, antiphon.queue_tenants, antiphon.queue_leases,
    antiphon.queue_dead TO antiphon_chain;
