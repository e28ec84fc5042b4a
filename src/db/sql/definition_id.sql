-- The id of a stored definition. Caller: services::catalog, to try a definition out.
SELECT d.id FROM stepd_engine.definitions d WHERE d.hash = $1
