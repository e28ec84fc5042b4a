-- What the audit trail tells of the attempts of runs. Caller: db::traces. Index: events_pkey.
SELECT v.run, v.at, v.epoch, v.attempt, v.kind, v.key, CASE WHEN octet_length(v.data) <= 65536 THEN v.data END AS data
FROM stepd_engine.events v WHERE v.run = ANY ($1) AND v.kind IN ('attempt_failed', 'crashed', 'resumed', 'retried') ORDER BY v.run, v.id
