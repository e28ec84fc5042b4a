-- The figures of each workflow over days, or of one by name. Caller: the command line's stats.
SELECT s.workflow AS "workflow!", s.runs AS "runs!", s.completed AS "completed!", s.failed AS "failed!", s.cancelled AS "cancelled!",
    s.success_rate::float8 AS success_rate, (extract(epoch FROM s.duration_avg) * 1000)::bigint AS avg_ms,
    (extract(epoch FROM s.duration_p50) * 1000)::bigint AS p50_ms, (extract(epoch FROM s.duration_p95) * 1000)::bigint AS p95_ms,
    (extract(epoch FROM s.waited_avg) * 1000)::bigint AS waited_ms, s.resumes AS "resumes!", s.crashes AS "crashes!",
    s.tokens_in, s.tokens_out, s.cost::float8 AS cost
FROM stepd.stats($1, $2, $3) s
