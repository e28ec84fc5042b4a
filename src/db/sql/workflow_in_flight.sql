-- The unfinished runs of a workflow, by the definition that they are pinned to and by state. Caller: the command line's workflow show.
SELECT j.definition, d.hash AS "hash?", d.created_at AS "loaded_at?", j.state::text AS "state!", count(*) AS "n!"
FROM stepd.jobs j LEFT JOIN stepd.definitions d ON d.id = j.definition
WHERE j.workflow = $1 AND j.state NOT IN ('completed', 'failed', 'cancelled') GROUP BY 1, 2, 3, j.state ORDER BY j.definition NULLS LAST, j.state
