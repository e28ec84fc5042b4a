-- Commits one finished step: write_plain.sql for a batch of one, without arrays. False: the lease is lost.
-- Caller: services::writer. Locks: the worker's row (key share), then the checkpoint. Index: jobs_pkey, checkpoints_pkey.
WITH me AS MATERIALIZED (
    SELECT w.id FROM stepd_engine.workers w WHERE w.id = $1 FOR KEY SHARE
), held AS MATERIALIZED (
    SELECT j.id, j.epoch FROM stepd.jobs j
    WHERE j.id = $2 AND j.epoch = $3 AND j.state = 'running' AND j.worker = $1 AND EXISTS (SELECT FROM me)
), step AS (
    INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
    SELECT h.id, $4::integer, h.epoch, $5::timestamptz, $6::timestamptz, $7::smallint, true, 'completed', $8::text, $9::text, $10::text FROM held h
)
SELECT EXISTS (SELECT FROM held) AS "held!"
