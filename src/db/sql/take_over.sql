-- Ends a dead worker's registration and brings its runs back. Caller: services::sweeper. See the function for the order of locks.
SELECT t.requeued, t.quarantined, t.locked, t.evidence FROM stepd_engine.take_over($1, $2, $3, $4, $5, $6) t
