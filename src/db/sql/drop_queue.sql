-- Forgets an exclusive queue in which nothing stands any more. Caller: the command line's run.
DELETE FROM stepd_engine.queues q WHERE q.name = $1 AND q.exclusive AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.queue = $1)
