-- Uploaded files: in through the door, out through the chain, and erased.

-- name: open_upload
INSERT INTO antiphon.uploads (id, tenant_id) VALUES ($1, $2);

-- name: write_chunk
WITH upload AS (
    UPDATE antiphon.uploads SET touched_at = now()
    WHERE id = $1 AND tenant_id = $2 AND NOT discarded
    RETURNING id, tenant_id
)
INSERT INTO antiphon.upload_chunks (upload_id, tenant_id, number, bytes)
SELECT id, tenant_id, $3, $4 FROM upload;

-- name: close_upload
UPDATE antiphon.uploads SET chunks = $3, touched_at = now() WHERE id = $1 AND tenant_id = $2 AND NOT discarded;

-- name: take_uploads
UPDATE antiphon.uploads SET job_id = $3
WHERE id = ANY ($1) AND tenant_id = $2 AND job_id IS NULL AND chunks IS NOT NULL AND NOT discarded
RETURNING id;

-- name: discard_uploads
UPDATE antiphon.uploads SET discarded = true WHERE id = ANY ($1) AND tenant_id = $2 AND job_id IS NULL;

-- name: discard_orphans
-- $1 here and below: how many at most. What another replica has in hand is left to it.
WITH batch AS MATERIALIZED (
    SELECT id FROM antiphon.uploads
    WHERE job_id IS NULL AND NOT discarded AND touched_at < now() - make_interval(secs => $2)
    LIMIT $1
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE antiphon.uploads SET discarded = true FROM batch WHERE uploads.id = batch.id RETURNING true;

-- name: erase_chunks
WITH batch AS MATERIALIZED (
    SELECT upload_id, number
    FROM antiphon.upload_chunks JOIN antiphon.uploads ON uploads.id = upload_id
    WHERE discarded
    LIMIT $1
    FOR NO KEY UPDATE OF uploads SKIP LOCKED
)
DELETE FROM antiphon.upload_chunks USING batch
WHERE upload_chunks.upload_id = batch.upload_id AND upload_chunks.number = batch.number
RETURNING true;

-- name: erase_uploads
WITH batch AS MATERIALIZED (
    SELECT id FROM antiphon.uploads
    WHERE discarded AND NOT EXISTS (SELECT FROM antiphon.upload_chunks WHERE upload_id = uploads.id)
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM antiphon.uploads USING batch WHERE uploads.id = batch.id RETURNING true;

-- name: count_chunks
SELECT chunks FROM antiphon.uploads WHERE id = $1 AND job_id = $2;

-- name: read_chunk
SELECT bytes
FROM antiphon.upload_chunks JOIN antiphon.uploads ON uploads.id = upload_id
WHERE upload_id = $1 AND job_id = $2 AND number = $3;
