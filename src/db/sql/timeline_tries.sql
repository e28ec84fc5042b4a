-- The failed attempts of a run's steps. Caller: the HTTP API's timeline. Index: events_pkey.
SELECT v.key AS "key!", v.at AS "at!" FROM stepd_engine.events v WHERE v.run = $1 AND v.kind = 'attempt_failed' AND v.key IS NOT NULL
