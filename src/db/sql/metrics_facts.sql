-- What the metrics say of the whole database in one figure each. Caller: the HTTP server's metrics.
-- Index: jobs_due, jobs_of_key (whose predicate the one of the places is; $1 of them at the most), the primary keys.
SELECT (SELECT count(*) FROM (SELECT FROM stepd.jobs j
        WHERE j.concurrency_key IS NOT NULL AND (j.lane <= 2 OR j.lane = 3 AND j.error IS NOT NULL)
          AND j.workflow IN (SELECT f.name FROM stepd_engine.workflows f WHERE f.flow ? 'concurrency') LIMIT $1) p) AS "places!",
    greatest(0, extract(epoch FROM statement_timestamp() - (SELECT min(j.due_at) FROM stepd.jobs j
        WHERE j.due_at IS NOT NULL AND j.state IN ('scheduled', 'waiting', 'resuming'))))::float8 AS "oldest_due!",
    greatest(0, extract(epoch FROM statement_timestamp() - (SELECT min(s.next_at) FROM stepd.schedules s WHERE s.active)))::float8 AS "schedule_lag!",
    (SELECT count(*) FROM stepd.breakers b WHERE b.closed_at IS NULL) AS "breakers!",
    w.alive AS "alive!", w.dead AS "dead!", w.slots AS "slots!",
    greatest(0, extract(epoch FROM statement_timestamp() - (SELECT min(a.xact_start) FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid())))::float8 AS "oldest_transaction!",
    (SELECT coalesce(max(age(h.xmin)), 0)::bigint FROM (
        SELECT a.backend_xmin FROM pg_stat_activity a WHERE coalesce(a.datname, current_database()) = current_database() AND a.pid <> pg_backend_pid()
        UNION ALL SELECT p.transaction FROM pg_prepared_xacts p WHERE p.database = current_database()
        UNION ALL SELECT s.xmin FROM pg_replication_slots s) h (xmin)) AS "held_back!",
    extract(epoch FROM statement_timestamp() - (SELECT stepd_engine.uuid_time(e.id) FROM stepd_engine.ended e ORDER BY e.id LIMIT 1))::float8 AS history
FROM (SELECT count(*) FILTER (WHERE a.alive) AS alive, count(*) FILTER (WHERE NOT a.alive) AS dead, coalesce(sum(a.slots) FILTER (WHERE a.alive), 0) AS slots
    FROM stepd.workers a) w
