-- Answers the steps that wait for runs that have ended; the ones that somebody else holds: ask again. Caller: services::afterwards, after
-- the ends have been committed. Index: children_child, checkpoints_pkey, jobs_pkey, ended_pkey.
SELECT t.again AS "again!" FROM stepd_engine.tell_parents($1) t
