-- The runs that a person has stopped, or that a guard of the older system's documents has ($1 is what it asks), the oldest first.
-- Caller: http::older. Index: signals_pauses, checkpoints_waiting; no index knows a job's state.
SELECT r.id AS "id!", r.workflow AS "workflow!", r.state::text AS "state!", r.created_at AS "created_at!", r.started_at, r.ended_at, r.error_message,
    coalesce(r.labels ->> 'triggered_by', r.created_by) AS triggered_by, r.labels ->> 'github_run_id' AS github_run_id,
    r.state = 'waiting' AS "on_hold!",
    r.input::text AS "input!", r.output::text AS output, coalesce(r.definition,
        (SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = r.workflow)) AS definition
FROM stepd.runs r WHERE r.id = ANY (ARRAY(
        SELECT g.run FROM stepd_engine.signals g JOIN stepd.jobs j ON j.id = g.run WHERE g.kind = 'pause' AND j.state = 'paused'
        UNION
        SELECT c.run FROM stepd_engine.checkpoints c JOIN stepd.jobs j ON j.id = c.run
            WHERE c.state = 'waiting' AND c.event IS NULL AND c.kind = 'approve' AND stepd_engine.failure_field(c.decision, 'prompt') = $1 AND j.state = 'waiting'
        ORDER BY run LIMIT $2))
    AND r.state IN ('paused', 'waiting')
ORDER BY r.id
