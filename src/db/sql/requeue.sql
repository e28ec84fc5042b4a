-- Brings back what a take-over has left behind, because somebody had locked it. Caller: services::sweeper. $2 the take-over's evidence.
SELECT t.requeued, t.quarantined, t.locked, t.told AS evidence FROM stepd_engine.requeue($1, $2, $3, $4) t
