-- The checkpoint of a sql step, in the transaction of its effect; false when the lease is lost or the step is done already.
-- Caller: services::sql_effect. Locks: the worker's row (key share), then the step's row.
SELECT stepd_engine.commit_step($1, $2, $3, $4, 'sql', $5, $6, $7, $8, $9) AS "done!"
