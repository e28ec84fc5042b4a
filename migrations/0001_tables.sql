-- Why: the two schemas and every table. `stepd` is the contract with applications and operators;
-- `stepd_engine` is private and may change with any version.
--
-- Shapes, and what decided them
--   * `stepd.jobs` holds only what is not finished; the completing statement moves a run to
--     `stepd_engine.ended`. So the claim works on a small table, however long the history.
--   * A claim must be a HOT update: it may change no indexed column. `state` and `worker` are therefore
--     in no index and no index predicate; `lane` says which claim index a row is in, and a claim leaves
--     it alone. More than half of each page is kept free (fillfactor 45) for the claimed versions.
--     Measured: every claim is HOT then.
--   * Claimed and finished rows leave dead entries at the head of the ready index. Every claim starts at a
--     low watermark per (queue, priority) on (ready_at, id) and so never walks them; a full look now and
--     then finds what committed late below it. Measured: a drain after 0.4 million jobs of churn runs at 0.98 of the first,
--     over 5 queues and 3 priorities at 0.90; each figure with docs/performance.md.
--   * Runs that come back (woken, resumed, taken over) are few: a small index of their own, no watermark.
--   * What can wait for a time (`scheduled`, `waiting`, `resuming`) has `due_at`, the one column the stager reads.
--   * Payloads written by the engine are text, not jsonb: byte for byte what the step said, NUL escapes
--     and thirty-digit numbers included; the views cast them to json.
--   * The last step's record rides as columns of the `ended` row: a job of one step costs one row there, not two.
--     Measured: 679 bytes of WAL a job with input, output, checkpoint and history.
--   * The insert trigger costs about 20 µs a row, 2.7 times a bare insert with the same indexes: the look-up of the
--     workflow is half of it, and is what makes a plain INSERT complete.

CREATE SCHEMA IF NOT EXISTS stepd;
CREATE SCHEMA IF NOT EXISTS stepd_engine;
REVOKE ALL ON SCHEMA stepd_engine FROM PUBLIC;
COMMENT ON SCHEMA stepd IS 'stepd, the step daemon: insert into jobs, look at runs. Stable; see the views and functions.';
COMMENT ON SCHEMA stepd_engine IS 'stepd''s private tables and functions. They may change with any version.';

CREATE TYPE stepd.run_state AS ENUM
    ('scheduled', 'queued', 'held', 'running', 'waiting', 'paused', 'resuming', 'completed', 'failed', 'cancelled');
COMMENT ON TYPE stepd.run_state IS
    'scheduled: run_at ahead. queued: ready to claim. held: kept back by a limit. running: a worker holds the lease. waiting: for time, event or approval. paused: by an operator. resuming: failed, next automatic resume due. completed, failed, cancelled: final.';

CREATE TYPE stepd.step_state AS ENUM ('running', 'waiting', 'completed', 'failed', 'skipped', 'cancelled');
COMMENT ON TYPE stepd.step_state IS
    'The state of a step. completed, skipped, and failed under on_error: continue are checkpoints: such a step never runs again.';

-- One row; read by the insert trigger and the engine.
CREATE TABLE stepd_engine.settings (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    on_unknown_workflow text NOT NULL DEFAULT 'refuse' CHECK (on_unknown_workflow IN ('refuse', 'park')),
    notify boolean NOT NULL DEFAULT true,
    event_ttl interval NOT NULL DEFAULT '1 hour'
);
INSERT INTO stepd_engine.settings DEFAULT VALUES;
COMMENT ON TABLE stepd_engine.settings IS 'Settings that the database itself must know: one row.';
COMMENT ON COLUMN stepd_engine.settings.on_unknown_workflow IS 'What an INSERT with an unknown workflow does: refuse (SD001) or park (held until the workflow is loaded).';
COMMENT ON COLUMN stepd_engine.settings.notify IS 'Wake the workers by NOTIFY, once per statement; without it they poll.';
COMMENT ON COLUMN stepd_engine.settings.event_ttl IS 'How long an emitted event is kept for runs that begin to wait for it later.';

CREATE TABLE stepd_engine.definitions (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash text NOT NULL UNIQUE,
    workflow text NOT NULL,
    body text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE stepd_engine.definitions IS 'Every definition ever loaded, by content hash. A run keeps the one its first claimer had.';
COMMENT ON COLUMN stepd_engine.definitions.body IS 'The file''s text; NULL for a workflow that is Rust code.';

CREATE TABLE stepd_engine.queues (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    paused boolean NOT NULL DEFAULT false,
    paused_by text,
    paused_at timestamptz,
    max_running integer CHECK (max_running > 0),
    exclusive boolean NOT NULL DEFAULT false,
    open boolean NOT NULL DEFAULT true
);
COMMENT ON TABLE stepd_engine.queues IS 'Queues that have a setting; a queue without a row is open and without limit.';
COMMENT ON COLUMN stepd_engine.queues.max_running IS 'The most runs of this queue that may be queued or running at once; NULL: no limit.';
COMMENT ON COLUMN stepd_engine.queues.exclusive IS 'Served only by workers that name it.';
COMMENT ON COLUMN stepd_engine.queues.open IS 'May its queued rows be claimed? False from a pause, or from a new limit until the admitter has moved the queued rows to held.';

CREATE TABLE stepd_engine.workflows (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    definition integer NOT NULL REFERENCES stepd_engine.definitions,
    queue text NOT NULL DEFAULT 'default',
    priority smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    source text,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    loaded_by uuid,
    retired_at timestamptz
);
COMMENT ON TABLE stepd_engine.workflows IS 'The workflows that jobs may name, with the defaults that the insert trigger fills in.';

CREATE SEQUENCE stepd_engine.worker_number AS integer CYCLE;
COMMENT ON SEQUENCE stepd_engine.worker_number IS 'Numbers for the workers'' advisory locks; nothing else knows a worker by number.';

CREATE TABLE stepd_engine.workers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number integer NOT NULL UNIQUE DEFAULT nextval('stepd_engine.worker_number'),
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    queues text[],
    slots integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat bigint NOT NULL DEFAULT 0,
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_ms integer NOT NULL DEFAULT 15000,
    stopping boolean NOT NULL DEFAULT false,
    facts jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE stepd_engine.workers IS 'One row for each registration of a worker, from start to end. A run''s lease is its worker''s row: every write of a worker key-share-locks it.';
COMMENT ON COLUMN stepd_engine.workers.queues IS 'The queues it serves; NULL: all that are not exclusive.';
COMMENT ON COLUMN stepd_engine.workers.beat IS 'A counter; a sweep takes over when it has watched it unchanged for the lease, on its own monotonic clock.';
COMMENT ON COLUMN stepd_engine.workers.facts IS 'What may explain its death: memory used and allowed, at the last heartbeat.';

-- Unlogged on purpose: gone after a crash of any backend and on a promoted standby, when every
-- session lock is gone too while the workers live. A lock found free proves a death only while the marker stands.
CREATE UNLOGGED TABLE stepd_engine.worker_sessions (
    worker uuid PRIMARY KEY,
    started timestamptz NOT NULL DEFAULT pg_postmaster_start_time()
);
COMMENT ON TABLE stepd_engine.worker_sessions IS 'Markers that a worker held its session lock under this start of Postgres; a take-over by lock needs one.';

CREATE TABLE stepd.jobs (
    id uuid NOT NULL,
    state stepd.run_state NOT NULL DEFAULT 'queued',
    epoch integer NOT NULL DEFAULT 0,
    definition integer,
    priority smallint CHECK (priority BETWEEN 0 AND 9),
    lane smallint NOT NULL DEFAULT 0 CHECK (lane BETWEEN 0 AND 5),
    resumes smallint NOT NULL DEFAULT 0,
    crashes smallint NOT NULL DEFAULT 0,
    streak smallint NOT NULL DEFAULT 0,
    started boolean NOT NULL DEFAULT false,
    taken boolean NOT NULL DEFAULT false,
    ready_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_at timestamptz,
    due_at timestamptz,
    started_at timestamptz,
    first_started_at timestamptz,
    worker uuid,
    workflow text NOT NULL,
    queue text CHECK (length(queue) BETWEEN 1 AND 200),
    input jsonb NOT NULL DEFAULT '{}',
    labels jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    unique_key text CHECK (length(unique_key) <= 1000),
    concurrency_key text CHECK (length(concurrency_key) <= 1000),
    traceparent text CHECK (length(traceparent) <= 200),
    created_by text,
    error text,
    CONSTRAINT jobs_pkey PRIMARY KEY (id) WITH (fillfactor = 80),
    -- An infinite or far-away time is legal in Postgres and fatal to clients.
    CONSTRAINT jobs_run_at_sane CHECK (isfinite(run_at) AND run_at BETWEEN '1970-01-01' AND '2200-01-01'),
    -- Only what may be claimed stands in a claim lane.
    CONSTRAINT jobs_lane_fits_state CHECK (CASE state
        WHEN 'queued' THEN lane IN (0, 1)
        WHEN 'running' THEN lane IN (0, 2)
        WHEN 'held' THEN lane IN (4, 5)
        ELSE lane = 3 AND state NOT IN ('completed', 'failed', 'cancelled') END),
    CONSTRAINT jobs_running_has_worker CHECK (state <> 'running' OR worker IS NOT NULL),
    CONSTRAINT jobs_due_fits_state CHECK (due_at IS NULL OR state IN ('scheduled', 'waiting', 'resuming')),
    CONSTRAINT jobs_timed_has_due CHECK (state NOT IN ('scheduled', 'resuming') OR due_at IS NOT NULL)
) WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_scale_factor = 0.1, autovacuum_analyze_threshold = 10000);

-- A claim changes state, worker and epoch: none of them may appear in an index or its predicate.
CREATE INDEX jobs_ready ON stepd.jobs (queue, priority, ready_at, id) WHERE lane = 0;
-- What came back, by queue, so that the returned rows of a paused or foreign queue are stepped over; and what must be run alone
-- (rules::state::SOLO_AFTER, an expression of the claim's too: a claim changes no streak) apart from what need not.
-- Measured (EXPLAIN ANALYZE, warm) with 100,000 returned rows in a queue that the worker does not serve: a look 67 ms by (lane, priority,
-- ready_at, id) and 0.05 ms by this one, a claim 56 ms and 0.3 ms; with 100,000 that must be run alone a claim 17 ms and 1 ms; with
-- none a claim 0.19 ms and 0.23 ms.
CREATE INDEX jobs_returned ON stepd.jobs (lane, queue, (streak >= 4), priority, ready_at, id) WHERE lane IN (1, 2);
CREATE INDEX jobs_held ON stepd.jobs (queue, lane DESC, priority, ready_at, id) WHERE lane >= 4;
CREATE INDEX jobs_due ON stepd.jobs (due_at) WHERE due_at IS NOT NULL;
CREATE UNIQUE INDEX jobs_unique_key ON stepd.jobs (workflow, unique_key) WHERE unique_key IS NOT NULL;

COMMENT ON TABLE stepd.jobs IS 'Insert here to run a workflow: INSERT INTO stepd.jobs (workflow, input) VALUES (''name'', ''{}''). A row leaves when its run ends; look at stepd.runs, which shows it before and after.';
COMMENT ON COLUMN stepd.jobs.id IS 'The id of job, run and trace; a UUIDv7 that the database makes.';
COMMENT ON COLUMN stepd.jobs.workflow IS 'Yours to write. The workflow to run; an unknown one is refused (SD001), or parked where the settings say so.';
COMMENT ON COLUMN stepd.jobs.input IS 'Yours to write. The workflow''s input; {} by default.';
COMMENT ON COLUMN stepd.jobs.queue IS 'Yours to write. NULL means as the workflow says.';
COMMENT ON COLUMN stepd.jobs.priority IS 'Yours to write. 0 to 9, lower first; NULL means as the workflow says (5 by default).';
COMMENT ON COLUMN stepd.jobs.run_at IS 'Yours to write. Not before this time; NULL means now.';
COMMENT ON COLUMN stepd.jobs.unique_key IS 'Yours to write. At most one unfinished run per workflow and key; use ON CONFLICT DO NOTHING.';
COMMENT ON COLUMN stepd.jobs.concurrency_key IS 'Yours to write. What the workflow''s concurrency limit counts by.';
COMMENT ON COLUMN stepd.jobs.labels IS 'Yours to write. A flat JSON object to find runs by.';
COMMENT ON COLUMN stepd.jobs.traceparent IS 'Yours to write. The W3C trace context of the enqueuer; the run''s trace links to it.';
COMMENT ON COLUMN stepd.jobs.created_by IS 'The database role that inserted the row.';
COMMENT ON COLUMN stepd.jobs.state IS 'Where the run stands. Written by the engine alone, like all that follow.';
COMMENT ON COLUMN stepd.jobs.epoch IS 'Claims and take-overs so far; every write of a worker names it.';
COMMENT ON COLUMN stepd.jobs.definition IS 'The definition that the first claimer pinned.';
COMMENT ON COLUMN stepd.jobs.lane IS 'Which claim index holds the row. 0 ready: new, behind the watermark (stays while running). 1 ready: came back. 2 running after it came back. 3 nothing to claim. 4 held, new. 5 held, came back.';
COMMENT ON COLUMN stepd.jobs.resumes IS 'Automatic resumes after a failure.';
COMMENT ON COLUMN stepd.jobs.crashes IS 'Workers that died after they had started this run.';
COMMENT ON COLUMN stepd.jobs.streak IS 'How suspect the run is: its crashes in a row without a new checkpoint between them, each counted twice when no other run was in company.';
COMMENT ON COLUMN stepd.jobs.started IS 'Has the present claim been recorded as started?';
COMMENT ON COLUMN stepd.jobs.taken IS 'Was the run last taken from a dead worker? Its next claimer records the start before anything else.';
COMMENT ON COLUMN stepd.jobs.ready_at IS 'The place in the queue: the database''s clock when the row became ready.';
COMMENT ON COLUMN stepd.jobs.due_at IS 'When the stager looks at the row again: run_at, the next wake-up, or the next resume.';
COMMENT ON COLUMN stepd.jobs.started_at IS 'The first claim since the job was enqueued, or since an operator last retried it after it had failed: the workflow''s timeout counts from here.';
COMMENT ON COLUMN stepd.jobs.first_started_at IS 'On a run that an operator has retried after it had failed: the very first claim, which the views and the ended row show. Else NULL: it is started_at.';
COMMENT ON COLUMN stepd.jobs.worker IS 'The holder of the lease; on a queued row, the worker that empties itself to run it alone.';
COMMENT ON COLUMN stepd.jobs.error IS 'The failure that the next automatic resume follows, as JSON.';

CREATE TABLE stepd_engine.ended (
    id uuid NOT NULL,
    state stepd.run_state NOT NULL CHECK (state IN ('completed', 'failed', 'cancelled')),
    epoch integer NOT NULL,
    definition integer,
    priority smallint NOT NULL,
    resumes smallint NOT NULL,
    crashes smallint NOT NULL,
    ready_at timestamptz NOT NULL,
    run_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz NOT NULL,
    worker uuid,
    workflow text NOT NULL,
    queue text NOT NULL,
    input jsonb NOT NULL,
    labels jsonb NOT NULL,
    unique_key text,
    concurrency_key text,
    traceparent text,
    created_by text,
    output text,
    error text,
    last_seq integer,
    last_attempts smallint,
    last_started_at timestamptz,
    last_key text,
    last_kind text,
    last_output text,
    CONSTRAINT ended_pkey PRIMARY KEY (id)
) WITH (autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE stepd_engine.ended IS 'Finished runs. last_* is the checkpoint of the step that the run ended with; the views show it like any other.';

CREATE TABLE stepd_engine.checkpoints (
    run uuid NOT NULL,
    seq integer NOT NULL,
    epoch integer NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    due_at timestamptz,
    attempts smallint NOT NULL,
    checkpoint boolean NOT NULL,
    state stepd.step_state NOT NULL,
    key text NOT NULL CHECK (length(key) <= 1000),
    kind text NOT NULL,
    output text,
    error text,
    decision text,
    event text,
    match jsonb,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (run, key),
    CONSTRAINT checkpoints_final CHECK (checkpoint = (state IN ('completed', 'skipped')) OR state = 'failed')
) WITH (autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
CREATE INDEX checkpoints_waiting ON stepd_engine.checkpoints (event, run) WHERE state = 'waiting';
COMMENT ON TABLE stepd_engine.checkpoints IS 'One row for each step of a run; by `checkpoint`, whether the step is done for good.';
COMMENT ON COLUMN stepd_engine.checkpoints.seq IS 'The order in which the run''s steps started.';
COMMENT ON COLUMN stepd_engine.checkpoints.epoch IS 'The claim that wrote the row.';
COMMENT ON COLUMN stepd_engine.checkpoints.due_at IS 'When a sleep ends or a wait times out.';
COMMENT ON COLUMN stepd_engine.checkpoints.event IS 'What a waiting step waits for: the event''s name; NULL for a sleep and an approval.';
COMMENT ON COLUMN stepd_engine.checkpoints.decision IS 'What a resume must not decide anew (a map''s items, an approval''s question), as JSON.';

CREATE TABLE stepd_engine.events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    run uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    epoch integer,
    attempt smallint,
    n integer,
    kind text NOT NULL,
    key text,
    by_whom text,
    data text,
    CONSTRAINT events_pkey PRIMARY KEY (run, id)
) WITH (autovacuum_vacuum_cost_delay = 0);
-- A batch of unknown outcome is sent again, and may even arrive twice: a line is written once.
CREATE UNIQUE INDEX events_once ON stepd_engine.events (run, epoch, n) WHERE n IS NOT NULL;
COMMENT ON TABLE stepd_engine.events IS 'What the other rows cannot tell: failed attempts, resumes, crashes, operators'' actions, signals. Append-only.';
COMMENT ON COLUMN stepd_engine.events.n IS 'On a line of the worker that ran the claim: its number within the claim; else NULL.';

CREATE TABLE stepd_engine.signals (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run uuid,
    kind text NOT NULL CHECK (kind IN ('signal', 'event', 'cancel')),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    taken_by text,
    by_whom text,
    payload jsonb NOT NULL DEFAULT 'null',
    CONSTRAINT signals_addressed CHECK ((kind = 'event') = (run IS NULL))
);
CREATE INDEX signals_of_run ON stepd_engine.signals (run, name) WHERE run IS NOT NULL;
CREATE INDEX signals_events ON stepd_engine.signals (name, id) WHERE run IS NULL;
CREATE INDEX signals_cancels ON stepd_engine.signals (run) WHERE kind = 'cancel';
CREATE INDEX signals_expiry ON stepd_engine.signals (expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON TABLE stepd_engine.signals IS 'Signals and cancel requests to runs (kept until the run ends), and emitted events (kept for settings.event_ttl).';
COMMENT ON COLUMN stepd_engine.signals.taken_by IS 'The step that a signal has answered; a signal answers one.';
