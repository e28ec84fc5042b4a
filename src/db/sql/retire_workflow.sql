-- Retires a workflow: new jobs may not name it any more; its runs go on. Caller: the command line's workflow retire.
WITH gone AS (DELETE FROM stepd_engine.schedules s WHERE s.workflow = $1)
UPDATE stepd_engine.workflows w SET retired_at = clock_timestamp() WHERE w.name = $1 AND w.retired_at IS NULL
