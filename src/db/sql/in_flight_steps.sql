-- What is recorded of the steps of some runs. Caller: the command line's check --in-flight. Index: checkpoints_pkey.
SELECT c.run, c.key, c.kind, c.state::text AS "state!" FROM stepd_engine.checkpoints c WHERE c.run = ANY($1) ORDER BY c.run, c.seq
