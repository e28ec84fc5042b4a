-- Retires a workflow that was only tried out. Caller: the command line's run.
WITH gone AS (DELETE FROM stepd_engine.schedules s USING stepd_engine.workflows w WHERE s.workflow = $1 AND w.name = $1 AND w.loaded_at = $2)
UPDATE stepd_engine.workflows w SET retired_at = clock_timestamp() WHERE w.name = $1 AND w.loaded_at = $2 AND w.retired_at IS NULL
