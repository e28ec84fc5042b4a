-- The schedules, with what they do next and did last: all, or one by its workflow. Caller: the command line's schedule.
SELECT s.workflow AS "workflow!", s.active AS "active!", s.next_at, s.cron AS "cron!", s.timezone AS "timezone!", s.overlap AS "overlap!",
    s.catch_up AS "catch_up!", s.fired_at, s.run, s.run_state::text AS run_state, s.pending AS "pending!", s.skipped_at, s.paused_by, s.paused_at,
    clock_timestamp() AS "now!"
FROM stepd.schedules s WHERE $1::text IS NULL OR s.workflow = $1 ORDER BY s.workflow
