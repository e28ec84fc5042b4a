-- What is recorded of the steps of some runs. Caller: the command line's check --in-flight. Index: checkpoints_pkey.
SELECT s.run AS "run!", s.key AS "key!", s.kind AS "kind!", s.state::text AS "state!" FROM stepd.steps s WHERE s.run = ANY($1) ORDER BY s.run, s.seq
