-- The journal of a run that came back. Caller: services::writer, in the run's own task. Index: checkpoints_pkey. In no order:
-- a huge one would be sorted on the disk before its first row comes.
SELECT c.seq, c.epoch, c.started_at, c.ended_at, c.attempts, c.checkpoint, c.state::text AS "state!", c.key, c.kind,
    c.output, c.error, c.decision, c.usage, (extract(epoch FROM c.due_at - clock_timestamp()) * 1000)::bigint AS due_in_ms
FROM stepd_engine.checkpoints c WHERE c.run = $1
