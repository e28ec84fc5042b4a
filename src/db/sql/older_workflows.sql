-- All workflows, or one by name, with their definitions and their newest runs, for the older system. $2 is the one that stands for documents which a
-- request brought along: it is none of them. Caller: http::older. Index: ended_of_workflow; the live runs are read once.
SELECT w.name, w.definition, w.retired_at IS NULL AS "enabled!", w.loaded_at, d.body,
    (SELECT min(x.created_at) FROM stepd_engine.definitions x WHERE x.workflow = w.name) AS "created_at!",
    r.id AS "last?", r.state::text AS "last_state?", coalesce(r.started_at, r.created_at) AS "last_started_at?", r.ended_at AS "last_ended_at?",
    coalesce(r.labels ->> 'triggered_by', r.created_by) AS "last_triggered_by?"
FROM stepd_engine.workflows w
JOIN stepd_engine.definitions d ON d.id = w.definition
LEFT JOIN (SELECT DISTINCT ON (j.workflow) j.workflow, j.id FROM stepd.jobs j
    WHERE j.state NOT IN ('completed', 'failed', 'cancelled') AND ($1::text IS NULL OR j.workflow = $1) ORDER BY j.workflow, j.id DESC) l ON l.workflow = w.name
LEFT JOIN LATERAL (SELECT e.id FROM stepd_engine.ended e WHERE e.workflow = w.name ORDER BY e.id DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (SELECT x.* FROM stepd.runs x WHERE x.id = greatest(l.id, p.id)) r ON true
WHERE w.name <> $2 AND ($1::text IS NULL OR w.name = $1) ORDER BY w.name
