-- How many runs a workflow has, for the older system: a few are counted ($2), of many the statistics say it where they know the workflow.
-- Caller: http::older.
SELECT (SELECT count(*) FROM stepd.jobs j WHERE j.workflow = $1 AND j.state NOT IN ('completed', 'failed', 'cancelled'))
    + CASE WHEN $2::bigint < 1000 THEN $2 ELSE coalesce(
        (SELECT greatest($2, round(v.part * c.reltuples)::bigint)
            FROM pg_class c, pg_stats s, unnest(s.most_common_vals::text::text[], s.most_common_freqs) AS v(workflow, part)
            WHERE c.oid = 'stepd_engine.ended'::regclass AND c.reltuples >= 200000
                AND s.schemaname = 'stepd_engine' AND s.tablename = 'ended' AND s.attname = 'workflow' AND v.workflow = $1),
        (SELECT count(*) FROM stepd_engine.ended e WHERE e.workflow = $1)) END AS "n!"
