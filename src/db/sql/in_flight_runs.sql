-- The unfinished runs of a workflow that go by another definition than this one, a page at a time. Caller: the command line's check --in-flight.
SELECT j.id, j.state::text AS "state!", j.definition IS NULL AS "unpinned!", j.input::text AS "input!"
FROM stepd.jobs j
WHERE j.workflow = $1 AND j.id > $3 AND j.state NOT IN ('completed', 'failed', 'cancelled')
    AND NOT EXISTS (SELECT FROM stepd.definitions d WHERE d.id = j.definition AND d.hash = $2)
ORDER BY j.id LIMIT $4
