-- The parameter types of the statement that a sql step has just prepared.
-- Caller: sql_step/execute.rs. Locks: none. Index: pg_type by oid.
SELECT t.oid, t.typname::text AS name, t.typcategory = 'A' AS is_array, COALESCE(e.typname::text, '') AS element
FROM pg_catalog.pg_prepared_statements s
CROSS JOIN LATERAL unnest(s.parameter_types::oid[]) WITH ORDINALITY AS p (type, n)
JOIN pg_catalog.pg_type t ON t.oid = p.type
LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
WHERE s.name = 'stepd_step'
ORDER BY p.n
