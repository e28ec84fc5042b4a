-- One statement a second on the lock session: heartbeat (when $2), proof of life, and a look at all workers.
-- Caller: services::presence. Locks: the worker's own row, when it beats.
-- A heartbeat that had to wait for a take-over finds its row gone, which the statement's snapshot still shows: then it is left out.
WITH beat AS (
    UPDATE stepd_engine.workers w SET beat = w.beat + 1, beat_at = clock_timestamp(), facts = $3, stopping = $4 WHERE w.id = $1 AND $2 RETURNING 1
), held AS MATERIALIZED (
    SELECT l.objid::bigint AS number, l.pid = pg_backend_pid() AS mine FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND l.classid = 'stepd_engine.workers'::regclass::oid
)
SELECT w.id, w.number, w.beat, w.lease_ms, clock_timestamp() AS "now!",
    EXISTS (SELECT FROM held h WHERE h.number = w.number) AS "locked!",
    EXISTS (SELECT FROM held h WHERE h.number = w.number AND h.mine) AS "locked_by_me!",
    EXISTS (SELECT FROM stepd_engine.worker_sessions s WHERE s.worker = w.id AND s.started = pg_postmaster_start_time()) AS "marked!"
FROM stepd_engine.workers w WHERE NOT $2 OR w.id <> $1 OR EXISTS (SELECT FROM beat)
