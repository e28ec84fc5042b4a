-- Have the roles been granted anything in this database? Then what a migration adds is granted to them, too. Caller: db::roles.
SELECT EXISTS (SELECT FROM pg_namespace n, pg_roles r, aclexplode(n.nspacl) a
    WHERE n.nspname = 'stepd' AND r.rolname = 'stepd_daemon' AND a.grantee = r.oid) AS "granted!"
