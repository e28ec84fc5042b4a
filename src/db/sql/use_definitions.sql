-- Says of definitions that a worker has them: nobody removes them within a day. What another worker says just now is left to it.
-- Caller: services::retention, every hour.
UPDATE stepd_engine.definitions d SET used_at = clock_timestamp() WHERE d.id IN (
    SELECT x.id FROM stepd_engine.definitions x WHERE x.id = ANY($1) AND x.used_at < clock_timestamp() - interval '30 minutes'
    ORDER BY x.id FOR NO KEY UPDATE SKIP LOCKED)
