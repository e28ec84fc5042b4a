-- Stores the definitions that are not there yet; the same hash is the same row on every host. Caller: services::catalog.
-- Two hosts at once: both insert in the order of the hashes; the second waits for the first and then inserts nothing.
INSERT INTO stepd_engine.definitions (hash, workflow, body)
SELECT DISTINCT ON (g.hash) g.hash, g.workflow, g.body
FROM unnest($1::text[], $2::text[], $3::text[]) AS g(hash, workflow, body)
WHERE NOT EXISTS (SELECT FROM stepd_engine.definitions d WHERE d.hash = g.hash)
ORDER BY g.hash
ON CONFLICT (hash) DO NOTHING
