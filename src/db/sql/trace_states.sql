-- The workflow and the state of runs: which of them are traced is decided before more is read. Caller: db::traces. Index: ended_pkey, jobs_pkey.
SELECT e.id AS "id!", e.workflow AS "workflow!", e.state::text AS "state!" FROM stepd_engine.ended e WHERE e.id = ANY ($1)
UNION ALL
SELECT j.id, j.workflow, j.state::text FROM stepd.jobs j WHERE j.id = ANY ($1) AND j.state NOT IN ('completed', 'failed', 'cancelled')
