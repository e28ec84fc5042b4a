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
--     then finds what committed late below it. Measured: a drain after 0.4 million jobs of churn runs at 0.99 of the first,
--     over 5 queues and 3 priorities at 0.90; each figure with docs/performance.md.
--   * Runs that come back (woken, resumed, taken over) are few: a small index of their own, no watermark.
--   * What can wait for a time (`scheduled`, `waiting`, `resuming`) has `due_at`, the one column the stager reads.
--   * Payloads written by the engine are text, not jsonb: byte for byte what the step said, NUL escapes
--     and thirty-digit numbers included; the views cast them to json.
--   * Whatever a client reads as a time is checked to be near, and what a view reads as JSON to be read as that, also where only the engine
--     writes: an infinite time is legal in Postgres and fatal to its clients, and one row that cannot be read would break a list for
--     all the others. Postgres reads the text of all of a table's constraints anew in each statement that writes there, whatever its rows
--     are. So what is long and seldom needed stands in a function, which is called only where there is a value. Measured, with the way
--     to the server: a statement that records one step takes 130 µs, 169 with all of it in the table, 105 with no constraint at all; one
--     that changes a run 190, 204 and 100. A row costs 0.4 µs.
--   * The last step's record rides as columns of the `ended` row: a job of one step costs one row there, not two.
--     Measured: 679 bytes of WAL a job with input, output, checkpoint and history.
--   * The insert trigger costs about 7 µs a row, 2.5 times a bare insert with the same indexes: the look-up of the
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

-- What constraints ask (see above).
CREATE FUNCTION stepd_engine.is_failure(error text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN json_typeof(error::json) = 'object' AND json_extract_path_text(replace(error, '\u0000', '\ufffd')::json, 'code') IS NOT NULL;
END
$$;
COMMENT ON FUNCTION stepd_engine.is_failure(text) IS 'Is it a failure as the views read one: a JSON object with a code?';

CREATE FUNCTION stepd_engine.is_decision(decision text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce(json_extract_path_text(replace(decision, '\u0000', '\ufffd')::json, 'prompt'), '') IS NOT NULL;
END
$$;
COMMENT ON FUNCTION stepd_engine.is_decision(text) IS 'Can the views read this decision of a step?';

CREATE FUNCTION stepd_engine.is_usage(usage json) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Added up over steps and runs, it stays a bigint.
    RETURN coalesce(json_extract_path_text(usage, 'calls')::bigint BETWEEN 0 AND 1000000000000000, true)
        AND coalesce(json_extract_path_text(usage, 'tokens_in')::bigint BETWEEN 0 AND 1000000000000000, true)
        AND coalesce(json_extract_path_text(usage, 'tokens_out')::bigint BETWEEN 0 AND 1000000000000000, true)
        AND coalesce(json_extract_path_text(usage, 'cost')::numeric BETWEEN 0 AND 1000000000000000, true);
END
$$;
COMMENT ON FUNCTION stepd_engine.is_usage(json) IS 'Can this usage of models be added up?';

CREATE FUNCTION stepd_engine.is_line(kind text, data text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    read json := replace(data, '\u0000', '\ufffd')::json;
BEGIN
    RETURN CASE kind
        WHEN 'attempt_failed' THEN
            coalesce(json_extract_path_text(read, 'started_at')::timestamptz BETWEEN '1970-01-01' AND '2300-01-01', true)
            AND coalesce(json_extract_path_text(read, 'ended_at')::timestamptz BETWEEN '1970-01-01' AND '2300-01-01', true)
            AND coalesce(json_extract_path_text(read, 'retry_in_ms')::bigint BETWEEN 0 AND 10000000000000, true)
            AND coalesce(stepd_engine.is_usage(json_extract_path(read, 'usage')), true)
        WHEN 'forked' THEN coalesce(json_extract_path_text(read, 'from')::uuid IS NOT NULL, true)
        ELSE coalesce(json_extract_path_text(read, 'from'), '') IS NOT NULL END;
END
$$;
COMMENT ON FUNCTION stepd_engine.is_line(text, text) IS 'Can stepd.history, stepd.attempts and stepd.runs read this line of the audit?';

-- A wait's match says of at least one place what must stand there, and a payload that fits has that there, too: by that place and value
-- an emit finds the one of a hundred thousand waits. Two that differ may have one number; whoever looks compares the whole.
CREATE FUNCTION stepd_engine.place_key(path text, value jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- 1 and 1.0 are the same number.
    SELECT hashtextextended(path || CASE jsonb_typeof(value) WHEN 'number' THEN trim_scale((value #>> '{}')::numeric)::text ELSE value::text END, 0)
$$;
COMMENT ON FUNCTION stepd_engine.place_key(text, jsonb) IS 'A number for a value at a place of a document.';

CREATE FUNCTION stepd_engine.match_key(match jsonb) RETURNS bigint LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    path text := '';
    at jsonb := match;
    field record;
BEGIN
    FOR depth IN 1..16 LOOP
        EXIT WHEN jsonb_typeof(at) IS DISTINCT FROM 'object';
        SELECT e.key, e.value INTO field FROM jsonb_each(at) e ORDER BY e.key COLLATE "C" LIMIT 1;
        IF NOT FOUND THEN RETURN 0; END IF;
        path := path || field.key || '/';
        at := field.value;
    END LOOP;
    -- What an array contains is contained in many places, and a bare value in arrays, too.
    RETURN CASE WHEN path = '' OR jsonb_typeof(at) IN ('object', 'array') THEN 0 ELSE stepd_engine.place_key(path, at) END;
END
$$;
COMMENT ON FUNCTION stepd_engine.match_key(jsonb) IS 'The number of one value that a wait''s match asks for; 0 where it asks for none that has a place of its own.';

CREATE TABLE stepd_engine.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    serves integer NOT NULL,
    fingerprint text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE stepd_engine.migrations IS 'The schema versions that have been applied.';
COMMENT ON COLUMN stepd_engine.migrations.version IS 'The version of the schema from then on.';
COMMENT ON COLUMN stepd_engine.migrations.name IS 'What it brought.';
COMMENT ON COLUMN stepd_engine.migrations.serves IS 'The oldest schema version whose daemons can work with this one; an older daemon refuses to start.';
COMMENT ON COLUMN stepd_engine.migrations.fingerprint IS 'SHA-256 of its file, in hexadecimal digits: two builds may give one number to two texts.';
COMMENT ON COLUMN stepd_engine.migrations.applied_at IS 'When.';
COMMENT ON INDEX stepd_engine.migrations_pkey IS 'Each version once.';

-- Here and not with the other views: it is asked for before anything else is known to be there.
CREATE VIEW stepd.versions AS SELECT m.version, m.name, m.serves, m.fingerprint, m.applied_at FROM stepd_engine.migrations m;
COMMENT ON VIEW stepd.versions IS 'The schema versions that have been applied; the highest one counts.';
COMMENT ON COLUMN stepd.versions.version IS 'The version of the schema from then on.';
COMMENT ON COLUMN stepd.versions.name IS 'What it brought.';
COMMENT ON COLUMN stepd.versions.serves IS 'The oldest schema version whose daemons can work with this one; an older daemon refuses to start.';
COMMENT ON COLUMN stepd.versions.fingerprint IS 'SHA-256 of its file (sha256sum), in hexadecimal digits; a stepd whose file is another one does not work with it.';
COMMENT ON COLUMN stepd.versions.applied_at IS 'When.';

-- One row; read by the insert trigger and the engine.
CREATE TABLE stepd_engine.settings (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    on_unknown_workflow text NOT NULL DEFAULT 'refuse' CHECK (on_unknown_workflow IN ('refuse', 'park')),
    notify boolean NOT NULL DEFAULT true,
    event_ttl interval NOT NULL DEFAULT '1 hour',
    max_input_bytes integer NOT NULL DEFAULT 16777216 CHECK (max_input_bytes > 0),
    breaker_after integer NOT NULL DEFAULT 5 CHECK (breaker_after > 0),
    breaker_probe interval NOT NULL DEFAULT '30 s' CHECK (breaker_probe > '0'),
    session_key text NOT NULL DEFAULT replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', '')
);
INSERT INTO stepd_engine.settings DEFAULT VALUES;
COMMENT ON TABLE stepd_engine.settings IS 'Settings that the database itself must know: one row.';
COMMENT ON COLUMN stepd_engine.settings.one IS 'Always true: there is one row.';
COMMENT ON COLUMN stepd_engine.settings.on_unknown_workflow IS 'What an INSERT with an unknown workflow does: refuse (SD001) or park (held until the workflow is loaded).';
COMMENT ON COLUMN stepd_engine.settings.notify IS 'Wake the workers by NOTIFY, once per statement; without it they poll.';
COMMENT ON COLUMN stepd_engine.settings.max_input_bytes IS 'The largest input of a job, and payload of a signal or event, in bytes of its JSON text; a larger one is refused (SD002).';
COMMENT ON COLUMN stepd_engine.settings.breaker_after IS 'When so many runs of a workflow wait to be resumed after a failure at the same step, their resumes stand still but for one that probes.';
COMMENT ON COLUMN stepd_engine.settings.breaker_probe IS 'How far apart such probes are.';
COMMENT ON COLUMN stepd_engine.settings.event_ttl IS 'How long an emitted event is kept for runs that begin to wait for it later.';
COMMENT ON COLUMN stepd_engine.settings.session_key IS 'Random; with the hash of a token it signs the sessions of browsers, for all HTTP servers on this database. A new one ends them all.';
COMMENT ON INDEX stepd_engine.settings_pkey IS 'Keeps it one row.';

CREATE TABLE stepd_engine.definitions (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash text NOT NULL UNIQUE,
    workflow text NOT NULL,
    body text,
    handlers boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT definitions_times_are_near CHECK (least(created_at, used_at) >= '1970-01-01' AND greatest(created_at, used_at) < '2300-01-01')
);
COMMENT ON TABLE stepd_engine.definitions IS 'Every definition that somebody names, by content hash. A run keeps the one its first claimer had.';
COMMENT ON COLUMN stepd_engine.definitions.id IS 'What jobs and workflows refer to.';
COMMENT ON COLUMN stepd_engine.definitions.hash IS 'The hash of the definition''s content.';
COMMENT ON COLUMN stepd_engine.definitions.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_engine.definitions.body IS 'The file''s text; NULL for a workflow that is Rust code.';
COMMENT ON COLUMN stepd_engine.definitions.handlers IS 'Is anything to be done at the end of a run (undo, on_failure, finally)? Then a cancel brings a run that has begun to a worker.';
COMMENT ON COLUMN stepd_engine.definitions.created_at IS 'When it was first loaded.';
COMMENT ON COLUMN stepd_engine.definitions.used_at IS 'When a worker last said that it has it, to the hour: what has not been said for a day, and nothing names, is removed.';
COMMENT ON INDEX stepd_engine.definitions_pkey IS 'A run looks its definition up by id.';
COMMENT ON INDEX stepd_engine.definitions_hash_key IS 'Loading the same content again finds the row that is there.';
COMMENT ON SEQUENCE stepd_engine.definitions_id_seq IS 'Numbers of definitions.';

CREATE TABLE stepd_engine.queues (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    paused boolean NOT NULL DEFAULT false,
    paused_by text,
    paused_at timestamptz,
    max_running integer CHECK (max_running > 0),
    exclusive boolean NOT NULL DEFAULT false,
    open boolean NOT NULL DEFAULT true,
    CONSTRAINT queues_times_are_near CHECK (paused_at >= '1970-01-01' AND paused_at < '2300-01-01')
);
COMMENT ON TABLE stepd_engine.queues IS 'Queues that have a setting; a queue without a row is open and without limit.';
COMMENT ON COLUMN stepd_engine.queues.name IS 'The queue''s name, as jobs name it.';
COMMENT ON COLUMN stepd_engine.queues.paused IS 'Has an operator stopped its claims?';
COMMENT ON COLUMN stepd_engine.queues.paused_by IS 'Who did.';
COMMENT ON COLUMN stepd_engine.queues.paused_at IS 'Since when.';
COMMENT ON COLUMN stepd_engine.queues.max_running IS 'The most runs of this queue that may be queued or running at once; NULL: no limit.';
COMMENT ON COLUMN stepd_engine.queues.exclusive IS 'Served only by workers that name it.';
COMMENT ON COLUMN stepd_engine.queues.open IS 'May its queued rows be claimed? False from a pause, or from a new limit until the admitter has moved the queued rows to held.';
COMMENT ON INDEX stepd_engine.queues_pkey IS 'The insert trigger and the claims look a queue up by its name.';

CREATE TABLE stepd_engine.workflows (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    definition integer NOT NULL REFERENCES stepd_engine.definitions,
    queue text NOT NULL DEFAULT 'default',
    priority smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    flow jsonb CHECK (jsonb_typeof(flow) = 'object'),
    source text,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    loaded_by uuid,
    retired_at timestamptz,
    CONSTRAINT workflows_times_are_near CHECK (least(loaded_at, retired_at) >= '1970-01-01' AND greatest(loaded_at, retired_at) < '2300-01-01'),
    -- The admission reads it for all workflows in one statement.
    CONSTRAINT workflows_flow_is_readable CHECK (
        coalesce((flow #>> '{unique,keep}')::interval BETWEEN '0' AND '1000 years', true)
        AND coalesce((flow #>> '{concurrency,limit}')::integer >= 1, flow -> 'concurrency' IS NULL)
        AND coalesce((flow #>> '{rate,limit}')::integer >= 1, flow -> 'rate' IS NULL)
        AND coalesce((flow #>> '{rate,per}')::interval BETWEEN '1 ms' AND '1000 years', flow -> 'rate' IS NULL)
        AND NOT coalesce(jsonb_path_exists(flow, 'strict $.keyvalue().value.key ? (@.type() <> "array" || @.size() == 0)', '{}', true), false)
        AND NOT coalesce(jsonb_path_exists(flow, 'strict $.keyvalue().value.key[*] ? (@.type() <> "array")', '{}', true), false)
        AND NOT coalesce(jsonb_path_exists(flow, 'strict $.keyvalue().value.key[*][*] ? (@.type() <> "string")', '{}', true), false))
);
COMMENT ON TABLE stepd_engine.workflows IS 'The workflows that jobs may name, with the defaults that the insert trigger fills in.';
COMMENT ON COLUMN stepd_engine.workflows.name IS 'What stepd.jobs.workflow names.';
COMMENT ON COLUMN stepd_engine.workflows.definition IS 'The definition that new runs are pinned to, unless their claimer has loaded another.';
COMMENT ON COLUMN stepd_engine.workflows.queue IS 'The queue of jobs that name none.';
COMMENT ON COLUMN stepd_engine.workflows.priority IS 'The priority of jobs that name none.';
COMMENT ON COLUMN stepd_engine.workflows.flow IS 'Its unique, concurrency and rate settings, NULL where it has none: {unique: {key, keep}, concurrency: {key, limit, when_full}, rate: {key, limit, per}}. A key is a list of paths into the input, absent: one key for all; keep and per are intervals.';
COMMENT ON COLUMN stepd_engine.workflows.source IS 'Where it came from: the file, or the binary.';
COMMENT ON COLUMN stepd_engine.workflows.loaded_at IS 'When its present definition was loaded.';
COMMENT ON COLUMN stepd_engine.workflows.loaded_by IS 'The worker that loaded it.';
COMMENT ON COLUMN stepd_engine.workflows.retired_at IS 'When it was withdrawn; NULL: new jobs may name it.';
COMMENT ON INDEX stepd_engine.workflows_pkey IS 'The insert trigger looks a workflow up by its name.';

CREATE TABLE stepd_engine.schedules (
    workflow text PRIMARY KEY REFERENCES stepd_engine.workflows (name) ON DELETE CASCADE,
    cron text NOT NULL,
    timezone text NOT NULL,
    overlap text NOT NULL CHECK (overlap IN ('skip', 'queue', 'allow')),
    catch_up text NOT NULL CHECK (catch_up IN ('none', 'last', 'all')),
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    paused boolean NOT NULL DEFAULT false,
    paused_by text,
    paused_at timestamptz,
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at timestamptz,
    pending timestamptz[] NOT NULL DEFAULT '{}',
    fired_at timestamptz,
    skipped_at timestamptz,
    run uuid,
    CONSTRAINT schedules_times_are_near CHECK (least(loaded_at, paused_at, seen_at, next_at, fired_at, skipped_at) >= '1970-01-01' AND greatest(loaded_at, paused_at, seen_at, next_at, fired_at, skipped_at) < '2300-01-01'
        AND '1970-01-01' <= ALL (pending) AND '2300-01-01' > ALL (pending)),
    CONSTRAINT schedules_pending_are_few CHECK (cardinality(pending) <= 100)
);
COMMENT ON TABLE stepd_engine.schedules IS 'The schedules of workflows, one each. An instant is decided by moving seen_at past it, in the transaction that enqueues its run: exactly once, whatever the number of workers.';
COMMENT ON COLUMN stepd_engine.schedules.workflow IS 'The workflow that it starts.';
COMMENT ON COLUMN stepd_engine.schedules.cron IS 'When: five fields, as the file says.';
COMMENT ON COLUMN stepd_engine.schedules.timezone IS 'By which clock: an IANA name.';
COMMENT ON COLUMN stepd_engine.schedules.overlap IS 'While its last run is unfinished: skip the instant, queue it, or allow a second run.';
COMMENT ON COLUMN stepd_engine.schedules.catch_up IS 'Of the instants that passed while no worker was there: none, the last, or all (the latest 100).';
COMMENT ON COLUMN stepd_engine.schedules.loaded_at IS 'Since when it stands so.';
COMMENT ON COLUMN stepd_engine.schedules.paused IS 'Has an operator stopped it?';
COMMENT ON COLUMN stepd_engine.schedules.paused_by IS 'Who did.';
COMMENT ON COLUMN stepd_engine.schedules.paused_at IS 'Since when.';
COMMENT ON COLUMN stepd_engine.schedules.seen_at IS 'Every instant up to this one is decided.';
COMMENT ON COLUMN stepd_engine.schedules.next_at IS 'The next instant; NULL: a worker is about to work it out.';
COMMENT ON COLUMN stepd_engine.schedules.pending IS 'Instants that wait for the last run to end (overlap: queue), at most 100.';
COMMENT ON COLUMN stepd_engine.schedules.fired_at IS 'The last instant whose run was enqueued.';
COMMENT ON COLUMN stepd_engine.schedules.skipped_at IS 'The last instant that was left out because a run was unfinished.';
COMMENT ON COLUMN stepd_engine.schedules.run IS 'The run that it started last.';
COMMENT ON INDEX stepd_engine.schedules_pkey IS 'One schedule for each workflow.';

-- A log and no counter: what is older than the window no longer counts, whoever has died meanwhile.
CREATE TABLE stepd_engine.starts (
    workflow text NOT NULL,
    key text NOT NULL,
    at timestamptz NOT NULL,
    run uuid NOT NULL,
    CONSTRAINT starts_times_are_near CHECK (at >= '1970-01-01' AND at < '2300-01-01')
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX starts_of_key ON stepd_engine.starts (workflow, key, at);
COMMENT ON TABLE stepd_engine.starts IS 'When the runs of workflows with a rate were let go: what their rates are counted from. The repair removes what no window reaches any more.';
COMMENT ON COLUMN stepd_engine.starts.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_engine.starts.key IS 'The rate''s key.';
COMMENT ON COLUMN stepd_engine.starts.at IS 'When the run was admitted.';
COMMENT ON COLUMN stepd_engine.starts.run IS 'Which run.';
COMMENT ON INDEX stepd_engine.starts_of_key IS 'Admission counts the starts of a key within its window.';

CREATE TABLE stepd_engine.breakers (
    workflow text NOT NULL,
    target text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at timestamptz,
    probe uuid,
    probe_at timestamptz,
    next_at timestamptz NOT NULL,
    CONSTRAINT breakers_pkey PRIMARY KEY (workflow, target),
    CONSTRAINT breakers_times_are_near CHECK (least(opened_at, closed_at, probe_at, next_at) >= '1970-01-01' AND greatest(opened_at, closed_at, probe_at, next_at) < '2300-01-01')
);
COMMENT ON TABLE stepd_engine.breakers IS 'Steps at which so many runs have failed that their automatic resumes stand still, but for one that probes. Which runs those are is read from stepd.jobs.';
COMMENT ON COLUMN stepd_engine.breakers.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_engine.breakers.target IS 'The step''s key, without the numbers of items: docs[].text.';
COMMENT ON COLUMN stepd_engine.breakers.opened_at IS 'Since when.';
COMMENT ON COLUMN stepd_engine.breakers.closed_at IS 'When a probe succeeded: all go on; failures after this time count anew. NULL: open.';
COMMENT ON COLUMN stepd_engine.breakers.probe IS 'The run that was let go to probe; NULL: none is under way.';
COMMENT ON COLUMN stepd_engine.breakers.probe_at IS 'When it was let go.';
COMMENT ON COLUMN stepd_engine.breakers.next_at IS 'No probe before this time.';
COMMENT ON INDEX stepd_engine.breakers_pkey IS 'The stager looks up the steps at which what is due has failed.';

CREATE SEQUENCE stepd_engine.worker_number AS integer CYCLE;
COMMENT ON SEQUENCE stepd_engine.worker_number IS 'Numbers for the workers'' advisory locks; nothing else knows a worker by number.';

CREATE TABLE stepd_engine.workers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number integer NOT NULL UNIQUE DEFAULT nextval('stepd_engine.worker_number'),
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    schema integer NOT NULL DEFAULT 0,
    queues text[],
    slots integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat bigint NOT NULL DEFAULT 0,
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_ms integer NOT NULL DEFAULT 15000,
    stopping boolean NOT NULL DEFAULT false,
    facts jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT workers_queues_have_names CHECK (array_position(queues, NULL) IS NULL),
    CONSTRAINT workers_times_are_near CHECK (least(started_at, beat_at) >= '1970-01-01' AND greatest(started_at, beat_at) < '2300-01-01')
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
COMMENT ON TABLE stepd_engine.workers IS 'One row for each registration of a worker, from start to end. A run''s lease is its worker''s row: every write of a worker key-share-locks it.';
COMMENT ON COLUMN stepd_engine.workers.id IS 'Random, fresh for each registration; named in every write of the worker.';
COMMENT ON COLUMN stepd_engine.workers.number IS 'The second half of its advisory lock''s key; nothing else.';
COMMENT ON COLUMN stepd_engine.workers.host IS 'The host''s name.';
COMMENT ON COLUMN stepd_engine.workers.pid IS 'The process id on that host.';
COMMENT ON COLUMN stepd_engine.workers.version IS 'The daemon''s version.';
COMMENT ON COLUMN stepd_engine.workers.schema IS 'The newest schema version that it knows; a migration that does not serve it any more is refused while it lives.';
COMMENT ON COLUMN stepd_engine.workers.queues IS 'The queues it serves; NULL: all that are not exclusive.';
COMMENT ON COLUMN stepd_engine.workers.slots IS 'How many runs it takes at once.';
COMMENT ON COLUMN stepd_engine.workers.started_at IS 'When it registered.';
COMMENT ON COLUMN stepd_engine.workers.beat IS 'A counter; a sweep takes over when it has watched it unchanged for the lease, on its own monotonic clock.';
COMMENT ON COLUMN stepd_engine.workers.beat_at IS 'The last heartbeat by the database''s clock; for people: no take-over decides by it.';
COMMENT ON COLUMN stepd_engine.workers.lease_ms IS 'How long, in milliseconds, the counter must stand still before others may take over.';
COMMENT ON COLUMN stepd_engine.workers.stopping IS 'Is it ending: finishing its steps, claiming no more?';
COMMENT ON COLUMN stepd_engine.workers.facts IS 'What may explain its death: memory used and allowed, and kills for want of memory, at the last heartbeat; under seen, what another worker on its machine saw when it was taken over.';
COMMENT ON INDEX stepd_engine.workers_pkey IS 'Every write of a worker locks its row by id.';
COMMENT ON INDEX stepd_engine.workers_number_key IS 'No two living workers share an advisory lock.';

-- Unlogged on purpose: gone after a crash of any backend and on a promoted standby, when every
-- session lock is gone too while the workers live. A lock found free proves a death only while the marker stands.
CREATE UNLOGGED TABLE stepd_engine.worker_sessions (
    worker uuid PRIMARY KEY,
    started timestamptz NOT NULL DEFAULT pg_postmaster_start_time()
);
COMMENT ON TABLE stepd_engine.worker_sessions IS 'Markers that a worker held its session lock under this start of Postgres; a take-over by lock needs one.';
COMMENT ON COLUMN stepd_engine.worker_sessions.worker IS 'The worker that held its lock.';
COMMENT ON COLUMN stepd_engine.worker_sessions.started IS 'When the Postgres started under which it held it: after a restart the marker says nothing.';
COMMENT ON INDEX stepd_engine.worker_sessions_pkey IS 'One marker for each worker.';

CREATE TABLE stepd.jobs (
    id uuid NOT NULL,
    state stepd.run_state NOT NULL DEFAULT 'queued',
    epoch integer NOT NULL DEFAULT 0,
    definition integer,
    priority smallint CONSTRAINT priority_is_0_to_9 CHECK (priority BETWEEN 0 AND 9),
    lane smallint NOT NULL DEFAULT 0,
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
    workflow text NOT NULL CONSTRAINT workflow_has_1_to_200_characters CHECK (length(workflow) BETWEEN 1 AND 200),
    queue text CONSTRAINT queue_has_1_to_200_characters CHECK (length(queue) BETWEEN 1 AND 200),
    input jsonb NOT NULL DEFAULT '{}',
    labels jsonb NOT NULL DEFAULT '{}' CONSTRAINT labels_are_an_object CHECK (jsonb_typeof(labels) = 'object')
        CONSTRAINT labels_are_flat CHECK (labels = '{}' OR NOT jsonb_path_exists(labels, 'strict $.* ? (@.type() == "object" || @.type() == "array")', '{}', true))
        CONSTRAINT labels_have_at_most_8192_bytes CHECK (CASE WHEN pg_column_size(labels) <= 8192 THEN octet_length(labels::text) <= 8192 ELSE false END),
    unique_key text CONSTRAINT unique_key_has_at_most_1000_characters CHECK (length(unique_key) <= 1000),
    concurrency_key text CONSTRAINT concurrency_key_has_at_most_1000_characters CHECK (length(concurrency_key) <= 1000),
    traceparent text CONSTRAINT traceparent_has_at_most_200_characters CHECK (length(traceparent) <= 200),
    session_id text CONSTRAINT session_id_has_1_to_200_characters CHECK (length(session_id) BETWEEN 1 AND 200),
    created_by text,
    error text,
    unique_keep interval CONSTRAINT unique_keep_is_a_time CHECK (unique_keep > '0' AND unique_keep <= '1000 years'),
    rate_key text CONSTRAINT rate_key_has_at_most_500_characters CHECK (length(rate_key) <= 500),
    target text,
    parent uuid,
    CONSTRAINT jobs_pkey PRIMARY KEY (id) WITH (fillfactor = 80),
    -- What an INSERT can break has a name that says what is right: it is all that the error says. They are checked in the order of
    -- their names.
    -- An infinite or far-away time is legal in Postgres and fatal to clients, here and in what the engine alone writes.
    CONSTRAINT run_at_is_from_1970_to_2200 CHECK (run_at BETWEEN '1970-01-01' AND '2200-01-01'),
    CONSTRAINT times_are_from_1970_to_2300 CHECK (least(ready_at, due_at, started_at, first_started_at) >= '1970-01-01'
        AND greatest(ready_at, due_at, started_at, first_started_at) < '2300-01-01'),
    -- The views read it: one row that is none would break them for all.
    -- Not by the function: whoever may insert here may call none.
    CONSTRAINT jobs_error_is_json CHECK (error IS NULL OR json_typeof(error::json) = 'object'
        AND json_extract_path_text(replace(error, '\u0000', '\ufffd')::json, 'code') IS NOT NULL),
    -- NULL in an INSERT, which the trigger fills; never in a row.
    CONSTRAINT jobs_have_a_place CHECK (queue IS NOT NULL AND priority IS NOT NULL),
    -- Without a key there is no tombstone to end as.
    CONSTRAINT jobs_keep_has_key CHECK (unique_keep IS NULL OR unique_key IS NOT NULL),
    CONSTRAINT jobs_counts_are_counts CHECK (epoch >= 0 AND resumes >= 0 AND crashes >= 0 AND streak >= 0),
    -- Only what may be claimed stands in a claim lane.
    CONSTRAINT jobs_lane_fits_state CHECK (CASE state
        WHEN 'queued' THEN lane IN (0, 1)
        WHEN 'running' THEN lane IN (0, 2)
        WHEN 'held' THEN lane IN (4, 5)
        -- The final ones, one after the other in the type, are tombstones.
        ELSE lane = 3 AND (state NOT BETWEEN 'completed' AND 'cancelled' OR unique_keep IS NOT NULL AND worker IS NULL) END),
    CONSTRAINT jobs_running_has_worker CHECK (state <> 'running' OR worker IS NOT NULL),
    -- On a tombstone: until when it keeps the key.
    CONSTRAINT jobs_due_fits_state CHECK (due_at IS NULL OR state IN ('scheduled', 'waiting', 'resuming', 'completed', 'failed', 'cancelled')),
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
-- Admission walks from key to key, however many rows one of them has.
CREATE INDEX jobs_held ON stepd.jobs (queue, workflow, (coalesce(concurrency_key, '')), (coalesce(rate_key, '')), lane, priority, ready_at, id)
    WHERE lane >= 4;
-- What holds a place of its concurrency key: queued, running, resuming (which alone of those in lane 3 has an error). A job without
-- a key is in none of these two, and costs them nothing.
CREATE INDEX jobs_of_key ON stepd.jobs (workflow, concurrency_key)
    WHERE concurrency_key IS NOT NULL AND (lane <= 2 OR lane = 3 AND error IS NOT NULL);
CREATE INDEX jobs_failing ON stepd.jobs (workflow, target) WHERE target IS NOT NULL;
CREATE INDEX jobs_due ON stepd.jobs (due_at) WHERE due_at IS NOT NULL;
CREATE UNIQUE INDEX jobs_unique_key ON stepd.jobs (workflow, unique_key) WHERE unique_key IS NOT NULL;
COMMENT ON INDEX stepd.jobs_pkey IS 'Every write of a worker finds its row by id.';
COMMENT ON INDEX stepd.jobs_ready IS 'The claim walks it from its watermark on: new runs by queue, priority and the time at which they became ready.';
COMMENT ON INDEX stepd.jobs_returned IS 'What came back (woken, resumed, taken over) is claimed first, in this order; holds what runs after it came back, too.';
COMMENT ON INDEX stepd.jobs_held IS 'Admission walks the held runs from key to key, and those of a key in their order.';
COMMENT ON INDEX stepd.jobs_of_key IS 'Admission counts what holds a place of a concurrency key.';
COMMENT ON INDEX stepd.jobs_failing IS 'The stager counts the runs that wait to be resumed after a failure at one step.';
COMMENT ON INDEX stepd.jobs_due IS 'The stager looks here for what is due.';
COMMENT ON INDEX stepd.jobs_unique_key IS 'One unfinished run, or one tombstone, for each workflow and unique key.';

COMMENT ON TABLE stepd.jobs IS 'Insert here to run a workflow: INSERT INTO stepd.jobs (workflow, input) VALUES (''name'', ''{}''). A row leaves when its run ends; look at stepd.runs, which shows it before and after.';
COMMENT ON COLUMN stepd.jobs.id IS 'The id of job, run and trace; a UUIDv7 that the database makes.';
COMMENT ON COLUMN stepd.jobs.workflow IS 'Yours to write. The workflow to run; an unknown one is refused (SD001), or parked where the settings say so.';
COMMENT ON COLUMN stepd.jobs.input IS 'Yours to write. The workflow''s input; {} by default.';
COMMENT ON COLUMN stepd.jobs.queue IS 'Yours to write. NULL means as the workflow says.';
COMMENT ON COLUMN stepd.jobs.priority IS 'Yours to write. 0 to 9, lower first; NULL means as the workflow says (5 by default).';
COMMENT ON COLUMN stepd.jobs.run_at IS 'Yours to write. Not before this time; NULL means now.';
COMMENT ON COLUMN stepd.jobs.unique_key IS 'Yours to write; NULL means as the workflow says. At most one unfinished run per workflow and key; use ON CONFLICT DO NOTHING.';
COMMENT ON COLUMN stepd.jobs.concurrency_key IS 'Yours to write; NULL means as the workflow says. What the workflow''s concurrency limit counts by.';
COMMENT ON COLUMN stepd.jobs.labels IS 'Yours to write. A flat JSON object to find runs by.';
COMMENT ON COLUMN stepd.jobs.traceparent IS 'Yours to write. The W3C trace context of the enqueuer; the run''s trace links to it.';
COMMENT ON COLUMN stepd.jobs.session_id IS 'Yours to write. What several runs belong to: a conversation, an order; logs and traces name it, and the run''s children are of it, too.';
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
COMMENT ON COLUMN stepd.jobs.due_at IS 'When the stager looks at the row again: run_at, the next wake-up, the next resume, or the end of a tombstone.';
COMMENT ON COLUMN stepd.jobs.started_at IS 'The first claim since the job was enqueued, or since an operator last retried it after it had failed; later by the time it was paused: the workflow''s timeout counts from here.';
COMMENT ON COLUMN stepd.jobs.first_started_at IS 'On a run that an operator has paused, or retried after it had failed: the very first claim, which the views and the ended row show. Else NULL: it is started_at.';
COMMENT ON COLUMN stepd.jobs.worker IS 'The holder of the lease; on a queued row, the worker that empties itself to run it alone.';
COMMENT ON COLUMN stepd.jobs.unique_keep IS 'How long the unique key outlives the run, 1000 years: for ever; NULL: it ends with it. After the end such a row stays as a tombstone: the final state, the key, no input; the views leave it out.';
COMMENT ON COLUMN stepd.jobs.rate_key IS 'What the workflow''s rate counts by.';
COMMENT ON COLUMN stepd.jobs.target IS 'On a resuming run: the step that failed it, without the numbers of items.';
COMMENT ON COLUMN stepd.jobs.error IS 'The failure that the next automatic resume follows, as JSON.';
COMMENT ON COLUMN stepd.jobs.parent IS 'The run that waits for the end of this one: its worker tells it.';

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
    session_id text,
    created_by text,
    output text,
    error text,
    last_seq integer,
    last_attempts smallint,
    last_started_at timestamptz,
    last_key text,
    last_kind text,
    last_output text,
    CONSTRAINT ended_pkey PRIMARY KEY (id),
    CONSTRAINT ended_times_are_near CHECK (least(ready_at, run_at, started_at, ended_at, last_started_at) >= '1970-01-01' AND greatest(ready_at, run_at, started_at, ended_at, last_started_at) < '2300-01-01'),
    CONSTRAINT ended_output_is_json CHECK (json_typeof(output::json) IS NOT NULL OR output IS NULL),
    CONSTRAINT ended_last_output_is_json CHECK (json_typeof(last_output::json) IS NOT NULL OR last_output IS NULL),
    CONSTRAINT ended_error_is_json CHECK (error IS NULL OR stepd_engine.is_failure(error))
) WITH (autovacuum_vacuum_cost_delay = 0);
-- Rows come in the order of their end: a summary of a few pages each finds a time, and what is rare among the workflows and queues; what
-- is common, a walk back from the newest finds at once. It costs an end nothing (measured: 679 bytes of WAL a job with it and without;
-- an index by workflow and id 97 more, and a tenth of Postgres' time).
CREATE INDEX ended_by_time ON stepd_engine.ended USING brin (ended_at, workflow text_bloom_ops, queue text_bloom_ops) WITH (pages_per_range = 16, autosummarize = on);
-- A run without labels is not in it.
CREATE INDEX ended_labelled ON stepd_engine.ended USING gin (labels jsonb_path_ops) WHERE labels <> '{}';
-- Nor is one without a session: it costs it nothing.
CREATE INDEX ended_session ON stepd_engine.ended (session_id, id) WHERE session_id IS NOT NULL;
COMMENT ON INDEX stepd_engine.ended_by_time IS 'What has ended lately, and the runs of a rare workflow or queue, are found without reading all the rest.';
COMMENT ON INDEX stepd_engine.ended_labelled IS 'The runs that have a label.';
COMMENT ON INDEX stepd_engine.ended_session IS 'The runs of a session, newest first.';
COMMENT ON TABLE stepd_engine.ended IS 'Finished runs. last_* is the checkpoint of the step that the run ended with; the views show it like any other.';
COMMENT ON COLUMN stepd_engine.ended.id IS 'The id of job, run and trace.';
COMMENT ON COLUMN stepd_engine.ended.state IS 'How it ended: completed, failed or cancelled.';
COMMENT ON COLUMN stepd_engine.ended.epoch IS 'Claims and take-overs in all.';
COMMENT ON COLUMN stepd_engine.ended.definition IS 'The definition that the run was pinned to.';
COMMENT ON COLUMN stepd_engine.ended.priority IS '0 to 9, lower first.';
COMMENT ON COLUMN stepd_engine.ended.resumes IS 'Automatic resumes after a failure.';
COMMENT ON COLUMN stepd_engine.ended.crashes IS 'Workers that died after they had started this run.';
COMMENT ON COLUMN stepd_engine.ended.ready_at IS 'Its place in the queue: when it last became ready as a new run.';
COMMENT ON COLUMN stepd_engine.ended.run_at IS 'Not before this time; NULL: at once.';
COMMENT ON COLUMN stepd_engine.ended.started_at IS 'The first claim; NULL for a run that was cancelled before it.';
COMMENT ON COLUMN stepd_engine.ended.ended_at IS 'When the run ended.';
COMMENT ON COLUMN stepd_engine.ended.worker IS 'The worker that ended it, or whose death did; NULL where an operator did.';
COMMENT ON COLUMN stepd_engine.ended.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_engine.ended.queue IS 'The queue it came through.';
COMMENT ON COLUMN stepd_engine.ended.input IS 'The workflow''s input.';
COMMENT ON COLUMN stepd_engine.ended.labels IS 'A flat JSON object to find runs by.';
COMMENT ON COLUMN stepd_engine.ended.unique_key IS 'The unique key that the run held while it lived.';
COMMENT ON COLUMN stepd_engine.ended.concurrency_key IS 'What the workflow''s concurrency limit counted it by.';
COMMENT ON COLUMN stepd_engine.ended.traceparent IS 'The enqueuer''s W3C trace context.';
COMMENT ON COLUMN stepd_engine.ended.session_id IS 'The session that the run belongs to.';
COMMENT ON COLUMN stepd_engine.ended.created_by IS 'The database role that inserted the job.';
COMMENT ON COLUMN stepd_engine.ended.output IS 'The workflows output as JSON text, byte for byte; NULL unless completed.';
COMMENT ON COLUMN stepd_engine.ended.error IS 'The failure as JSON text: {class, code, message, details}; NULL unless failed.';
COMMENT ON COLUMN stepd_engine.ended.last_seq IS 'The last step''s place in the order of starts.';
COMMENT ON COLUMN stepd_engine.ended.last_attempts IS 'Its attempts.';
COMMENT ON COLUMN stepd_engine.ended.last_started_at IS 'When its first attempt started; it ended with the run.';
COMMENT ON COLUMN stepd_engine.ended.last_key IS 'Its key; NULL where every step has a row in checkpoints.';
COMMENT ON COLUMN stepd_engine.ended.last_kind IS 'What it did: run, http, sql, …';
COMMENT ON COLUMN stepd_engine.ended.last_output IS 'Its output as JSON text; NULL where it failed the run.';
-- Few beside the completed ones, which it costs nothing.
CREATE INDEX ended_not_completed ON stepd_engine.ended (state, id) WHERE state <> 'completed';
COMMENT ON INDEX stepd_engine.ended_not_completed IS 'The newest failed or cancelled runs, however rare they are.';
COMMENT ON INDEX stepd_engine.ended_pkey IS 'Runs by id, which is by time.';

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
    label text,
    usage text,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (run, key),
    CONSTRAINT checkpoints_times_are_near CHECK (least(started_at, ended_at, due_at) >= '1970-01-01' AND greatest(started_at, ended_at, due_at) < '2300-01-01'),
    CONSTRAINT checkpoints_output_is_json CHECK (json_typeof(output::json) IS NOT NULL OR output IS NULL),
    CONSTRAINT checkpoints_decision_is_json CHECK (decision IS NULL OR stepd_engine.is_decision(decision)),
    CONSTRAINT checkpoints_error_is_json CHECK (error IS NULL OR stepd_engine.is_failure(error)),
    CONSTRAINT checkpoints_usage_is_counted CHECK (usage IS NULL OR json_typeof(usage::json) = 'object' AND stepd_engine.is_usage(usage::json)),
    CONSTRAINT checkpoints_final CHECK (checkpoint = (state IN ('completed', 'skipped')) OR state = 'failed')
) WITH (autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.1);
CREATE INDEX checkpoints_waiting ON stepd_engine.checkpoints (event, stepd_engine.match_key(match), run) WHERE state = 'waiting';
CREATE INDEX checkpoints_usage ON stepd_engine.checkpoints (run) WHERE usage IS NOT NULL;
COMMENT ON TABLE stepd_engine.checkpoints IS 'One row for each step of a run; by `checkpoint`, whether the step is done for good.';
COMMENT ON COLUMN stepd_engine.checkpoints.run IS 'The run''s id.';
COMMENT ON COLUMN stepd_engine.checkpoints.seq IS 'The order in which the run''s steps started.';
COMMENT ON COLUMN stepd_engine.checkpoints.epoch IS 'The claim that wrote the row.';
COMMENT ON COLUMN stepd_engine.checkpoints.started_at IS 'When its first attempt started.';
COMMENT ON COLUMN stepd_engine.checkpoints.ended_at IS 'When it ended; NULL while it runs or waits.';
COMMENT ON COLUMN stepd_engine.checkpoints.due_at IS 'When a sleep ends or a wait times out.';
COMMENT ON COLUMN stepd_engine.checkpoints.attempts IS 'Attempts so far; 0 after an operator''s retry, until the step starts again.';
COMMENT ON COLUMN stepd_engine.checkpoints.checkpoint IS 'Is the step done for good? Such a row is never changed again.';
COMMENT ON COLUMN stepd_engine.checkpoints.state IS 'running, waiting, completed, failed, skipped or cancelled.';
COMMENT ON COLUMN stepd_engine.checkpoints.key IS 'The step''s name in its run: charge, docs[12].text.';
COMMENT ON COLUMN stepd_engine.checkpoints.kind IS 'What it does: run, http, sql, sleep, wait, …';
COMMENT ON COLUMN stepd_engine.checkpoints.output IS 'The output as JSON text, byte for byte as the step said it.';
COMMENT ON COLUMN stepd_engine.checkpoints.error IS 'The failure as JSON text.';
COMMENT ON COLUMN stepd_engine.checkpoints.event IS 'What a waiting step waits for: the event''s name; NULL for a sleep and an approval.';
COMMENT ON COLUMN stepd_engine.checkpoints.match IS 'What that event''s payload must contain; NULL: anything.';
COMMENT ON COLUMN stepd_engine.checkpoints.label IS 'What people call the step, or the map''s item that it belongs to; NULL: its key.';
COMMENT ON COLUMN stepd_engine.checkpoints.usage IS 'What all its attempts have used up of models: {calls, tokens_in, tokens_out, cost} as JSON text; NULL: it has called none.';
COMMENT ON COLUMN stepd_engine.checkpoints.decision IS 'What a resume must not decide anew (a map''s items, an approval''s question), as JSON.';
COMMENT ON INDEX stepd_engine.checkpoints_pkey IS 'A claim loads the steps of its run, a write finds its own.';
COMMENT ON INDEX stepd_engine.checkpoints_usage IS 'A run''s tokens and cost are summed from the few steps that have any.';
COMMENT ON INDEX stepd_engine.checkpoints_waiting IS 'An emitted event finds the steps that wait for its name, and among them those that may wait for its payload.';

-- Apart from the hot tables, which know of no other run: most runs have neither a parent nor children.
CREATE TABLE stepd_engine.children (
    parent uuid NOT NULL,
    key text NOT NULL,
    n smallint NOT NULL,
    child uuid NOT NULL,
    depth smallint NOT NULL,
    attached boolean NOT NULL,
    settled boolean NOT NULL DEFAULT false,
    CONSTRAINT children_pkey PRIMARY KEY (parent, key, n)
);
CREATE UNIQUE INDEX children_child ON stepd_engine.children (child);
CREATE INDEX children_at_work ON stepd_engine.children (parent) WHERE attached AND NOT settled;
COMMENT ON TABLE stepd_engine.children IS 'The runs that steps of other runs have started, one row each.';
COMMENT ON COLUMN stepd_engine.children.parent IS 'The run whose step it was.';
COMMENT ON COLUMN stepd_engine.children.key IS 'The step''s key.';
COMMENT ON COLUMN stepd_engine.children.n IS 'Which child of that step, from 1: another one is started only when the step is tried anew after the failure of the one before.';
COMMENT ON COLUMN stepd_engine.children.child IS 'The run that it started.';
COMMENT ON COLUMN stepd_engine.children.depth IS 'How many runs stand above the child.';
COMMENT ON COLUMN stepd_engine.children.attached IS 'Does the step wait for its end? Then it is cancelled when its parent ends without it.';
COMMENT ON COLUMN stepd_engine.children.settled IS 'Has the step been told of its end, or does nobody want to know any more?';
COMMENT ON INDEX stepd_engine.children_pkey IS 'A step finds its child, a run its children. One child for each n: what starts it twice is refused.';
COMMENT ON INDEX stepd_engine.children_child IS 'A run finds the one that waits for it.';
COMMENT ON INDEX stepd_engine.children_at_work IS 'Has a run with very many children one that is still at work?';

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
    CONSTRAINT events_pkey PRIMARY KEY (run, id),
    CONSTRAINT events_times_are_near CHECK (at >= '1970-01-01' AND at < '2300-01-01'),
    CONSTRAINT events_data_is_json CHECK (data IS NULL OR stepd_engine.is_line(kind, data)),
    CONSTRAINT events_attempt_is_whole CHECK (kind <> 'attempt_failed' OR key IS NOT NULL AND attempt IS NOT NULL)
) WITH (autovacuum_vacuum_cost_delay = 0);
-- A batch of unknown outcome is sent again, and may even arrive twice: a line is written once.
CREATE UNIQUE INDEX events_once ON stepd_engine.events (run, epoch, n) WHERE n IS NOT NULL;
COMMENT ON TABLE stepd_engine.events IS 'What the other rows cannot tell: failed attempts, resumes, crashes, operators'' actions, signals. Append-only.';
COMMENT ON COLUMN stepd_engine.events.id IS 'The order in which the rows were written.';
COMMENT ON COLUMN stepd_engine.events.run IS 'The run''s id; the nil UUID for what concerns a queue or a schedule.';
COMMENT ON COLUMN stepd_engine.events.at IS 'When it happened.';
COMMENT ON COLUMN stepd_engine.events.epoch IS 'The claim under which it happened, where there was one.';
COMMENT ON COLUMN stepd_engine.events.attempt IS 'Which attempt of the step.';
COMMENT ON COLUMN stepd_engine.events.kind IS 'called (what an attempt has asked of others, for a trace; no history shows it), attempt_failed, resume_scheduled, resumed, crashed, taken_over, released, event_received, cancel_requested, cancelled, pause_requested, paused, unpaused, retried, forked, approved, rejected, signalled, queue_paused, queue_unpaused, queue_limited, schedule_paused, schedule_unpaused.';
COMMENT ON COLUMN stepd_engine.events.key IS 'The step; or the queue, or the workflow of a schedule.';
COMMENT ON COLUMN stepd_engine.events.by_whom IS 'The database role of the operator.';
COMMENT ON COLUMN stepd_engine.events.data IS 'What else is known, as JSON text: the failure, the dead worker, the reason; of a received event, its number in signals.';
COMMENT ON INDEX stepd_engine.events_pkey IS 'The trail of one run, in order.';
COMMENT ON INDEX stepd_engine.events_once IS 'A line of a batch that arrives twice is written once.';
COMMENT ON SEQUENCE stepd_engine.events_id_seq IS 'The order of events.';
COMMENT ON COLUMN stepd_engine.events.n IS 'On a line of the worker that ran the claim: its number within the claim; else NULL.';

CREATE TABLE stepd_engine.deliveries (
    hook text NOT NULL,
    delivery text NOT NULL CONSTRAINT delivery_has_1_to_500_characters CHECK (length(delivery) BETWEEN 1 AND 500),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    answer text CONSTRAINT deliveries_answer_is_json CHECK (json_typeof(answer::json) IS NOT NULL OR answer IS NULL),
    CONSTRAINT deliveries_pkey PRIMARY KEY (hook, delivery),
    CONSTRAINT deliveries_times_are_near CHECK (at >= '1970-01-01' AND at < '2300-01-01')
);
CREATE INDEX deliveries_at ON stepd_engine.deliveries (at);
COMMENT ON TABLE stepd_engine.deliveries IS 'Deliveries of webhooks that have been taken, for a week: one that comes again is answered as the first was, and does nothing.';
COMMENT ON COLUMN stepd_engine.deliveries.hook IS 'The hook''s name.';
COMMENT ON COLUMN stepd_engine.deliveries.delivery IS 'What its sender calls the delivery: the same when it is sent again.';
COMMENT ON COLUMN stepd_engine.deliveries.at IS 'When it came first.';
COMMENT ON COLUMN stepd_engine.deliveries.answer IS 'How it was answered, as JSON; NULL only within the transaction that takes it.';
COMMENT ON INDEX stepd_engine.deliveries_pkey IS 'Each delivery once: the second of two that come together waits for the first.';
COMMENT ON INDEX stepd_engine.deliveries_at IS 'The repair removes what is older than a week.';

CREATE TABLE stepd_engine.signals (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run uuid,
    kind text NOT NULL CHECK (kind IN ('signal', 'event', 'cancel', 'pause')),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    taken_by text,
    by_whom text,
    payload jsonb NOT NULL DEFAULT 'null',
    CONSTRAINT signals_addressed CHECK ((kind = 'event') = (run IS NULL)),
    CONSTRAINT signals_times_are_near CHECK (least(at, expires_at) >= '1970-01-01' AND greatest(at, expires_at) < '2300-01-01'),
    -- An unpause brings the run back to what it says.
    CONSTRAINT signals_pause_is_readable CHECK (kind <> 'pause' OR jsonb_typeof(payload) = 'object'
        AND coalesce((payload ->> 'due_at')::timestamptz BETWEEN '1970-01-01' AND '2300-01-01', true))
);
CREATE INDEX signals_of_run ON stepd_engine.signals (run, name) WHERE run IS NOT NULL;
CREATE INDEX signals_events ON stepd_engine.signals (name, id) WHERE run IS NULL;
-- For a wait with a match: which of a hundred thousand events of a name is the one of this order. The name is in the value, for no
-- index holds both a text and what a jsonb contains.
CREATE INDEX signals_matched ON stepd_engine.signals USING gin (jsonb_set('{}', ARRAY[name], payload) jsonb_path_ops) WITH (fastupdate = off) WHERE run IS NULL;
CREATE INDEX signals_cancels ON stepd_engine.signals (run) WHERE kind = 'cancel';
CREATE UNIQUE INDEX signals_pauses ON stepd_engine.signals (run) WHERE kind = 'pause';
CREATE INDEX signals_expiry ON stepd_engine.signals (expires_at) WHERE expires_at IS NOT NULL;
COMMENT ON TABLE stepd_engine.signals IS 'Signals and cancel requests to runs (kept until the run ends), pauses (kept as long as they hold), and emitted events (kept for settings.event_ttl).';
COMMENT ON COLUMN stepd_engine.signals.id IS 'The order in which they came.';
COMMENT ON COLUMN stepd_engine.signals.run IS 'The run it is sent to; NULL for an emitted event.';
COMMENT ON COLUMN stepd_engine.signals.kind IS 'signal, event, cancel or pause.';
COMMENT ON COLUMN stepd_engine.signals.name IS 'The name that a step waits for.';
COMMENT ON COLUMN stepd_engine.signals.at IS 'When it came.';
COMMENT ON COLUMN stepd_engine.signals.expires_at IS 'Until when an emitted event is kept for late waiters.';
COMMENT ON COLUMN stepd_engine.signals.taken_by IS 'The step that a signal has answered; a signal answers one.';
COMMENT ON COLUMN stepd_engine.signals.by_whom IS 'The database role of the sender.';
COMMENT ON COLUMN stepd_engine.signals.payload IS 'What the step is given as its output; of a cancel the reason; of a pause the reason, and the state and the due time to which an unpause brings the run back.';
COMMENT ON INDEX stepd_engine.signals_pkey IS 'Signals by number.';
COMMENT ON INDEX stepd_engine.signals_of_run IS 'What is kept for one run, by name.';
COMMENT ON INDEX stepd_engine.signals_events IS 'Kept events, by name, oldest first.';
COMMENT ON INDEX stepd_engine.signals_matched IS 'Kept events by what a wait matches.';
COMMENT ON INDEX stepd_engine.signals_cancels IS 'The sweep asks which runs are to be cancelled.';
COMMENT ON INDEX stepd_engine.signals_pauses IS 'One pause for each run.';
COMMENT ON INDEX stepd_engine.signals_expiry IS 'The sweep removes what has expired.';
COMMENT ON SEQUENCE stepd_engine.signals_id_seq IS 'The order of signals.';
