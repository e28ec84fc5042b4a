-- What the server says of itself and of the room for connections. A session that hides what it does from this role counts as an
-- application's. Caller: the command line's doctor.
SELECT current_database() AS "database!", current_setting('server_version') AS "version!", clock_timestamp() AS "now!",
    current_setting('autovacuum')::boolean AS "autovacuum!", current_setting('track_counts')::boolean AS "track_counts!",
    current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer AS "room!",
    a.used AS "used!", a.hidden AS "hidden!",
    d.datconnlimit AS "database_room!", a.database_used AS "database_used!",
    r.rolconnlimit AS "role_room!", a.role_used AS "role_used!",
    r.rolname::text AS "role!", r.rolsuper AS "superuser!",
    coalesce((SELECT pg_has_role(n.nspowner, 'USAGE') FROM pg_namespace n WHERE n.nspname = 'stepd'), false) AS "owner!", pg_database_size(current_database()) AS "bytes!", pg_is_in_recovery() AS "standby!"
FROM pg_database d, pg_roles r, (
    SELECT count(*) AS used, count(*) FILTER (WHERE a.datname = current_database()) AS database_used,
        count(*) FILTER (WHERE a.usename = current_user) AS role_used, count(*) FILTER (WHERE a.backend_type IS NULL) AS hidden
    FROM pg_stat_activity a WHERE a.backend_type = 'client backend' OR a.backend_type IS NULL AND a.datname IS NOT NULL
) a WHERE d.datname = current_database() AND r.rolname = current_user
