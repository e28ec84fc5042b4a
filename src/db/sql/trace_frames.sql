-- The steps of runs that are made of other steps. Caller: db::traces. Index: checkpoints_pkey.
SELECT c.run, c.key, c.started_at, c.ended_at FROM stepd_engine.checkpoints c
WHERE c.run = ANY ($1) AND c.kind IN ('map', 'repeat', 'switch', 'agent')
