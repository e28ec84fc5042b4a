-- May this session set the roles up? Caller: db::roles.
SELECT current_user::text AS "role!", n.nspowner::regrole::text AS "owner!",
    (SELECT r.rolsuper OR r.rolcreaterole FROM pg_roles r WHERE r.rolname = current_user) AS "creates!",
    pg_has_role(n.nspowner, 'USAGE') AS "owns!",
    ARRAY(SELECT w.name FROM unnest('{stepd_enqueue,stepd_read,stepd_operate,stepd_serve,stepd_daemon}'::text[]) AS w(name)
        WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.name)) AS "missing!"
FROM pg_namespace n WHERE n.nspname = 'stepd'
