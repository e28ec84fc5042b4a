-- Stores the definitions that are not there yet, and says of the others that they are in use; the same hash is the same row on every
-- host. Caller: services::catalog.
-- Two hosts at once: both lock and insert in the order of the hashes; the second waits for the first and then inserts nothing.
-- What is in use cannot be removed between this and the statement that names it (prune_definitions.sql asks for a day of silence).
WITH given AS MATERIALIZED (
    SELECT DISTINCT ON (g.hash) g.hash, g.workflow, g.body, g.handlers FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) AS g(hash, workflow, body, handlers) ORDER BY g.hash
), silent AS MATERIALIZED (
    SELECT d.id FROM stepd_engine.definitions d WHERE d.hash IN (SELECT g.hash FROM given g) AND d.used_at < clock_timestamp() - interval '1 hour'
    ORDER BY d.hash FOR NO KEY UPDATE
), told AS (
    UPDATE stepd_engine.definitions d SET used_at = clock_timestamp() WHERE d.id IN (SELECT s.id FROM silent s) RETURNING d.hash
)
INSERT INTO stepd_engine.definitions (hash, workflow, body, handlers)
SELECT g.hash, g.workflow, g.body, g.handlers FROM given g
WHERE g.hash NOT IN (SELECT t.hash FROM told t)
    AND NOT EXISTS (SELECT FROM stepd_engine.definitions d WHERE d.hash = g.hash AND d.used_at >= clock_timestamp() - interval '1 hour')
ORDER BY g.hash
ON CONFLICT (hash) DO NOTHING
