-- Which of these runs has somebody's open transaction locked? Writes nothing, and waits for nobody.
-- Caller: the writer, where a batch has met such a lock.
WITH free AS MATERIALIZED (
    SELECT j.id FROM stepd.jobs j WHERE j.id = ANY ($1::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
)
SELECT j.id FROM stepd.jobs j WHERE j.id = ANY ($1::uuid[]) AND j.id NOT IN (SELECT f.id FROM free f)
