-- Makes a definition the workflow's present one. Caller: services::catalog, for what it has not loaded before: the last load wins.
-- A row comes back when that changed anything; `was`: the definition before.
WITH before AS (
    SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = $1
)
INSERT INTO stepd_engine.workflows AS w (name, definition, queue, priority, source) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, queue = excluded.queue, priority = excluded.priority,
    source = excluded.source, loaded_at = clock_timestamp(), retired_at = NULL
WHERE (w.definition, w.queue, w.priority, w.source) IS DISTINCT FROM (excluded.definition, excluded.queue, excluded.priority, excluded.source)
    OR w.retired_at IS NOT NULL
RETURNING (SELECT b.definition FROM before b) AS was
