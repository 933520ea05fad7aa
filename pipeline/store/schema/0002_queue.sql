-- Whose turn it is, what was heard so far, what it has cost, and what is still to be told.
--
-- A replica of the release before goes on working beside this: what it puts into the queue is found by the sweep, and
-- its claims, which look through all waiting jobs, are slower for as long as it runs.


ALTER TABLE antiphon.jobs
    ADD COLUMN losses              smallint NOT NULL DEFAULT 0 CHECK (losses >= 0),
    ADD COLUMN ready_at            timestamptz NOT NULL DEFAULT now(),  -- since when it may be claimed
    ADD COLUMN cancel_requested_at timestamptz,
    ADD COLUMN callback_url        text,                                -- a secret, and erased like one
    ADD COLUMN external_id         text CHECK (length(external_id) <= 256),
    ADD COLUMN retention_seconds   integer CHECK (retention_seconds >= 0),
    ADD COLUMN expires_at          timestamptz,
    DROP CONSTRAINT attempts_are_counted,
    ADD CONSTRAINT attempts_are_counted CHECK (
        attempt >= (status = 'running')::int AND losses <= attempt AND attempt - losses <= max_attempts),
    ADD CONSTRAINT only_ended_expire CHECK (expires_at IS NULL OR completed_at IS NOT NULL),
    -- Two updates a job, claimed and settled: with this much room both stay in its page. Autovacuum by share would
    -- come once in 200,000 dead rows where a million wait.
    SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_insert_scale_factor = 0.05,
         autovacuum_analyze_scale_factor = 0.01);

DROP INDEX antiphon.jobs_turn;

CREATE INDEX jobs_head ON antiphon.jobs (tenant_id, priority DESC, seq)
    WHERE status = 'pending' AND next_attempt_at IS NULL;
CREATE INDEX jobs_due ON antiphon.jobs (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX jobs_retrying ON antiphon.jobs (tenant_id) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX jobs_list ON antiphon.jobs (tenant_id, created_at DESC, id DESC);
CREATE INDEX jobs_expiring ON antiphon.jobs (expires_at) WHERE expires_at IS NOT NULL;

-- waits: claimed, and not begun before it is alone. charged: engine seconds that the tenant was charged in advance.
ALTER TABLE antiphon.leases
    ADD COLUMN waits          boolean NOT NULL DEFAULT false,
    ADD COLUMN charged        float8 NOT NULL DEFAULT 0,
    ADD COLUMN waited_seconds float8 NOT NULL DEFAULT 0;
CREATE INDEX leases_tenant ON antiphon.leases (tenant_id);

ALTER TABLE antiphon.attempts ADD COLUMN waited_seconds float8 NOT NULL DEFAULT 0;
CREATE INDEX attempts_lately ON antiphon.attempts (ended_at);


-- One small hot row a tenant: its place in the turn. cost: engine seconds it has had, over its weight; least goes first.
-- ready: it has work and may run more of it. usual_seconds: of a job of its own, charged in advance. Every claim changes
-- a row, so there is room for versions in its page and vacuum comes by count and does not pause.
CREATE TABLE antiphon.tenants (
    tenant_id     text PRIMARY KEY CHECK (length(tenant_id) BETWEEN 1 AND 128),
    ready         boolean NOT NULL DEFAULT false,
    cost          float8 NOT NULL DEFAULT 0,
    usual_seconds float8 NOT NULL DEFAULT 10 CHECK (usual_seconds >= 0),
    weight        float8 NOT NULL DEFAULT 1 CHECK (weight > 0),
    max_running   integer CHECK (max_running >= 0),
    max_pending   integer CHECK (max_pending >= 0)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);

-- Those that are ready from the least cost on, and of all others the highest: where a newcomer starts.
CREATE INDEX tenants_turn ON antiphon.tenants (ready, cost, tenant_id);

-- What a job has really cost, less what was charged in advance. Only ever added to, so that no end of a job waits for
-- the row of its tenant; the tenant's next claim takes it in.
CREATE TABLE antiphon.charges (
    tenant_id text NOT NULL,
    delta     float8 NOT NULL,
    seconds   float8 NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX charges_tenant ON antiphon.charges (tenant_id);


-- What the engine said, by a digest of what it was asked: of another model, other options or other media it never fits.
CREATE TABLE antiphon.checkpoints (
    job_id    uuid NOT NULL REFERENCES antiphon.jobs ON DELETE CASCADE,
    tenant_id text NOT NULL,
    asked     bytea NOT NULL CHECK (length(asked) = 16),
    draft     json NOT NULL,
    PRIMARY KEY (job_id, asked)
);


CREATE TABLE antiphon.idempotency_keys (
    tenant_id  text NOT NULL,
    key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    digest     bytea NOT NULL,
    job_id     uuid NOT NULL REFERENCES antiphon.jobs ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);

CREATE INDEX idempotency_keys_job ON antiphon.idempotency_keys (job_id);
CREATE INDEX idempotency_keys_age ON antiphon.idempotency_keys (created_at);


-- One row a job that has ended, by the attempt that ended it. It holds no text, and outlives the job.
CREATE TABLE antiphon.usage (
    job_id             uuid PRIMARY KEY,
    tenant_id          text NOT NULL,
    attempt            smallint NOT NULL,
    outcome            text NOT NULL CHECK (outcome IN ('completed', 'failed', 'cancelled')),
    mode               text NOT NULL,
    model              text,
    created_at         timestamptz NOT NULL,
    ended_at           timestamptz NOT NULL DEFAULT now(),
    media_seconds      float8 NOT NULL DEFAULT 0 CHECK (media_seconds >= 0),
    track_seconds      float8 NOT NULL DEFAULT 0 CHECK (track_seconds >= 0),
    speech_seconds     float8 NOT NULL DEFAULT 0 CHECK (speech_seconds >= 0),
    processing_seconds float8 NOT NULL DEFAULT 0,
    engine_seconds     float8 NOT NULL DEFAULT 0 CHECK (engine_seconds >= 0)
);

CREATE INDEX usage_tenant ON antiphon.usage (tenant_id, ended_at);


-- The outbox: written in the transaction that ends a job, and kept without its URL once it is done with.
CREATE TABLE antiphon.deliveries (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id    text NOT NULL,
    job_id       uuid NOT NULL UNIQUE,
    url          text,
    status       text NOT NULL CHECK (status IN ('completed', 'failed', 'cancelled')),
    external_id  text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    tries        integer NOT NULL DEFAULT 0,
    next_try_at  timestamptz DEFAULT now(),
    delivered_at timestamptz,

    CONSTRAINT done_has_no_url CHECK ((url IS NULL) = (next_try_at IS NULL)),
    CONSTRAINT delivered_is_done CHECK (delivered_at IS NULL OR next_try_at IS NULL)
);

CREATE INDEX deliveries_due ON antiphon.deliveries (next_try_at) WHERE next_try_at IS NOT NULL;
CREATE INDEX deliveries_age ON antiphon.deliveries (created_at);

CREATE TABLE antiphon.delivery_tries (
    delivery_id uuid NOT NULL REFERENCES antiphon.deliveries ON DELETE CASCADE,
    tenant_id   text NOT NULL,
    number      integer NOT NULL,
    tried_at    timestamptz NOT NULL DEFAULT now(),
    seconds     float8 NOT NULL,
    status      integer,
    error       text,
    PRIMARY KEY (delivery_id, number)
);


-- What a tenant's place in the turn is locked by. Whoever gives it work, or room for more, holds this shared until the
-- commit; a claim that takes it out of the turn tries for it alone, and looks again only then: so no news is overlooked.
CREATE FUNCTION antiphon.turn_key(tenant text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(tenant, 7577);  -- any seed that no other lock of this database has


-- Let tenants into the turn that have a job to be claimed. Whoever was away starts where the turn is now: idling saves
-- nothing up. It has to see all tenants, which the door may not: hence it runs as its owner. Each statement sees what
-- was committed before it, also while the one above it waited for its locks; all go by name, so none waits in a circle.
CREATE FUNCTION antiphon.wake(names text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(antiphon.turn_key(name))
    FROM (SELECT DISTINCT unnest(names) AS name ORDER BY name) AS ordered;

    INSERT INTO antiphon.tenants (tenant_id)
    SELECT name FROM (SELECT DISTINCT unnest(names) AS name ORDER BY name) AS ordered
    WHERE NOT EXISTS (SELECT FROM antiphon.tenants WHERE tenant_id = name)
    ON CONFLICT DO NOTHING;

    WITH away AS (
        SELECT tenant_id FROM antiphon.tenants
        WHERE tenant_id = ANY (names) AND NOT ready AND (
            SELECT true FROM antiphon.jobs
            WHERE jobs.tenant_id = tenants.tenant_id AND status = 'pending' AND next_attempt_at IS NULL
            ORDER BY priority DESC, seq LIMIT 1)
        ORDER BY tenant_id
        FOR NO KEY UPDATE
    ), level AS (
        SELECT coalesce(
            (SELECT min(cost) FROM antiphon.tenants WHERE ready),
            (SELECT max(cost) FROM antiphon.tenants WHERE NOT ready)) AS cost
    )
    UPDATE antiphon.tenants SET ready = true, cost = greatest(tenants.cost, level.cost)
    FROM away, level WHERE tenants.tenant_id = away.tenant_id;
END $$;


-- The processing mode of a request, found in its text: a document with \u0000 in it cannot be looked into. What a client
-- wrote before this member has its quotes escaped, and cannot be taken for it.
CREATE FUNCTION antiphon.mode(request json) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(substring(request::text FROM '"processing_mode": ?"(\w+)"'), 'downmix');


-- What the door may do beyond what its policies let it. Each of these functions runs as the chain and knows the tenant
-- from the transaction's setting alone: without one, whatever it is asked for is not there.

CREATE FUNCTION antiphon.wake_own() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT antiphon.wake(ARRAY[current_setting('app.tenant_id', true)])
    WHERE current_setting('app.tenant_id', true) <> '';
$$;


-- What the job was before: 'pending', and it is cancelled; 'running', and its worker has been asked to stop; an end,
-- and nothing has happened; or NULL, and there is none.
CREATE FUNCTION antiphon.cancel_own(wanted uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    job antiphon.jobs;
BEGIN
    SELECT * INTO job FROM antiphon.jobs
    WHERE id = wanted AND tenant_id = current_setting('app.tenant_id', true)
    FOR NO KEY UPDATE;

    IF job.status = 'running' THEN
        UPDATE antiphon.jobs SET cancel_requested_at = coalesce(cancel_requested_at, now()) WHERE id = wanted;
    ELSIF job.status = 'pending' THEN
        UPDATE antiphon.jobs
        SET status = 'cancelled', completed_at = now(), next_attempt_at = NULL, secrets = NULL, callback_url = NULL,
            uploads = '{}', expires_at = now() + make_interval(secs => retention_seconds)
        WHERE id = wanted;
        UPDATE antiphon.uploads SET job_id = NULL, discarded = true WHERE job_id = wanted;
        DELETE FROM antiphon.checkpoints WHERE job_id = wanted;
        INSERT INTO antiphon.usage (job_id, tenant_id, attempt, outcome, mode, created_at)
        VALUES (wanted, job.tenant_id, job.attempt, 'cancelled', antiphon.mode(job.request), job.created_at);
        INSERT INTO antiphon.deliveries (tenant_id, job_id, url, status, external_id)
        SELECT job.tenant_id, wanted, job.callback_url, 'cancelled', job.external_id
        WHERE job.callback_url IS NOT NULL;
    END IF;
    RETURN job.status;
END $$;


-- What the job was before it was erased, or NULL: there is none. The lease goes first, as in every settling statement,
-- so that the two wait for each other and never in a circle. 'claimed': it was, between these two steps; erasing the
-- lease now could close the circle, so nothing has happened, and the next call finds it.
CREATE FUNCTION antiphon.delete_own(wanted uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    job antiphon.jobs;
    leased boolean;
BEGIN
    DELETE FROM antiphon.leases WHERE job_id = wanted AND tenant_id = current_setting('app.tenant_id', true);
    leased := FOUND;
    SELECT * INTO job FROM antiphon.jobs
    WHERE id = wanted AND tenant_id = current_setting('app.tenant_id', true)
    FOR UPDATE;

    IF job.status = 'running' AND NOT leased THEN
        RETURN 'claimed';
    END IF;
    IF job.status IN ('pending', 'running') THEN
        INSERT INTO antiphon.usage (job_id, tenant_id, attempt, outcome, mode, created_at)
        VALUES (wanted, job.tenant_id, job.attempt, 'cancelled', antiphon.mode(job.request), job.created_at);
    END IF;
    UPDATE antiphon.uploads SET job_id = NULL, discarded = true WHERE job_id = job.id;
    DELETE FROM antiphon.jobs WHERE id = job.id;
    IF leased THEN
        PERFORM antiphon.wake_own();  -- there may be room again under the tenant's limit
    END IF;
    RETURN job.status;
END $$;


-- How many tenants are served before this one, by the turn as it is; NULL: it was never in it.
CREATE FUNCTION antiphon.ahead_of_own() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT count(*) FROM antiphon.tenants AS other
            WHERE other.ready AND (other.cost, other.tenant_id) < (own.cost, own.tenant_id))
    FROM antiphon.tenants AS own
    WHERE own.tenant_id = current_setting('app.tenant_id', true);
$$;


-- How many jobs were begun in the last five minutes, of all tenants: those that run, and those that have ended since.
CREATE FUNCTION antiphon.begun_lately() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT count(*) FROM antiphon.leases WHERE claimed_at > now() - interval '5 minutes')
         + (SELECT count(*) FROM antiphon.attempts
            WHERE ended_at > now() - interval '5 minutes' AND started_at > now() - interval '5 minutes');
$$;


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


DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tenants', 'charges', 'checkpoints', 'idempotency_keys', 'usage', 'deliveries',
                                'delivery_tries'] LOOP
        EXECUTE format('ALTER TABLE antiphon.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        EXECUTE format($policy$
            CREATE POLICY door ON antiphon.%I TO antiphon_door
            USING (current_user = 'antiphon_door' AND tenant_id = current_setting('app.tenant_id', true))
        $policy$, name);
        EXECUTE format($policy$
            CREATE POLICY chain ON antiphon.%I TO antiphon_chain USING (current_user = 'antiphon_chain')
        $policy$, name);
    END LOOP;
END $$;

-- A foreign key is checked beyond all policies: without these its answer would tell whether there is such a row.
CREATE POLICY of_own_job ON antiphon.uploads AS RESTRICTIVE FOR UPDATE TO antiphon_door
    USING (true) WITH CHECK (job_id IS NULL OR EXISTS (SELECT FROM antiphon.jobs WHERE id = job_id));
CREATE POLICY of_own_job ON antiphon.idempotency_keys AS RESTRICTIVE FOR INSERT TO antiphon_door
    WITH CHECK (EXISTS (SELECT FROM antiphon.jobs WHERE id = job_id));
CREATE POLICY of_own_upload ON antiphon.upload_chunks AS RESTRICTIVE FOR INSERT TO antiphon_door
    WITH CHECK (EXISTS (SELECT FROM antiphon.uploads WHERE id = upload_id));

-- The planner counts the rows of all tenants, and EXPLAIN would tell how many are another's, or whether a word of theirs
-- is there at all. What is looked for by these columns is found by an index, whatever is known of their values.
DO $$
DECLARE
    of_tenants record;
BEGIN
    FOR of_tenants IN
        SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'antiphon'::regnamespace AND relkind = 'r' AND attname IN ('tenant_id', 'external_id', 'key')
    LOOP
        EXECUTE format('ALTER TABLE antiphon.%I ALTER COLUMN %I SET STATISTICS 0', of_tenants.relname, of_tenants.attname);
    END LOOP;
END $$;

-- An own number in a line that all tenants share would tell how many jobs the others send in.
REVOKE SELECT (seq) ON antiphon.jobs FROM antiphon_door;

GRANT SELECT (losses, ready_at, external_id),
      INSERT (callback_url, external_id, retention_seconds)
    ON antiphon.jobs TO antiphon_door;
GRANT SELECT (tenant_id, max_pending) ON antiphon.tenants TO antiphon_door;
GRANT SELECT, INSERT (tenant_id, key, digest, job_id) ON antiphon.idempotency_keys TO antiphon_door;
GRANT SELECT ON antiphon.usage TO antiphon_door;

GRANT DELETE ON antiphon.jobs TO antiphon_chain;
GRANT SELECT, INSERT, UPDATE, DELETE ON antiphon.tenants, antiphon.charges, antiphon.checkpoints, antiphon.deliveries
    TO antiphon_chain;
GRANT SELECT, DELETE ON antiphon.idempotency_keys TO antiphon_chain;
GRANT SELECT, INSERT ON antiphon.usage, antiphon.delivery_tries TO antiphon_chain;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA antiphon FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA antiphon TO antiphon_chain;
GRANT EXECUTE ON FUNCTION antiphon.wake_own(), antiphon.cancel_own(uuid), antiphon.delete_own(uuid),
    antiphon.ahead_of_own(), antiphon.begun_lately() TO antiphon_door;
GRANT CREATE ON SCHEMA antiphon TO antiphon_chain;  -- which an owner has to have at this moment, and never again
ALTER FUNCTION antiphon.wake(text[]) OWNER TO antiphon_chain;
ALTER FUNCTION antiphon.wake_own() OWNER TO antiphon_chain;
ALTER FUNCTION antiphon.cancel_own(uuid) OWNER TO antiphon_chain;
ALTER FUNCTION antiphon.delete_own(uuid) OWNER TO antiphon_chain;
ALTER FUNCTION antiphon.ahead_of_own() OWNER TO antiphon_chain;
ALTER FUNCTION antiphon.begun_lately() OWNER TO antiphon_chain;
REVOKE CREATE ON SCHEMA antiphon FROM antiphon_chain;

-- What waits already is in the turn from the start.
SET LOCAL ROLE antiphon_chain;
SELECT antiphon.wake(array(SELECT DISTINCT tenant_id FROM antiphon.jobs WHERE status = 'pending'));
RESET ROLE;
