-- Makes a workflow known that is not, or no longer: a job may name it now. One that others have loaded stays as it is.
-- Caller: the command line's run, which withdraws it in the same transaction, by the time that comes back.
INSERT INTO stepd_engine.workflows AS w (name, definition, queue, priority, source) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, queue = excluded.queue, priority = excluded.priority,
    source = excluded.source, loaded_at = clock_timestamp(), retired_at = NULL
WHERE w.retired_at IS NOT NULL
RETURNING w.loaded_at
