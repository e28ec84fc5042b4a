-- Who has stopped some runs and let them go on, in order, for the older system. Caller: http::older. Index: events_pkey.
SELECT v.run AS "run!", v.kind AS "kind!", v.at AS "at!", v.by_whom, v.key, stepd_engine.failure_field(v.data, 'reason') AS reason
FROM stepd_engine.events v
WHERE v.run = ANY ($1) AND (v.kind IN ('paused', 'unpaused') OR v.kind IN ('approved', 'rejected') AND v.key LIKE 'hold[%') ORDER BY v.run, v.id
