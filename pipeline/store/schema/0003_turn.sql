-- Who is let into the turn, and what the door may do beyond the rows of its tenant.
--
-- Functions are only where the door has to reach further than it may. All else is statements, of which each release
-- brings its own: a function would change under an older replica that works beside this.


-- What a tenant's place in the turn is locked by. Whoever gives it work, or room for more, holds this shared until the
-- commit; a claim that takes it out of the turn tries for it alone, and looks again only then: so no news is missed.
CREATE FUNCTION antiphon.turn_key(tenant text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashtextextended(tenant, 7577);  -- any seed that no other lock of this database has


-- Let tenants into the turn that have a job to be claimed. Whoever was away starts where the turn is now, once its old
-- charges are taken in: idling saves nothing up, and a debt from before is none. It has to see all tenants, which the
-- door may not: hence it runs as its owner. Each statement sees what was committed before it, also while the one above
-- it waited for its locks; all go by name, so none waits in a circle.
CREATE FUNCTION antiphon.wake(names text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan  -- to plan these statements takes several times as long as to run them
AS $$
DECLARE
    away text[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared(antiphon.turn_key(name))
    FROM (SELECT DISTINCT unnest(names) AS name ORDER BY name) AS ordered;

    INSERT INTO antiphon.tenants (tenant_id)
    SELECT name FROM (SELECT DISTINCT unnest(names) AS name ORDER BY name) AS ordered
    WHERE NOT EXISTS (SELECT FROM antiphon.tenants WHERE tenant_id = name)
    ON CONFLICT DO NOTHING;

    away := array(
        SELECT tenant_id FROM antiphon.tenants
        WHERE tenant_id = ANY (names) AND NOT ready AND (
            SELECT true FROM antiphon.jobs
            WHERE jobs.tenant_id = tenants.tenant_id AND status = 'pending' AND next_attempt_at IS NULL
                AND losses = 0
            ORDER BY priority DESC, seq LIMIT 1)
        ORDER BY tenant_id
        FOR NO KEY UPDATE);
    IF away = '{}' THEN
        RETURN;
    END IF;

    -- As a claim does it.
    WITH charged AS (
        DELETE FROM antiphon.charges WHERE tenant_id = ANY (away) RETURNING tenant_id, delta, seconds
    ), due AS (
        SELECT tenant_id, sum(delta) AS delta, avg(seconds) AS seconds FROM charged GROUP BY tenant_id
    )
    UPDATE antiphon.tenants
    SET cost = cost + delta / weight, usual_seconds = usual_seconds + 0.2 * (seconds - usual_seconds)
    FROM due WHERE tenants.tenant_id = due.tenant_id;

    UPDATE antiphon.tenants SET ready = true, cost = greatest(tenants.cost, level.cost)
    FROM (
        SELECT coalesce(
            (SELECT min(cost) FROM antiphon.tenants WHERE ready),
            (SELECT max(cost) FROM antiphon.tenants WHERE NOT ready)) AS cost
    ) AS level
    WHERE tenant_id = ANY (away);
END $$;


-- The processing mode of a request, found in its text: a document with \u0000 in it cannot be looked into. What a
-- client wrote before this member has its quotes escaped, and cannot be taken for it.
CREATE FUNCTION antiphon.mode(request json) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(substring(request::text FROM '"processing_mode": ?"(\w+)"'), 'downmix');


-- The release before ends a job with no word of its usage, to nobody, and for ever: a replica of it that works beside
-- this one, on jobs that came in through this one, has that made up for.
CREATE FUNCTION antiphon.make_up_for_the_release_before() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM antiphon.usage WHERE job_id = NEW.id) THEN
        RETURN NULL;
    END IF;
    INSERT INTO antiphon.usage (job_id, tenant_id, attempt, outcome, mode, created_at,
        media_seconds, track_seconds, speech_seconds, processing_seconds, engine_seconds)
    VALUES (NEW.id, NEW.tenant_id, NEW.attempt, NEW.status, antiphon.mode(NEW.request), NEW.created_at,
        coalesce((NEW.usage->>'media_seconds')::float8, 0), coalesce((NEW.usage->>'track_seconds')::float8, 0),
        coalesce((NEW.usage->>'speech_seconds')::float8, 0), coalesce((NEW.usage->>'processing_seconds')::float8, 0),
        (SELECT coalesce(sum(engine_seconds), 0) FROM antiphon.attempts WHERE job_id = NEW.id));
    INSERT INTO antiphon.deliveries (tenant_id, job_id, url, status, external_id)
    SELECT NEW.tenant_id, NEW.id, NEW.callback_url, NEW.status, NEW.external_id WHERE NEW.callback_url IS NOT NULL;
    DELETE FROM antiphon.checkpoints WHERE job_id = NEW.id;
    UPDATE antiphon.jobs
    SET callback_url = NULL, expires_at = now() + make_interval(secs => retention_seconds)
    WHERE id = NEW.id;
    RETURN NULL;
END $$;

CREATE TRIGGER ended AFTER UPDATE OF status ON antiphon.jobs
    FOR EACH ROW WHEN (OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL)
    EXECUTE FUNCTION antiphon.make_up_for_the_release_before();


-- What the door may do beyond what its policies let it. Each of these functions runs as the chain and knows the tenant
-- from the transaction's setting alone: without one, whatever it is asked for is not there.

CREATE FUNCTION antiphon.wake_own() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT antiphon.wake(ARRAY[current_setting('app.tenant_id', true)])
    WHERE current_setting('app.tenant_id', true) <> '';
$$;


-- The usage of a job that is cancelled at the door: what its attempts have cost, and how long the last one took.
CREATE FUNCTION antiphon.count_cancelled(wanted uuid) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO antiphon.usage
        (job_id, tenant_id, attempt, outcome, mode, created_at, processing_seconds, engine_seconds)
    SELECT id, tenant_id, attempt, 'cancelled', antiphon.mode(request), created_at,
        coalesce((SELECT extract(epoch FROM ended_at - started_at) FROM antiphon.attempts
            WHERE job_id = wanted ORDER BY started_at DESC LIMIT 1), 0),
        (SELECT coalesce(sum(engine_seconds), 0) FROM antiphon.attempts WHERE job_id = wanted)
    FROM antiphon.jobs WHERE id = wanted;
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
        PERFORM antiphon.count_cancelled(wanted);  -- first, lest it be taken for an end of the release before
        UPDATE antiphon.jobs
        SET status = 'cancelled', completed_at = now(), next_attempt_at = NULL, secrets = NULL, callback_url = NULL,
            uploads = '{}', expires_at = now() + make_interval(secs => retention_seconds)
        WHERE id = wanted;
        UPDATE antiphon.uploads SET job_id = NULL, discarded = true WHERE job_id = wanted;
        DELETE FROM antiphon.checkpoints WHERE job_id = wanted;
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
    lease antiphon.leases;
    leased boolean;
BEGIN
    DELETE FROM antiphon.leases WHERE job_id = wanted AND tenant_id = current_setting('app.tenant_id', true)
    RETURNING * INTO lease;
    leased := FOUND;
    SELECT * INTO job FROM antiphon.jobs
    WHERE id = wanted AND tenant_id = current_setting('app.tenant_id', true)
    FOR UPDATE;

    IF NOT leased AND EXISTS (SELECT FROM antiphon.leases WHERE job_id = job.id) THEN
        RETURN 'claimed';
    END IF;
    IF leased THEN  -- the attempt ends as any other, at what its worker has told of
        INSERT INTO antiphon.charges (tenant_id, delta, seconds)
        VALUES (lease.tenant_id, lease.engine_seconds - lease.charged, lease.engine_seconds);
        INSERT INTO antiphon.attempts
            (token, job_id, tenant_id, replica, started_at, ended_at, outcome, waited_seconds, engine_seconds)
        VALUES (lease.token, lease.job_id, lease.tenant_id, lease.replica, lease.claimed_at,
            clock_timestamp(), 'cancelled', lease.waited_seconds, lease.engine_seconds);  -- claimed after now(), maybe
    END IF;
    IF job.status IN ('pending', 'running') THEN
        PERFORM antiphon.count_cancelled(wanted);
    END IF;
    UPDATE antiphon.uploads SET job_id = NULL, discarded = true WHERE job_id = job.id;
    DELETE FROM antiphon.idempotency_keys WHERE job_id = job.id;
    DELETE FROM antiphon.deliveries WHERE job_id = job.id;  -- no news of what is erased, and no word of its client
    DELETE FROM antiphon.jobs WHERE id = job.id;
    IF leased THEN
        PERFORM antiphon.wake_own();  -- there may be room again under the tenant's limit
    END IF;
    RETURN job.status;
END $$;


-- How many tenants are served before this one, by the turn as it is; NULL: it is not in it.
CREATE FUNCTION antiphon.ahead_of_own() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT count(*) FROM antiphon.tenants AS other
            WHERE other.ready AND (other.cost, other.tenant_id) < (own.cost, own.tenant_id))
    FROM antiphon.tenants AS own
    WHERE own.tenant_id = current_setting('app.tenant_id', true) AND own.ready;
$$;


-- How many jobs were begun in the last five minutes, of all tenants: those that run, and those that have ended since.
CREATE FUNCTION antiphon.begun_lately() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT count(*) FROM antiphon.leases WHERE claimed_at > now() - interval '5 minutes')
         + (SELECT count(*) FROM antiphon.attempts
            WHERE ended_at > now() - interval '5 minutes' AND started_at > now() - interval '5 minutes');
$$;


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
