-- Forgets an exclusive queue in which nothing stands any more, unless its run ($2) has failed: a retry must find the queue as it was,
-- or it would go to workers that have never seen what was tried out. Caller: the command line's run.
DELETE FROM stepd_engine.queues q WHERE q.name = $1 AND q.exclusive AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.queue = $1 AND j.state NOT IN ('completed', 'failed', 'cancelled'))
    AND NOT EXISTS (SELECT FROM stepd_engine.ended e WHERE e.id = $2 AND e.state = 'failed')
