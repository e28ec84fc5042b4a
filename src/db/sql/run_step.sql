-- One step of a run, with its output. Caller: the HTTP API.
SELECT s.key AS "key!", s.kind AS "kind!", s.state::text AS "state!", s.attempts AS "attempts!", s.started_at AS "started_at!", s.ended_at, s.due_at,
    s.error_code, s.error_message, s.output::text AS output, s.error::text AS error, s.event, s.epoch AS "epoch!", s.label, s.child,
    s.calls, s.tokens_in, s.tokens_out, s.cost::float8 AS cost,
    CASE s.kind WHEN 'switch' THEN s.decision ->> 'case' WHEN 'end' THEN s.decision ->> 'state' END AS chosen
FROM stepd.steps s WHERE s.run = $1 AND s.key = $2
