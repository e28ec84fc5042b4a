-- After suspends: brings each run back if one of its waits has been answered meanwhile. Those that are named: ask again. Without a key: a
-- run that waits for none. Caller: services::afterwards.
SELECT s.run AS "run!" FROM (
    SELECT w.run, array_agg(w.key) FILTER (WHERE w.key IS NOT NULL) AS keys FROM unnest($1::uuid[], $2::text[]) AS w(run, key) GROUP BY w.run ORDER BY w.run OFFSET 0
) s WHERE NOT stepd_engine.settle(s.run, coalesce(s.keys, '{}'))
