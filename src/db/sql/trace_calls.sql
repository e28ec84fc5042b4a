-- What attempts of runs have asked of others, so many lines at a time: of the first run those after line $2. Caller: db::traces.
-- Index: events_pkey. LATERAL keeps to the order of the runs, so that nothing is sorted.
SELECT c.run, c.id, c.epoch AS "epoch!", c.attempt AS "attempt!", c.key AS "key!", c.data AS "data!"
FROM unnest($1::uuid[]) WITH ORDINALITY AS r(run, n), LATERAL (
    SELECT v.run, v.id, v.epoch, v.attempt, v.key, v.data FROM stepd_engine.events v
    WHERE v.run = r.run AND (r.n > 1 OR v.id > $2) AND v.kind = 'called' AND v.epoch IS NOT NULL AND v.data IS NOT NULL ORDER BY v.id LIMIT $3) c
LIMIT $3
