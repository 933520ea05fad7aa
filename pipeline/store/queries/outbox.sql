-- The webhooks' face: events on their way, as the chain, since they are of all tenants.

-- name: due_deliveries
WITH due AS MATERIALIZED (
    SELECT id FROM antiphon.deliveries
    WHERE next_try_at <= now() AND tenant_id <> ALL ($3::text[])
    ORDER BY next_try_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE antiphon.deliveries SET tries = tries + 1, next_try_at = now() + make_interval(secs => $2)
FROM due WHERE deliveries.id = due.id
RETURNING deliveries.id, tenant_id, job_id, url, status, external_id, created_at, tries;

-- name: log_try
-- Once, however often it is told.
INSERT INTO antiphon.delivery_tries (delivery_id, tenant_id, number, seconds, status, error)
SELECT id, tenant_id, $2, $3, $4, $5 FROM antiphon.deliveries WHERE id = $1
ON CONFLICT DO NOTHING;

-- name: try_again
-- $2: in so many seconds, unless somebody else has delivered it meanwhile.
UPDATE antiphon.deliveries SET next_try_at = now() + make_interval(secs => $2) WHERE id = $1 AND url IS NOT NULL;

-- name: try_no_more
UPDATE antiphon.deliveries
SET url = NULL, next_try_at = NULL, delivered_at = CASE WHEN $2::integer BETWEEN 200 AND 299 THEN now() END
WHERE id = $1 AND url IS NOT NULL;
