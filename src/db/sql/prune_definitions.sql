-- Removes the definitions that nothing names any more: no workflow, no run, no worker for a day. Caller: services::retention, after it
-- has walked through the history. A claim pins only what its worker has, and says every hour that it has.
WITH silent AS MATERIALIZED (
    SELECT d.id FROM stepd_engine.definitions d WHERE d.used_at < clock_timestamp() - interval '1 day'
        AND NOT EXISTS (SELECT FROM stepd_engine.workflows w WHERE w.definition = d.id)
    ORDER BY d.id LIMIT $1
)
DELETE FROM stepd_engine.definitions d
WHERE d.id IN (SELECT s.id FROM silent s) AND d.used_at < clock_timestamp() - interval '1 day'
    AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.definition = d.id)
    AND NOT EXISTS (SELECT FROM stepd_engine.ended e WHERE e.definition = d.id)
