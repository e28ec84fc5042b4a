-- The registered workers, the oldest first. Caller: the command line's worker and doctor.
SELECT w.id AS "id!", w.alive AS "alive!", w.stopping AS "stopping!", w.host AS "host!", w.pid AS "pid!", w.started_at AS "started_at!",
    w.beat_at AS "beat_at!", w.running AS "running!", w.slots AS "slots!", w.queues, w.version AS "version!",
    (extract(epoch FROM w.lease) * 1000)::bigint AS "lease_ms!", w.runs AS "runs!", w.facts::text AS "facts!", clock_timestamp() AS "now!"
FROM stepd.workers w ORDER BY w.started_at, w.id
