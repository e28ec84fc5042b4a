-- Commits one batch of a worker's writes: step rows, audit lines, transitions. One statement: no transaction stands open.
-- Caller: services::writer. Locks: the worker's row (key share), then job rows under its leases, then checkpoints.
-- A batch either commits before a take-over of the worker, or finds its row gone and writes nothing.
-- LATERAL with OFFSET 0 is looked up row by row, whatever the statistics say (see write_plain.sql).
-- The same batch once more, at whatever time, changes nothing: a step's row never goes back within a claim (running, waiting, then what
-- it ended as; attempt after attempt), a line has its number, a transition fits once. So the writer may send again what had no answer.
-- The parts do not see each other: the writer gives at most one row for each (run, key) and one transition for each run.
WITH me AS MATERIALIZED (
    SELECT w.id FROM stepd_engine.workers w WHERE w.id = $1 FOR KEY SHARE
), lease AS MATERIALIZED (
    SELECT j.id, j.epoch, j.ctid, j.keeps
    FROM unnest($2::uuid[], $3::integer[]) AS r(id, epoch),
    LATERAL (SELECT j.id, j.epoch, j.ctid, j.unique_keep IS NOT NULL AS keeps FROM stepd.jobs j WHERE j.id = r.id AND j.epoch = r.epoch AND j.state = 'running' AND j.worker = $1 OFFSET 0) j
    WHERE EXISTS (SELECT FROM me)
), step AS (
    INSERT INTO stepd_engine.checkpoints AS c (run, seq, epoch, started_at, ended_at, due_at, attempts, checkpoint, state, key, kind,
        output, error, decision, event, match, label, usage)
    SELECT s.run, s.seq, l.epoch, s.started_at, s.ended_at, clock_timestamp() + s.due_ms * interval '1 millisecond', s.attempts, s.checkpoint,
        s.state::stepd.step_state, s.key, s.kind, s.output, s.error, s.decision, s.event, s.match::jsonb, s.label, s.usage
    FROM unnest($4::uuid[], $5::integer[], $6::timestamptz[], $7::timestamptz[], $8::bigint[], $9::smallint[], $10::boolean[], $11::text[],
        $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[], $18::text[], $39::text[], $41::text[])
        AS s(run, seq, started_at, ended_at, due_ms, attempts, checkpoint, state, key, kind, output, error, decision, event, match, label, usage)
    JOIN lease l ON l.id = s.run
    ON CONFLICT (run, key) DO UPDATE SET epoch = excluded.epoch, started_at = excluded.started_at, ended_at = excluded.ended_at, due_at = excluded.due_at,
        attempts = excluded.attempts, checkpoint = excluded.checkpoint, state = excluded.state, output = excluded.output,
        error = excluded.error, decision = excluded.decision, event = excluded.event, match = excluded.match, label = coalesce(excluded.label, c.label), usage = excluded.usage
        WHERE NOT c.checkpoint AND (c.epoch, c.attempts, c.state) <= (excluded.epoch, excluded.attempts, excluded.state)
), note AS (
    INSERT INTO stepd_engine.events (run, epoch, n, attempt, kind, key, data)
    SELECT n.run, l.epoch, n.n, n.attempt, n.kind, n.key, n.data
    FROM unnest($19::uuid[], $20::smallint[], $21::text[], $22::text[], $23::text[], $40::integer[]) AS n(run, attempt, kind, key, data, n)
    JOIN lease l ON l.id = n.run
    ON CONFLICT (run, epoch, n) WHERE n IS NOT NULL DO NOTHING
), moved AS (
    UPDATE stepd.jobs j SET
        state = m.state::stepd.run_state,
        lane = CASE m.state WHEN 'running' THEN j.lane WHEN 'queued' THEN 1 WHEN 'held' THEN 5 ELSE 3 END,
        due_at = CASE WHEN m.state IN ('waiting', 'resuming') THEN clock_timestamp() + m.due_ms * interval '1 millisecond' END,
        worker = CASE m.state WHEN 'running' THEN j.worker END,
        started = m.state = 'running',
        taken = j.taken AND m.state IN ('queued', 'held'),
        -- Given back before anything of it was begun: nobody has seen it start, and its `timeout` does not run yet.
        started_at = CASE WHEN j.lane <> 0 OR j.started OR m.state NOT IN ('queued', 'held')
            OR EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = j.id) THEN j.started_at END,
        -- The parts do not see each other: a checkpoint of this batch is not in the table yet.
        streak = CASE WHEN j.streak > 0 AND m.state <> 'running' AND (
                EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = j.id AND c.epoch = j.epoch AND c.checkpoint)
                OR EXISTS (SELECT FROM unnest($4::uuid[], $10::boolean[]) AS s(run, checkpoint) WHERE s.run = j.id AND s.checkpoint))
            THEN 0 ELSE j.streak END,
        error = m.error,
        target = CASE m.state WHEN 'resuming' THEN (SELECT stepd_engine.target_of(stepd_engine.failure_field(n.data, 'step'))
            FROM unnest($19::uuid[], $21::text[], $23::text[]) AS n(run, kind, data) WHERE n.run = j.id AND n.kind = 'resume_scheduled' LIMIT 1) END
    FROM (SELECT u.due_ms, u.error, x.ctid AS place, x.epoch,
            CASE WHEN u.state = 'queued' AND stepd_engine.queue_limited(x.queue) THEN 'held' ELSE u.state END AS state
          FROM unnest($24::uuid[], $25::integer[], $26::text[], $27::bigint[], $28::text[]) AS u(run, epoch, state, due_ms, error),
          LATERAL (SELECT x.ctid, x.epoch, x.queue FROM stepd.jobs x
              WHERE x.id = u.run AND x.epoch = u.epoch AND x.state = 'running' AND x.worker = $1 OFFSET 0) x
          WHERE EXISTS (SELECT FROM me) OFFSET 0) m
    WHERE j.ctid = m.place AND j.epoch = m.epoch AND j.state = 'running' AND j.worker = $1
    RETURNING j.id
), gone AS (
    DELETE FROM stepd.jobs j
    WHERE j.ctid = ANY (ARRAY(SELECT l.ctid FROM lease l JOIN unnest($29::uuid[]) AS x(run) ON x.run = l.id WHERE NOT l.keeps))
    RETURNING j.*
), stone AS (
    -- A unique key that outlives its run: the row stays, as a tombstone (see stepd_engine.bury).
    UPDATE stepd.jobs j SET state = o.final, lane = 3, due_at = stepd_engine.key_ends(j.unique_keep), worker = NULL, started = false, taken = false,
        streak = 0, definition = NULL, input = '{}', labels = '{}', traceparent = NULL, session_id = NULL, error = NULL, target = NULL
    FROM (SELECT o AS was, x.state::stepd.run_state AS final, l.ctid AS place, l.epoch FROM lease l JOIN unnest($29::uuid[], $30::text[]) AS x(run, state) ON x.run = l.id,
        LATERAL (SELECT o FROM stepd.jobs o WHERE o.ctid = l.ctid OFFSET 0) o(o) WHERE l.keeps OFFSET 0) o
    WHERE j.ctid = ANY (ARRAY(SELECT l.ctid FROM lease l WHERE l.keeps)) AND j.ctid = o.place AND j.epoch = o.epoch AND j.state = 'running' AND j.worker = $1
    RETURNING (o.was).*
), over AS (
    SELECT * FROM gone UNION ALL SELECT * FROM stone
), kept AS (
    INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, run_at, started_at, ended_at, worker,
        workflow, queue, input, labels, unique_key, concurrency_key, traceparent, session_id, created_by, output, error,
        last_seq, last_attempts, last_started_at, last_key, last_kind, last_output)
    SELECT g.id, e.state::stepd.run_state, g.epoch, g.definition, g.priority, g.resumes, g.crashes, g.ready_at, g.run_at, coalesce(g.first_started_at, g.started_at), clock_timestamp(), g.worker,
        g.workflow, g.queue, g.input, g.labels, g.unique_key, g.concurrency_key, g.traceparent, g.session_id, g.created_by, e.output, e.error,
        e.last_seq, e.last_attempts, e.last_started_at, e.last_key, e.last_kind, e.last_output
    FROM over g JOIN unnest($29::uuid[], $30::text[], $31::text[], $32::text[], $33::integer[], $34::smallint[], $35::timestamptz[],
        $36::text[], $37::text[], $38::text[])
        AS e(run, state, output, error, last_seq, last_attempts, last_started_at, last_key, last_kind, last_output) ON e.run = g.id
)
-- A lease that stands is not enough: where the same batch, sent before, is still at work on another connection, a transition waits for
-- it and then finds its row changed. What did not move is not acknowledged.
SELECT CASE WHEN (SELECT count(*) FROM lease) = cardinality($2::uuid[]) AND (SELECT count(*) FROM moved) = cardinality($24::uuid[])
        AND (SELECT count(*) FROM over) = cardinality($29::uuid[]) THEN '{}'
    ELSE ARRAY(SELECT r.id FROM unnest($2::uuid[]) AS r(id) WHERE NOT EXISTS (SELECT FROM lease l WHERE l.id = r.id)
        UNION SELECT r.id FROM unnest($24::uuid[]) AS r(id) WHERE NOT EXISTS (SELECT FROM moved m WHERE m.id = r.id)
        UNION SELECT r.id FROM unnest($29::uuid[]) AS r(id) WHERE NOT EXISTS (SELECT FROM over g WHERE g.id = r.id)) END AS "lost!"
