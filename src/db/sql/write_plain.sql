-- Commits a batch of the common kind: finished steps without a row yet ($2..$10) and completed runs ($11..$19), and nothing
-- else. What write_batch.sql does, in fewer plan nodes and without the speculative insert of ON CONFLICT: half the time at
-- Postgres, a fifth less WAL. A row that is there after all fails it (23505); the writer then takes the other.
-- Runs whose unique key outlives them do not come here.
-- Caller: services::writer. Locks: the worker's row (key share), then job rows under its leases, then checkpoints.
-- Index: jobs_pkey, checkpoints_pkey. The parts do not see each other: at most one row for each (run, key) and for each ended run.
-- LATERAL with OFFSET 0 is looked up row by row, whatever the statistics say: joined plainly, the generic plan that was made after
-- a vacuum of the emptied table (no rows, many pages) read the whole index for every batch.
WITH me AS MATERIALIZED (
    SELECT w.id FROM stepd_engine.workers w WHERE w.id = $1 FOR KEY SHARE
), held AS MATERIALIZED (
    SELECT s.run, s.epoch, s.seq, s.started_at, s.ended_at, s.attempts, s.key, s.kind, s.output
    FROM unnest($2::uuid[], $3::integer[], $4::integer[], $5::timestamptz[], $6::timestamptz[], $7::smallint[], $8::text[], $9::text[], $10::text[])
        AS s(run, epoch, seq, started_at, ended_at, attempts, key, kind, output),
    LATERAL (SELECT FROM stepd.jobs j WHERE j.id = s.run AND j.epoch = s.epoch AND j.state = 'running' AND j.worker = $1 OFFSET 0) j
    WHERE EXISTS (SELECT FROM me)
), step AS (
    INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
    SELECT h.run, h.seq, h.epoch, h.started_at, h.ended_at, h.attempts, true, 'completed', h.key, h.kind, h.output FROM held h
), ending AS MATERIALIZED (
    SELECT e.*, j.ctid AS place
    FROM unnest($11::uuid[], $12::integer[], $13::text[], $14::integer[], $15::smallint[], $16::timestamptz[], $17::text[], $18::text[], $19::text[])
        AS e(run, epoch, output, last_seq, last_attempts, last_started_at, last_key, last_kind, last_output),
    LATERAL (SELECT j.ctid FROM stepd.jobs j WHERE j.id = e.run AND j.epoch = e.epoch AND j.state = 'running' AND j.worker = $1 OFFSET 0) j
    WHERE EXISTS (SELECT FROM me)
), gone AS (
    DELETE FROM stepd.jobs j USING ending e
    WHERE j.ctid = e.place AND j.epoch = e.epoch AND j.state = 'running' AND j.worker = $1 AND j.unique_keep IS NULL
    RETURNING j.id, j.epoch, j.definition, j.priority, j.resumes, j.crashes, j.ready_at, j.run_at, coalesce(j.first_started_at, j.started_at) AS started_at, j.workflow, j.queue, j.input, j.labels,
        j.unique_key, j.concurrency_key, j.traceparent, j.session_id, j.created_by,
        e.output, e.last_seq, e.last_attempts, e.last_started_at, e.last_key, e.last_kind, e.last_output
), kept AS (
    INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, run_at, started_at, ended_at, worker,
        workflow, queue, input, labels, unique_key, concurrency_key, traceparent, session_id, created_by, output,
        last_seq, last_attempts, last_started_at, last_key, last_kind, last_output)
    SELECT g.id, 'completed', g.epoch, g.definition, g.priority, g.resumes, g.crashes, g.ready_at, g.run_at, g.started_at, clock_timestamp(), $1,
        g.workflow, g.queue, g.input, g.labels, g.unique_key, g.concurrency_key, g.traceparent, g.session_id, g.created_by, g.output,
        g.last_seq, g.last_attempts, g.last_started_at, g.last_key, g.last_kind, g.last_output
    FROM gone g
)
SELECT CASE WHEN (SELECT count(*) FROM held) = cardinality($2::uuid[]) AND (SELECT count(*) FROM gone) = cardinality($11::uuid[]) THEN '{}'
    ELSE ARRAY(SELECT r.id FROM unnest($2::uuid[]) AS r(id) WHERE NOT EXISTS (SELECT FROM held h WHERE h.run = r.id)
        UNION SELECT r.id FROM unnest($11::uuid[]) AS r(id) WHERE NOT EXISTS (SELECT FROM gone g WHERE g.id = r.id)) END AS "lost!"
