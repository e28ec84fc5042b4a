-- One run with all that is known of it, and the sentence on what it waits for. Caller: the command line's show.
SELECT r.id AS "id!", r.state::text AS "state!", r.workflow AS "workflow!", r.queue AS "queue!", r.priority AS "priority!",
    r.created_at AS "created_at!", r.run_at, r.started_at, r.ended_at, r.due_at, r.step, r.attempts, r.resumes AS "resumes!",
    r.crashes AS "crashes!", r.unique_key, r.labels::text AS "labels!", r.input::text AS "input!", r.output::text AS output,
    r.error::text AS error, r.created_by, r.session_id, r.epoch AS "epoch!", r.forked_from,
    CASE WHEN r.forked_from IS NOT NULL THEN (SELECT h.key FROM stepd.history h WHERE h.run = r.id AND h.event = 'forked' LIMIT 1) END AS from_step, r.parent, r.worker, r.calls, r.tokens_in, r.tokens_out, r.cost::float8 AS cost, stepd.why(r.id) AS "why!", clock_timestamp() AS "now!"
FROM stepd.runs r WHERE r.id = $1
