-- Retires a workflow: new jobs may not name it any more and its schedule ends; its runs go on. Caller: the command line's workflow retire; its
-- run, for what was only tried out: then only what it has loaded itself ($2 when; NULL: whenever).
WITH gone AS (
    DELETE FROM stepd_engine.schedules s USING stepd_engine.workflows w
    WHERE s.workflow = $1 AND w.name = $1 AND ($2::timestamptz IS NULL OR w.loaded_at = $2)
)
UPDATE stepd_engine.workflows w SET retired_at = clock_timestamp()
WHERE w.name = $1 AND ($2::timestamptz IS NULL OR w.loaded_at = $2) AND w.retired_at IS NULL
