-- What happened to a run beside its steps' starts and ends: the failed attempts of the steps in $2, and everything else; the newest $3.
-- Caller: the HTTP API's timeline. Index: events_pkey.
SELECT 0::bigint AS "seq!", h.at AS "at!", h.event AS "event!", h.key, h.attempt::integer AS attempt, h.by_whom, h.epoch, h.data::text AS data FROM (
    SELECT v.id, v.at, replace(v.kind, '_', ' ') AS event, v.key, v.attempt, v.by_whom, v.epoch,
        CASE WHEN v.kind = 'event_received' THEN json_build_object('signal', v.data) ELSE stepd_engine.failure_json(v.data) END AS data
    FROM stepd_engine.events v WHERE v.run = $1 AND v.kind <> 'called' AND (v.kind <> 'attempt_failed' OR v.key = ANY ($2)) ORDER BY v.id DESC LIMIT $3
) h ORDER BY h.at, h.id
