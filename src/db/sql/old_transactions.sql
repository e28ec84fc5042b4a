-- The transaction of this database that has been open for longest, prepared ones included.
-- Caller: the command line's doctor.
SELECT t.pid, t.who, t.what AS "what!", t.since AS "since!", t.gid, clock_timestamp() AS "now!"
FROM (
    SELECT a.pid, a.usename::text AS who, concat_ws(', ', nullif(a.application_name, ''), a.state) AS what, a.xact_start AS since, NULL AS gid
        FROM pg_stat_activity a WHERE a.datname = current_database() AND a.xact_start IS NOT NULL AND a.pid <> pg_backend_pid()
            AND a.backend_type = 'client backend'
    UNION ALL
    SELECT NULL, p.owner::text, 'a prepared transaction', p.prepared, p.gid FROM pg_prepared_xacts p WHERE p.database = current_database()
) t ORDER BY t.since LIMIT 1
