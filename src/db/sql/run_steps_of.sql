-- Some steps of a run, by their keys, in the order of their start. Caller: the HTTP API; $3 brings the outputs along. Index: checkpoints_pkey.
SELECT s.seq AS "seq!", s.key AS "key!", s.kind AS "kind!", s.state::text AS "state!", s.attempts AS "attempts!", s.started_at AS "started_at!", s.ended_at, s.due_at,
    s.error_code, s.error_message, CASE WHEN $3 THEN s.output::text END AS output, s.error::text AS error, s.event, s.epoch AS "epoch!", s.label, s.child,
    s.calls, s.tokens_in, s.tokens_out, s.cost::float8 AS cost,
    CASE s.kind WHEN 'switch' THEN s.decision ->> 'case' WHEN 'end' THEN s.decision ->> 'state' END AS chosen
FROM stepd.steps s WHERE s.run = $1 AND s.key = ANY ($2::text[]) ORDER BY s.seq, s.key
