-- The schedules that are not paused, with the database's time: by it alone is decided what is due. Caller: services::scheduler.
SELECT s.workflow, s.cron, s.timezone, s.catch_up, s.seen_at, s.next_at, s.pending <> '{}' AS "pending!", clock_timestamp() AS "now!"
FROM stepd_engine.schedules s WHERE NOT s.paused ORDER BY s.workflow
