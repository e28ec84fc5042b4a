-- Stages what is due, and says whether there is anything to admit. Caller: services::stager. Index: jobs_due, jobs_held.
SELECT s.staged AS "staged!", s.next_ms,
    EXISTS (SELECT FROM stepd.jobs j WHERE j.lane >= 4) OR EXISTS (SELECT FROM stepd_engine.queues q WHERE NOT q.open) AS "held!"
FROM stepd_engine.stage($1) s
