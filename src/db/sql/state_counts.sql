-- How many runs there are in each state; of ended ones, where they are very many, what the statistics say. Caller: the command line's db.
SELECT j.state::text AS "state!", count(*) AS "n!", false AS "estimated!" FROM stepd.jobs j WHERE j.state NOT IN ('completed', 'failed', 'cancelled') GROUP BY j.state
UNION ALL
SELECT e.state::text, count(*), false FROM stepd_engine.ended e
    WHERE (SELECT c.reltuples < 200000 FROM pg_class c WHERE c.oid = 'stepd_engine.ended'::regclass) GROUP BY e.state
UNION ALL
SELECT v.state, round(v.part * c.reltuples)::bigint, true
    FROM pg_class c, pg_stats s, unnest(s.most_common_vals::text::text[], s.most_common_freqs) AS v(state, part)
    WHERE c.oid = 'stepd_engine.ended'::regclass AND c.reltuples >= 200000
        AND s.schemaname = 'stepd_engine' AND s.tablename = 'ended' AND s.attname = 'state'
