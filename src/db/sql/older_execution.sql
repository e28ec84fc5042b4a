-- One run with its payloads and its definition, for the older system; $2 is what a guard of its documents asks a person.
-- Caller: http::older. Index: the primary keys.
SELECT r.id AS "id!", r.workflow AS "workflow!", r.state::text AS "state!", r.created_at AS "created_at!", r.started_at, r.ended_at, r.error_message,
    coalesce(r.labels ->> 'triggered_by', r.created_by) AS triggered_by, r.labels ->> 'github_run_id' AS github_run_id,
    r.state = 'waiting' AND (SELECT count(*) > 0 FROM stepd_engine.checkpoints c
        WHERE c.run = r.id AND c.state = 'waiting' AND c.event IS NULL AND c.kind = 'approve' AND stepd_engine.failure_field(c.decision, 'prompt') = $2) AS "on_hold!",
    r.input::text AS "input!", r.output::text AS output, coalesce(r.definition,
        (SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = r.workflow)) AS definition
FROM stepd.runs r WHERE r.id = $1
