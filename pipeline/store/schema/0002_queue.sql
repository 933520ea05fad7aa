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

CREATE INDEX jobs_head ON antiphon.jobs (tenant_id, priority DESC, seq) INCLUDE (ready_at)
    WHERE status = 'pending' AND next_attempt_at IS NULL;
-- Jobs that have lost a worker are passed over there, and claimed from here; at any time they are few.
CREATE INDEX jobs_alone ON antiphon.jobs (ready_at)
    WHERE status = 'pending' AND next_attempt_at IS NULL AND losses > 0;
CREATE INDEX jobs_due ON antiphon.jobs (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX jobs_retrying ON antiphon.jobs (tenant_id) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX jobs_list ON antiphon.jobs (tenant_id, created_at DESC, id DESC);
CREATE INDEX jobs_list_status ON antiphon.jobs (tenant_id, status, created_at DESC, id DESC);
CREATE INDEX jobs_list_external ON antiphon.jobs (tenant_id, external_id, created_at DESC, id DESC)
    WHERE external_id IS NOT NULL;
CREATE INDEX jobs_expiring ON antiphon.jobs (expires_at) WHERE expires_at IS NOT NULL;

-- waits: claimed, and not begun before it is alone. charged: engine seconds that the tenant was charged in advance;
-- engine_seconds: that its worker has told of, which is what is known where it never comes to an end of its own.
ALTER TABLE antiphon.leases
    ADD COLUMN waits          boolean NOT NULL DEFAULT false,
    ADD COLUMN charged        float8 NOT NULL DEFAULT 0,
    ADD COLUMN engine_seconds float8 NOT NULL DEFAULT 0,
    ADD COLUMN waited_seconds float8 NOT NULL DEFAULT 0;
CREATE INDEX leases_tenant ON antiphon.leases (tenant_id);

ALTER TABLE antiphon.attempts
    ADD COLUMN waited_seconds float8 NOT NULL DEFAULT 0,
    ADD COLUMN engine_seconds float8 NOT NULL DEFAULT 0;
CREATE INDEX attempts_lately ON antiphon.attempts (ended_at);


-- One small hot row a tenant: its place in the turn. cost: engine seconds it had, over its weight; least goes first.
-- ready: it has work and may run more of it. usual_seconds: of a job of its own, charged in advance. Each claim changes
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


-- A key holds for its day, also where its job was kept for less: job_id is NULL then, and no second job is made of it.
CREATE TABLE antiphon.idempotency_keys (
    tenant_id  text NOT NULL,
    key        text NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    digest     bytea NOT NULL,
    job_id     uuid REFERENCES antiphon.jobs ON DELETE SET NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, key)
);

CREATE INDEX idempotency_keys_job ON antiphon.idempotency_keys (job_id);
CREATE INDEX idempotency_keys_age ON antiphon.idempotency_keys (created_at);


-- One row a job that has ended. It holds no text, and outlives the job. processing_seconds: from the claim to the end
-- of its last attempt; engine_seconds: of all its attempts. media, track and speech are known of a transcript alone,
-- and 0 where none came.
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

-- The planner counts the rows of all tenants, and EXPLAIN would tell how many are another's, or whether a word of
-- theirs is there at all. What is looked for by these columns is found by an index, whatever is known of their values.
DO $$
DECLARE
    of_tenants record;
BEGIN
    FOR of_tenants IN
        SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'antiphon'::regnamespace AND relkind = 'r'
            AND attname IN ('tenant_id', 'external_id', 'key')
    LOOP
        EXECUTE format('ALTER TABLE antiphon.%I ALTER COLUMN %I SET STATISTICS 0',
                       of_tenants.relname, of_tenants.attname);
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
GRANT SELECT, UPDATE, DELETE ON antiphon.idempotency_keys TO antiphon_chain;  -- UPDATE: to lock one
GRANT SELECT, INSERT ON antiphon.usage, antiphon.delivery_tries TO antiphon_chain;
