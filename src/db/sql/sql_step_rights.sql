-- What the role of sql steps may do: record them (it must), and write to stepd's own tables or become who may (it must not).
-- An application's role may insert into stepd.jobs. Caller: app::build, at start.
SELECT current_user::text AS "role!",
    coalesce((SELECT has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'stepd_engine' AND p.proname = 'commit_step'), false) AS "records!",
    EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('stepd', 'stepd_engine') AND c.relkind = 'r'
          AND (pg_has_role(c.relowner, 'MEMBER') OR has_any_column_privilege(c.oid, 'UPDATE') OR has_table_privilege(c.oid, 'DELETE, TRUNCATE')
            OR n.nspname = 'stepd_engine' AND has_any_column_privilege(c.oid, 'INSERT'))) AS "writes!"
