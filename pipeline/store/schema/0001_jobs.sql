-- Jobs, who works on them, what came of them, and who may see which rows.
--
-- antiphon_door serves clients and sees one tenant at a time; antiphon_chain does the work and sees all of them. Both
-- are roles that a transaction steps into, and neither owns a table. Roles belong to the whole cluster, so another
-- database of ours, or an administrator, may have made them already.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['antiphon_door', 'antiphon_chain'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
        BEGIN
            EXECUTE format('GRANT %I TO %I', name, current_user);
        EXCEPTION WHEN insufficient_privilege THEN NULL;  -- then whoever made the role has to grant it to this login
        END;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA antiphon TO antiphon_door, antiphon_chain;


-- Documents that nobody looks into are json, not jsonb: they come back as they were sent, \u0000 included.
CREATE TABLE antiphon.jobs (
    id              uuid PRIMARY KEY,
    seq             bigint GENERATED ALWAYS AS IDENTITY,  -- first come, first served; clocks may jump, this does not
    tenant_id       text NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 128),
    request         json NOT NULL,                        -- without what is in secrets
    secrets         json,
    trace           json NOT NULL DEFAULT '{}',
    uploads         uuid[] NOT NULL DEFAULT '{}',
    priority        smallint NOT NULL,
    status          text NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    attempt         smallint NOT NULL DEFAULT 0,
    max_attempts    smallint NOT NULL CHECK (max_attempts > 0),
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    completed_at    timestamptz,
    next_attempt_at timestamptz,
    progress        jsonb NOT NULL,
    error           json,
    last_error      json,
    usage           json,
    warnings        json NOT NULL DEFAULT '[]',

    CONSTRAINT attempts_are_counted CHECK (attempt BETWEEN (status = 'running')::int AND max_attempts),
    CONSTRAINT started_unless_pending CHECK (CASE status
        WHEN 'pending' THEN started_at IS NULL
        WHEN 'cancelled' THEN true
        ELSE started_at IS NOT NULL END),
    CONSTRAINT ended_has_its_time CHECK ((completed_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))),
    CONSTRAINT only_pending_waits CHECK (next_attempt_at IS NULL OR status = 'pending'),
    CONSTRAINT failed_has_its_error CHECK ((error IS NOT NULL) = (status = 'failed')),
    CONSTRAINT completed_has_its_usage CHECK ((usage IS NOT NULL) = (status = 'completed')),
    CONSTRAINT secrets_until_the_end CHECK ((secrets IS NULL) = (completed_at IS NOT NULL)),
    CONSTRAINT ended_has_no_uploads CHECK (completed_at IS NULL OR uploads = '{}')
) WITH (fillfactor = 85);

CREATE INDEX jobs_turn ON antiphon.jobs (priority DESC, seq) WHERE status = 'pending';


-- There is a lease exactly while a worker has the job, and deleting it is the fence of every settling statement. The
-- table is narrow and has no index on what a heartbeat writes, so that heartbeats stay within their page.
CREATE TABLE antiphon.leases (
    job_id      uuid PRIMARY KEY REFERENCES antiphon.jobs ON DELETE CASCADE,
    token       uuid NOT NULL,
    tenant_id   text NOT NULL,
    replica     text NOT NULL,
    claimed_at  timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL,
    progress    jsonb NOT NULL
) WITH (fillfactor = 40, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);


-- One row an ended attempt: whoever settles twice with one token finds here what became of it.
CREATE TABLE antiphon.attempts (
    token      uuid PRIMARY KEY,
    job_id     uuid NOT NULL REFERENCES antiphon.jobs ON DELETE CASCADE,
    tenant_id  text NOT NULL,
    replica    text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL DEFAULT now(),
    outcome    text NOT NULL CHECK (outcome IN ('completed', 'failed', 'given back', 'cancelled', 'lost')),
    problem    json
);

CREATE INDEX attempts_job ON antiphon.attempts (job_id);


CREATE TABLE antiphon.transcripts (
    job_id     uuid PRIMARY KEY REFERENCES antiphon.jobs ON DELETE CASCADE,
    tenant_id  text NOT NULL,
    transcript json NOT NULL
);


-- An uploaded file; chunks is how many rows it has, known once all of it has arrived. A discarded one is out of
-- everybody's reach and waits to be erased, since deleting gigabytes takes longer than a settling statement may.
CREATE TABLE antiphon.uploads (
    id         uuid PRIMARY KEY,
    tenant_id  text NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 128),
    job_id     uuid REFERENCES antiphon.jobs ON DELETE CASCADE,
    chunks     integer,
    touched_at timestamptz NOT NULL DEFAULT now(),
    discarded  boolean NOT NULL DEFAULT false,

    CONSTRAINT only_whole_files_make_a_job CHECK (job_id IS NULL OR (chunks IS NOT NULL AND NOT discarded))
);

CREATE INDEX uploads_job ON antiphon.uploads (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX uploads_loose ON antiphon.uploads (touched_at) WHERE job_id IS NULL AND NOT discarded;
CREATE INDEX uploads_discarded ON antiphon.uploads (id) WHERE discarded;

CREATE TABLE antiphon.upload_chunks (
    upload_id uuid NOT NULL REFERENCES antiphon.uploads ON DELETE CASCADE,
    number    integer NOT NULL,
    tenant_id text NOT NULL,
    bytes     bytea NOT NULL,
    PRIMARY KEY (upload_id, number)
);

ALTER TABLE antiphon.upload_chunks ALTER COLUMN bytes SET STORAGE EXTERNAL;  -- media is compressed already


-- A policy also holds for members of its role, and the login is a member of both: hence current_user, which is the role
-- only in a transaction that stepped into it.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['jobs', 'leases', 'attempts', 'transcripts', 'uploads', 'upload_chunks'] LOOP
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

-- The door puts secrets in and never gets them out; it sees how far a job is, but no token.
GRANT SELECT (id, seq, tenant_id, request, uploads, priority, status, attempt, max_attempts, created_at, started_at,
              completed_at, next_attempt_at, progress, error, last_error, usage, warnings),
      INSERT (id, tenant_id, request, secrets, trace, uploads, priority, max_attempts, progress)
    ON antiphon.jobs TO antiphon_door;
GRANT SELECT (job_id, tenant_id, progress) ON antiphon.leases TO antiphon_door;
GRANT SELECT ON antiphon.transcripts TO antiphon_door;
GRANT SELECT, INSERT (id, tenant_id), UPDATE (job_id, chunks, touched_at, discarded)
    ON antiphon.uploads TO antiphon_door;
GRANT INSERT ON antiphon.upload_chunks TO antiphon_door;

GRANT SELECT, UPDATE ON antiphon.jobs TO antiphon_chain;
GRANT SELECT, INSERT, UPDATE, DELETE ON antiphon.leases TO antiphon_chain;
GRANT SELECT, INSERT ON antiphon.attempts, antiphon.transcripts TO antiphon_chain;
GRANT SELECT, UPDATE (job_id, discarded), DELETE ON antiphon.uploads TO antiphon_chain;
GRANT SELECT, DELETE ON antiphon.upload_chunks TO antiphon_chain;
