-- Retires a workflow that was only tried out. Caller: the command line's run.
UPDATE stepd_engine.workflows w SET retired_at = clock_timestamp() WHERE w.name = $1 AND w.loaded_at = $2 AND w.retired_at IS NULL
