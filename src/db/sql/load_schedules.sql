-- Gives workflows the schedules that their files say, and takes them from those whose files say none (no cron). Caller: services::catalog,
-- after load_workflow.sql, for what that worker has not loaded before as it is. In the order of the names, as there.
-- Other times begin to count now; the same times go on where they are, whoever loads them again. A pause stays.
WITH given AS (
    SELECT g.workflow, g.cron, g.timezone, g.overlap, g.catch_up FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS g(workflow, cron, timezone, overlap, catch_up)
), gone AS (
    DELETE FROM stepd_engine.schedules s USING given g WHERE s.workflow = g.workflow AND g.cron IS NULL
), loaded AS (
    INSERT INTO stepd_engine.schedules AS s (workflow, cron, timezone, overlap, catch_up)
    SELECT g.workflow, g.cron, g.timezone, g.overlap, g.catch_up FROM given g WHERE g.cron IS NOT NULL ORDER BY g.workflow
    ON CONFLICT (workflow) DO UPDATE SET cron = excluded.cron, timezone = excluded.timezone, overlap = excluded.overlap, catch_up = excluded.catch_up,
        loaded_at = clock_timestamp(),
        seen_at = CASE WHEN (s.cron, s.timezone) = (excluded.cron, excluded.timezone) THEN s.seen_at ELSE clock_timestamp() END,
        next_at = CASE WHEN (s.cron, s.timezone) = (excluded.cron, excluded.timezone) THEN s.next_at END,
        pending = CASE WHEN (s.cron, s.timezone) = (excluded.cron, excluded.timezone) THEN s.pending ELSE '{}' END
        WHERE (s.cron, s.timezone, s.overlap, s.catch_up) IS DISTINCT FROM (excluded.cron, excluded.timezone, excluded.overlap, excluded.catch_up)
    RETURNING 1
)
SELECT count(stepd_engine.wake()) AS "woken!" FROM (SELECT FROM loaded LIMIT 1) l
