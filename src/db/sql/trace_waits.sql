-- Where the traces of runs are divided. Caller: db::traces. Index: trace_waits_pkey.
SELECT w.run, w.at FROM stepd_engine.trace_waits w WHERE w.run = ANY ($1) ORDER BY w.run, w.at
