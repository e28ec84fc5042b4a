-- Cancels the children of a run that ends without them. Caller: services::afterwards, after that has been committed. Indexes: children_pkey,
-- checkpoints_pkey. What is done at the run's end may have children by now, whose steps are open or not recorded yet: those are wanted.
SELECT count(stepd_engine.let_children_go($1, k.key, 'its parent has ended without it')) FROM (
    SELECT DISTINCT k.key FROM stepd_engine.children k WHERE k.parent = $1 AND k.attached AND NOT k.settled
      AND (EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = k.parent AND c.key = k.key AND c.state NOT IN ('running', 'waiting'))
        OR NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.id = k.parent AND j.state NOT IN ('completed', 'failed', 'cancelled')))
) k
