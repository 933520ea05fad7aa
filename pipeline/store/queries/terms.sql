-- The operator's face: what tenants may have.

-- name: list_terms
-- By code points, whatever the database sorts by.
SELECT tenant_id, weight, max_running, max_pending FROM antiphon.tenants ORDER BY tenant_id COLLATE "C";

-- name: set_terms
INSERT INTO antiphon.tenants (tenant_id, weight, max_running, max_pending) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id) DO UPDATE SET weight = $2, max_running = $3, max_pending = $4;
