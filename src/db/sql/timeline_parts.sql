-- All steps of a run in the order of their start, as far as a picture of many needs them. Caller: the HTTP API's timeline.
-- Index: checkpoints_pkey.
SELECT s.seq AS "seq!", s.key AS "key!", s.state::text AS "state!", s.kind AS "kind!", s.started_at AS "started_at!", s.ended_at
FROM stepd.steps s WHERE s.run = $1 ORDER BY s.seq, s.key
