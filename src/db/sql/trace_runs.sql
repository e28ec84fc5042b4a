-- Runs, as their traces need them; inputs and outputs up to $2 characters, 0: without. Caller: db::traces. Index: ended_pkey, jobs_pkey,
-- checkpoints_pkey, children_child.
SELECT r.id AS "id!", r.workflow AS "workflow!", r.state AS "state!", r.queue AS "queue!", r.priority AS "priority!", r.epoch AS "epoch!",
    r.resumes AS "resumes!", r.crashes AS "crashes!", stepd_engine.uuid_time(r.id) AS created_at, r.started_at, r.ended_at, r.worker, r.session_id,
    r.labels AS "labels!", r.input, r.output, r.error, r.traceparent, r.last_seq, r.last_attempts, r.last_started_at, r.last_key, r.last_kind,
    r.last_output, k.parent AS "parent?", k.key AS "parent_key?", s.first_at, s.last_at, s.steps AS "steps!"
FROM (
    SELECT e.id, e.workflow, e.state::text AS state, e.queue, e.priority, e.epoch, e.resumes, e.crashes, e.started_at, e.ended_at, e.worker, e.session_id,
        e.labels::text AS labels, CASE WHEN $2 > 0 THEN left(e.input::text, $2) END AS input, CASE WHEN $2 > 0 THEN left(e.output, $2) END AS output,
        e.error, e.traceparent, e.last_seq, e.last_attempts, e.last_started_at, e.last_key, e.last_kind,
        CASE WHEN e.last_output IS NOT NULL THEN left(e.last_output, $2) END AS last_output
    FROM stepd_engine.ended e WHERE e.id = ANY ($1)
    UNION ALL
    SELECT j.id, j.workflow, j.state::text, j.queue, coalesce(j.priority, 5::smallint), j.epoch, j.resumes, j.crashes, coalesce(j.first_started_at, j.started_at), NULL, j.worker, j.session_id,
        j.labels::text, CASE WHEN $2 > 0 THEN left(j.input::text, $2) END, NULL, j.error, j.traceparent, NULL, NULL, NULL, NULL, NULL, NULL
    FROM stepd.jobs j WHERE j.id = ANY ($1) AND j.state NOT IN ('completed', 'failed', 'cancelled')
) r
LEFT JOIN stepd_engine.children k ON k.child = r.id
CROSS JOIN LATERAL (SELECT min(c.started_at) AS first_at, max(greatest(c.started_at, c.ended_at)) AS last_at, count(*) AS steps
    FROM stepd_engine.checkpoints c WHERE c.run = r.id AND NOT (c.checkpoint AND c.attempts = 0)) s
