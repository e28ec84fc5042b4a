-- The journal of runs that came back. Caller: services::claimer. Index: checkpoints_pkey.
SELECT c.run, c.seq, c.epoch, c.started_at, c.ended_at, c.attempts, c.checkpoint, c.state::text AS "state!", c.key, c.kind,
    c.output, c.error, c.decision, (extract(epoch FROM c.due_at - clock_timestamp()) * 1000)::bigint AS due_in_ms
FROM stepd_engine.checkpoints c WHERE c.run = ANY ($1) ORDER BY c.run, c.seq
