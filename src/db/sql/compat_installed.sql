-- Which of the older systems' views and tables are there? Caller: db::compat.
SELECT coalesce(bool_or(n.nspname = 'stepd_afu9'), false) AS "views!", coalesce(bool_or(n.nspname = 'stepd_tables'), false) AS "tables!"
FROM pg_namespace n WHERE n.nspname IN ('stepd_afu9', 'stepd_tables')
