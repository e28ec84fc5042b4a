-- The steps of some runs in the order of their start, for the older system. Caller: http::older. Index: checkpoints_pkey.
SELECT s.run AS "run!", s.key AS "key!", s.kind AS "kind!", s.state::text AS "state!", s.attempts AS "attempts!", s.started_at AS "started_at!", s.ended_at,
    s.error_message, s.output::text AS output
FROM stepd.steps s WHERE s.run = ANY ($1) AND s.kind <> 'end' ORDER BY s.run, s.seq, s.key
