-- The texts of some definitions. Caller: http::older. Index: definitions_pkey.
SELECT d.id, d.body AS "body!" FROM stepd_engine.definitions d WHERE d.id = ANY ($1) AND d.body IS NOT NULL
