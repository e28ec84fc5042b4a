-- How large stepd's tables are, and what autovacuum has made of them. Caller: the command line's db and doctor.
SELECT n.nspname || '.' || c.relname AS "name!", greatest(c.reltuples, 0)::bigint AS "rows!", pg_table_size(c.oid) AS "bytes!",
    pg_indexes_size(c.oid) AS "index_bytes!", coalesce(s.n_live_tup, 0) AS "live!", coalesce(s.n_dead_tup, 0) AS "dead!",
    coalesce(s.n_mod_since_analyze, 0) AS "changed!", greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
    greatest(s.last_analyze, s.last_autoanalyze) AS analyzed_at,
    coalesce('autovacuum_enabled=false' = ANY (c.reloptions) OR 'autovacuum_enabled=off' = ANY (c.reloptions), false) AS "switched_off!",
    clock_timestamp() AS "now!"
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE n.nspname IN ('stepd', 'stepd_engine') AND c.relkind = 'r' ORDER BY pg_total_relation_size(c.oid) DESC, 1
