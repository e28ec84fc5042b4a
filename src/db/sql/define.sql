-- Registers a definition by its content hash; the same hash is the same id on every host. Caller: services::catalog.
-- Two hosts at once: the second waits for the first and then updates nothing new, but gets the id.
INSERT INTO stepd_engine.definitions AS d (hash, workflow, body) VALUES ($1, $2, $3)
ON CONFLICT (hash) DO UPDATE SET hash = excluded.hash RETURNING d.id
