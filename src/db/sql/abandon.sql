-- Cancels the children of runs that end without them. Caller: services::afterwards, after that has been committed.
SELECT count(stepd_engine.let_children_go(r.run, NULL, 'its parent has ended without it')) FROM unnest($1::uuid[]) AS r(run)
