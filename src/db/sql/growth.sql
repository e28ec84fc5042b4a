-- How the history grows: its oldest run, how many ended a day in the last week of days, what one takes. Caller: the command line's db.
-- Index: the primary keys, one page each.
SELECT (SELECT r.created_at FROM stepd.runs r WHERE r.state IN ('completed', 'failed', 'cancelled') ORDER BY r.id LIMIT 1) AS oldest,
    coalesce((SELECT sum(d.runs) / greatest(1, count(DISTINCT d.day)) FROM stepd.daily d
        WHERE d.day >= (statement_timestamp() AT TIME ZONE 'UTC')::date - 7), 0)::bigint AS "runs_a_day!",
    (SELECT sum(s.runs) FROM stepd.states s WHERE s.state IN ('completed', 'failed', 'cancelled'))::bigint AS ended,
    clock_timestamp() AS "now!"
