-- Decides the instants of one schedule up to a time ($5), and enqueues their runs in the same transaction. NULL: somebody else has.
-- Caller: services::scheduler. Locks: the schedule's row.
SELECT stepd_engine.fire($1, $2, $3, $4, $5, $6, $7) AS runs
