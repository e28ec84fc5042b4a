-- The newest runs, for the list of the older system; $2 is what a guard of its documents asks a person. Caller: http::older. Index:
-- the primary keys; checkpoints_waiting for the runs that wait.
SELECT r.id AS "id!", r.workflow AS "workflow!", r.state::text AS "state!", r.created_at AS "created_at!", r.started_at, r.ended_at, r.error_message,
    coalesce(r.labels ->> 'triggered_by', r.created_by) AS triggered_by, r.labels ->> 'github_run_id' AS github_run_id,
    r.state = 'waiting' AND (SELECT count(*) > 0 FROM stepd_engine.checkpoints c
        WHERE c.run = r.id AND c.state = 'waiting' AND c.event IS NULL AND c.kind = 'approve' AND stepd_engine.failure_field(c.decision, 'prompt') = $2) AS "on_hold!"
FROM stepd.runs r ORDER BY r.id DESC LIMIT $1
