-- All steps of a run, as far as a picture of many needs them; in no order, for a huge one would be sorted on the disk. Caller: the HTTP
-- API's timeline. Index: checkpoints_pkey.
SELECT s.seq AS "seq!", s.key AS "key!", s.state::text AS "state!", s.kind AS "kind!", s.started_at AS "started_at!", s.ended_at
FROM stepd.steps s WHERE s.run = $1
