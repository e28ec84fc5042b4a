-- Why: what applications and operators call. Rules of this file
--   * An operator's open transaction never blocks the engine's writer: no function here locks or changes the
--     job row of a running run. What a running run must hear of is left in stepd_engine.signals or in its step's row.
--   * Lock order, everywhere: the job's row, then its steps' rows, then signals and events.
--   * A function that reads private tables is SECURITY DEFINER, with its search_path pinned. stepd.enqueue is not: what an INSERT into
--     stepd.jobs may do, it may do. All of them are taken from PUBLIC: optional/roles.sql says who may call what.
--   * Errors: SD002 too large, SD010 unknown run, SD011 the run has ended, SD012 the run's state does not allow it, SD013 the unique
--     key is taken, SD014 no such step waits, SD015 several approvals wait, SD016 an argument is missing, SD017 the run has no such step,
--     SD018 the answer does not fit, SD020 its steps have been undone.

-- Small words for people -----------------------------------------------------------------------------

CREATE FUNCTION stepd_engine.span(t interval) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN s < 1 THEN greatest(0, round(s * 1000)) || ' ms'
        WHEN s < 120 THEN round(s) || ' s'
        WHEN s < 7200 THEN floor(s / 60) || ' min'
        WHEN s < 172800 THEN floor(s / 3600) || ' h ' || floor(s / 60)::bigint % 60 || ' min'
        ELSE floor(s / 86400) || ' d ' || floor(s / 3600)::bigint % 24 || ' h' END
    FROM (SELECT extract(epoch FROM t) AS s) x
$$;
COMMENT ON FUNCTION stepd_engine.span(interval) IS 'An interval for people: 40 s, 3 min, 2 h 5 min.';

-- Not pinned and without a body that needs it: json keeps NUL escapes that ->> refuses, so they are replaced first.
CREATE FUNCTION stepd_engine.failure_field(failure text, field text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT pg_catalog.json_extract_path_text(pg_catalog.replace(failure, '\u0000', '\ufffd')::pg_catalog.json, VARIADIC ARRAY[field])
$$;
COMMENT ON FUNCTION stepd_engine.failure_field(text, text) IS 'One field of a failure (code, message, class) as text; NUL escapes become U+FFFD.';

CREATE FUNCTION stepd_engine.failure_json(failure text) RETURNS json LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$
    SELECT pg_catalog.replace(failure, '\u0000', '\ufffd')::pg_catalog.json
$$;
COMMENT ON FUNCTION stepd_engine.failure_json(text) IS 'A failure as json on which ->> never trips: NUL escapes become U+FFFD.';

CREATE FUNCTION stepd_engine.failure_text(failure text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT concat_ws(': ', stepd_engine.failure_field(failure, 'code'), stepd_engine.failure_field(failure, 'message'))
$$;
COMMENT ON FUNCTION stepd_engine.failure_text(text) IS 'A failure as "code: message".';

CREATE FUNCTION stepd_engine.state_of(run uuid) RETURNS text LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- One statement, one snapshot: a run that moves between the tables is seen in exactly one.
    SELECT j.state::text FROM stepd.jobs j WHERE j.id = run AND j.state NOT IN ('completed', 'failed', 'cancelled')
    UNION ALL
    SELECT e.state::text FROM stepd_engine.ended e WHERE e.id = run
$$;
COMMENT ON FUNCTION stepd_engine.state_of(uuid) IS 'The state of a run, live or ended; NULL when there is no such run.';

CREATE FUNCTION stepd_engine.refuse_unknown(run uuid) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'SD010',
        MESSAGE = format('stepd SD010: there is no run %s', coalesce(run::text, 'NULL')),
        HINT = 'SELECT id, workflow, state FROM stepd.runs ORDER BY id DESC LIMIT 20 shows the latest. (stepd explain SD010)';
END
$$;
COMMENT ON FUNCTION stepd_engine.refuse_unknown(uuid) IS 'Raises SD010.';

-- Ends a run that is not running. False when there is no such row, or a worker has it.
CREATE FUNCTION stepd_engine.end_cancelled(run_ uuid, reason text, by_whom text) RETURNS boolean LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was stepd.run_state;
BEGIN
    SELECT j.state INTO was FROM stepd.jobs j WHERE j.id = run_ AND j.state <> 'running' AND j.state NOT IN ('completed', 'failed', 'cancelled') FOR UPDATE;
    IF was IS NULL THEN RETURN false; END IF;
    INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, run_at, started_at, ended_at,
            worker, workflow, queue, input, labels, unique_key, concurrency_key, traceparent, session_id, created_by)
        SELECT g.id, 'cancelled', g.epoch, g.definition, g.priority, g.resumes, g.crashes, g.ready_at, g.run_at, coalesce(g.first_started_at, g.started_at),
            clock_timestamp(), NULL, g.workflow, g.queue, g.input, g.labels, g.unique_key, g.concurrency_key, g.traceparent, g.session_id, g.created_by
        FROM stepd.jobs g WHERE g.id = run_;
    PERFORM stepd_engine.bury(ARRAY[run_]);
    UPDATE stepd_engine.checkpoints c SET state = 'cancelled', checkpoint = false, ended_at = clock_timestamp(), due_at = NULL
        WHERE c.run = run_ AND c.state IN ('running', 'waiting');
    DELETE FROM stepd_engine.signals g WHERE g.run = run_;
    INSERT INTO stepd_engine.events (run, kind, by_whom, data)
        VALUES (run_, 'cancelled', by_whom, json_build_object('reason', reason, 'from', was)::text);
    PERFORM stepd_engine.let_children_go(run_, NULL, 'its parent was cancelled');
    PERFORM stepd_engine.tell_parents(ARRAY[run_]);
    RETURN true;
END
$$;
COMMENT ON FUNCTION stepd_engine.end_cancelled(uuid, text, text) IS 'Moves a run that no worker has to its end, as cancelled.';

-- Cancels a run that is not running: 'cancelled' when it has ended, 'ending' when a worker is to do first what is to be done at its end,
-- 'too late' when it is ending otherwise. NULL when there is no such row, or a worker has it.
CREATE FUNCTION stepd_engine.cancel_now(run_ uuid, reason text, by_whom text) RETURNS text LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ends text;
    asked timestamptz := clock_timestamp();
BEGIN
    PERFORM FROM stepd.jobs j WHERE j.id = run_ AND j.state <> 'running' FOR UPDATE;
    IF NOT FOUND THEN RETURN NULL; END IF;
    ends := stepd_engine.ending(run_);
    IF ends IS NOT NULL THEN RETURN CASE ends WHEN 'cancelled' THEN 'ending' ELSE 'too late' END; END IF;
    IF stepd_engine.begin_end(run_, 'cancelled', '{"class":"permanent","code":"cancelled","message":"the run was cancelled"}') THEN
        INSERT INTO stepd_engine.events (run, at, kind, by_whom, data)
            VALUES (run_, asked, 'cancel_requested', by_whom, json_build_object('reason', reason)::text);
        RETURN 'ending';
    END IF;
    RETURN CASE WHEN stepd_engine.end_cancelled(run_, reason, by_whom) THEN 'cancelled' END;
END
$$;
COMMENT ON FUNCTION stepd_engine.cancel_now(uuid, text, text) IS 'Cancels a run that no worker has: at once, or by way of a worker where something is to be done at its end.';

-- A request can meet a run in the instant in which its worker lets it go; then no worker looks at it.
CREATE FUNCTION stepd_engine.settle_cancels(batch integer) RETURNS integer LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
    n integer := 0;
BEGIN
    FOR r IN SELECT g.run, g.by_whom, g.payload FROM stepd_engine.signals g JOIN stepd.jobs j ON j.id = g.run
        WHERE g.kind = 'cancel' AND j.state <> 'running' AND j.state NOT IN ('completed', 'failed', 'cancelled') AND stepd_engine.ending(j.id) IS NULL ORDER BY g.run LIMIT batch FOR UPDATE OF j SKIP LOCKED
    LOOP
        n := n + (stepd_engine.cancel_now(r.run, r.payload ->> 'reason', r.by_whom) IS NOT NULL)::integer;
    END LOOP;
    RETURN n;
END
$$;
COMMENT ON FUNCTION stepd_engine.settle_cancels(integer) IS 'Ends runs that a cancel request has met while no worker had them; part of the sweep.';

-- Enqueue --------------------------------------------------------------------------------------------

CREATE FUNCTION stepd.unique_key(workflow text, input jsonb DEFAULT '{}') RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT stepd_engine.unique_key_of(w.flow, coalesce(unique_key.input, '{}')) FROM stepd_engine.workflows w WHERE w.name = unique_key.workflow AND w.flow ? 'unique'
$$;
COMMENT ON FUNCTION stepd.unique_key(text, jsonb) IS
    'The unique key that a job of this workflow with this input is given where it names none; NULL where the workflow has no unique setting, or the input none of its parts.';

CREATE FUNCTION stepd.enqueue(workflow text, input jsonb DEFAULT '{}', queue text DEFAULT NULL, priority integer DEFAULT NULL,
    run_at timestamptz DEFAULT NULL, unique_key text DEFAULT NULL, concurrency_key text DEFAULT NULL,
    labels jsonb DEFAULT '{}', traceparent text DEFAULT NULL, session_id text DEFAULT NULL) RETURNS uuid LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_ uuid;
BEGIN
    -- The conflicting run may end between the two statements; then the next INSERT succeeds.
    LOOP
        INSERT INTO stepd.jobs AS j (workflow, input, queue, priority, run_at, unique_key, concurrency_key, labels, traceparent, session_id)
            VALUES (enqueue.workflow, enqueue.input, enqueue.queue, enqueue.priority, enqueue.run_at, enqueue.unique_key,
                enqueue.concurrency_key, enqueue.labels, enqueue.traceparent, enqueue.session_id)
            ON CONFLICT DO NOTHING RETURNING j.id INTO found_;
        IF found_ IS NOT NULL THEN RETURN found_; END IF;
        SELECT j.id INTO found_ FROM stepd.jobs j
            WHERE j.workflow = enqueue.workflow AND j.unique_key = coalesce(enqueue.unique_key, stepd.unique_key(enqueue.workflow, enqueue.input));
        IF found_ IS NOT NULL THEN RETURN found_; END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION stepd.enqueue(text, jsonb, text, integer, timestamptz, text, text, jsonb, text, text) IS
    'Enqueues a run and returns its id; when the workflow already has a run with this unique key (its own, or the one that the workflow''s setting makes of the input), returns that run''s id. Same as INSERT INTO stepd.jobs, with the caller''s own rights: needs INSERT on those columns and SELECT on id, workflow, unique_key.';

-- Cancel and retry -----------------------------------------------------------------------------------

CREATE FUNCTION stepd.cancel(id uuid, reason text DEFAULT NULL) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state_ text;
    done text;
    asked boolean := false;
BEGIN
    -- As an approval does: a worker that suspends the run meanwhile looks again afterwards.
    PERFORM pg_advisory_xact_lock_shared(stepd_engine.run_lock(cancel.id));
    LOOP
        done := stepd_engine.cancel_now(cancel.id, cancel.reason, stepd_engine.actor());
        IF done IN ('cancelled', 'ending') THEN
            RETURN CASE done WHEN 'cancelled' THEN done ELSE 'requested' END;
        END IF;
        state_ := stepd_engine.state_of(cancel.id);
        IF state_ IS NULL THEN
            PERFORM stepd_engine.refuse_unknown(cancel.id);
        ELSIF state_ IN ('completed', 'failed', 'cancelled') THEN
            EXIT WHEN asked;
            RAISE EXCEPTION USING ERRCODE = 'SD011',
                MESSAGE = format('stepd SD011: run %s has already ended as %s', cancel.id, state_),
                HINT = 'There is nothing left to cancel. (stepd explain SD011)';
        ELSIF done = 'too late' OR stepd_engine.ending(cancel.id) <> 'cancelled' THEN
            EXIT WHEN asked;
            RAISE EXCEPTION USING ERRCODE = 'SD012',
                MESSAGE = format('stepd SD012: run %s is ending as %s and cannot be cancelled any more', cancel.id, stepd_engine.ending(cancel.id)),
                HINT = format('What is to be done at its end is being done; SELECT stepd.why(%L) says what. (stepd explain SD012)', cancel.id);
        ELSIF state_ = 'running' THEN
            EXIT WHEN asked;
            INSERT INTO stepd_engine.signals (run, kind, name, by_whom, payload)
                VALUES (cancel.id, 'cancel', 'cancel', stepd_engine.actor(), jsonb_build_object('reason', cancel.reason));
            INSERT INTO stepd_engine.events (run, kind, by_whom, data)
                VALUES (cancel.id, 'cancel_requested', stepd_engine.actor(), json_build_object('reason', cancel.reason)::text);
            PERFORM stepd_engine.wake();
            asked := true;
        END IF;
        -- Else the worker has let it go between the statements: look again. After a request, too,
        -- one more look; what slips past it is found by stepd_engine.settle_cancels.
    END LOOP;
    RETURN 'requested';
END
$$;
COMMENT ON FUNCTION stepd.cancel(uuid, text) IS
    'Cancels a run. Returns ''cancelled'' when it has ended at once, ''requested'' when a worker runs it and is told (within 2 s), or is to run its undo and finally steps first. Raises SD010 for an unknown run, SD011 for an ended one, SD012 for one that is ending otherwise.';

-- What a run is pinned to from now on, where it is to move on: its workflow's present definition.
CREATE FUNCTION stepd_engine.present_definition(workflow_ text) RETURNS integer LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT w.definition FROM stepd_engine.workflows w WHERE w.name = workflow_
$$;
COMMENT ON FUNCTION stepd_engine.present_definition(text) IS 'The definition that new runs of a workflow are pinned to.';

CREATE FUNCTION stepd.retry(id uuid, latest boolean DEFAULT false) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    e stepd_engine.ended%ROWTYPE;
    fresh uuid;
    other uuid;
    state_ text;
    ended_seq integer;
    handlers json;
BEGIN
    LOOP
        -- Failed and about to resume: now.
        UPDATE stepd.jobs j SET due_at = NULL, target = NULL, resumes = j.resumes + 1,
                definition = CASE WHEN retry.latest THEN coalesce(stepd_engine.present_definition(j.workflow), j.definition) ELSE j.definition END,
                state = CASE WHEN l.limited THEN 'held' ELSE 'queued' END::stepd.run_state,
                lane = CASE WHEN l.limited THEN 5 ELSE 1 END
            FROM (SELECT d.id, stepd_engine.limited(d.queue, d.workflow, d.concurrency_key) AS limited FROM stepd.jobs d WHERE d.id = retry.id) l
            WHERE j.id = l.id AND j.state = 'resuming' RETURNING j.state::text INTO state_;
        IF FOUND THEN
            INSERT INTO stepd_engine.events (run, kind, by_whom, data)
                VALUES (retry.id, 'retried', stepd_engine.actor(), '{"from":"resuming"}');
            PERFORM stepd_engine.wake();
            RETURN state_;
        END IF;

        DELETE FROM stepd_engine.ended x WHERE x.id = retry.id AND x.state = 'failed' RETURNING x.* INTO e;
        EXIT WHEN FOUND;
        state_ := stepd_engine.state_of(retry.id);
        IF state_ IS NULL THEN
            PERFORM stepd_engine.refuse_unknown(retry.id);
        ELSIF state_ NOT IN ('failed', 'resuming') THEN
            RAISE EXCEPTION USING ERRCODE = 'SD012',
                MESSAGE = format('stepd SD012: run %s is %s; only a failed or resuming run can be retried', retry.id, state_),
                HINT = CASE
                    WHEN state_ IN ('completed', 'cancelled') THEN 'Enqueue a new run with the same input.'
                    WHEN state_ = 'paused' THEN format('It has not failed; SELECT stepd.unpause(%L) lets it go on.', retry.id)
                    ELSE format('It has not failed; SELECT stepd.why(%L) says what it waits for.', retry.id) END || ' (stepd explain SD012)';
        END IF;
    END LOOP;

    PERFORM stepd_engine.take_back(e);
    -- Its end is taken back: what was done then is done again at the next one. But not what was undone.
    SELECT c.seq INTO ended_seq FROM stepd_engine.checkpoints c WHERE c.run = e.id AND c.key = '(end)';
    IF EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = e.id AND c.seq > ended_seq AND c.key LIKE '%.undo' AND c.state <> 'skipped') THEN
        RAISE EXCEPTION USING ERRCODE = 'SD020',
            MESSAGE = format('stepd SD020: run %s cannot be retried: its steps have been undone', retry.id),
            HINT = 'Fork it from a step before them, or enqueue a new run with the same input. (stepd explain SD020)';
    END IF;
    WITH gone AS (
        DELETE FROM stepd_engine.checkpoints c WHERE c.run = e.id AND c.seq >= ended_seq RETURNING c.seq, c.key, c.state, c.ended_at
    )
    SELECT json_agg(json_build_object('key', g.key, 'state', g.state, 'ended_at', g.ended_at) ORDER BY g.seq) INTO handlers FROM gone g;
    -- The run takes its key back from its tombstone.
    DELETE FROM stepd.jobs j WHERE j.id = e.id AND j.state IN ('completed', 'failed', 'cancelled');
    -- The trigger gives an inserted row first values; what the run already is, follows in the same transaction.
    INSERT INTO stepd.jobs AS j (workflow, queue, priority, input, labels, unique_key, concurrency_key, traceparent, session_id)
        VALUES (e.workflow, e.queue, e.priority, e.input, e.labels, e.unique_key, e.concurrency_key, e.traceparent, e.session_id)
        ON CONFLICT DO NOTHING RETURNING j.id INTO fresh;
    IF fresh IS NULL THEN
        SELECT j.id INTO other FROM stepd.jobs j WHERE j.workflow = e.workflow AND j.unique_key = e.unique_key;
        RAISE EXCEPTION USING ERRCODE = 'SD013',
            MESSAGE = format('stepd SD013: run %s cannot be retried: its unique key "%s" now belongs to run %s',
                retry.id, e.unique_key, coalesce(other::text, '(just ended)')),
            HINT = 'Wait until that run has ended, or cancel it, then retry. (stepd explain SD013)';
    END IF;
    UPDATE stepd.jobs j SET id = e.id, epoch = e.epoch, crashes = e.crashes, run_at = e.run_at,
            definition = CASE WHEN retry.latest THEN coalesce(stepd_engine.present_definition(e.workflow), e.definition) ELSE e.definition END,
            first_started_at = e.started_at, ready_at = e.ready_at, created_by = e.created_by,
            parent = (SELECT k.parent FROM stepd_engine.children k WHERE k.child = e.id AND k.attached),
            lane = CASE j.state WHEN 'held' THEN 5 ELSE 1 END
        WHERE j.id = fresh RETURNING j.state::text INTO state_;

    -- A cancel or a pause that came too late for the last run must not meet this one.
    DELETE FROM stepd_engine.signals g WHERE g.run = e.id AND g.kind IN ('cancel', 'pause');
    -- Only a step that completed leaves an output; else the last step is the one that failed the run.
    IF e.last_key IS NOT NULL THEN
        INSERT INTO stepd_engine.checkpoints AS c (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output, error)
            VALUES (e.id, coalesce(e.last_seq, 0), e.epoch, coalesce(e.last_started_at, e.ended_at), e.ended_at, coalesce(e.last_attempts, 1),
                e.last_output IS NOT NULL, CASE WHEN e.last_output IS NULL THEN 'failed' ELSE 'completed' END::stepd.step_state,
                e.last_key, coalesce(e.last_kind, ''), e.last_output, CASE WHEN e.last_output IS NULL THEN e.error END)
            ON CONFLICT (run, key) DO UPDATE SET seq = excluded.seq, epoch = excluded.epoch, started_at = excluded.started_at,
                ended_at = excluded.ended_at, due_at = NULL, attempts = excluded.attempts, checkpoint = excluded.checkpoint,
                state = excluded.state, kind = excluded.kind, output = excluded.output, error = excluded.error
            WHERE NOT c.checkpoint;
    END IF;
    -- Fresh attempts: the last one of each failed step becomes history, where the engine has not written its line already (it has
    -- when the step's own work failed; not when its author or a person said no). Then the count begins anew.
    INSERT INTO stepd_engine.events (run, at, epoch, attempt, kind, key, data)
        SELECT c.run, coalesce(c.ended_at, e.ended_at), c.epoch, c.attempts, 'attempt_failed', c.key,
            json_build_object('started_at', c.started_at, 'ended_at', c.ended_at, 'failure', coalesce(c.error, e.error)::json)::text
        FROM stepd_engine.checkpoints c WHERE c.run = e.id AND c.state = 'failed' AND NOT c.checkpoint AND c.attempts > 0
            AND NOT EXISTS (SELECT FROM stepd_engine.events v WHERE v.run = c.run AND v.key = c.key AND v.kind = 'attempt_failed'
                AND v.attempt = c.attempts AND v.epoch = c.epoch)
        ORDER BY c.seq;
    UPDATE stepd_engine.checkpoints c SET attempts = 0, due_at = NULL,
            state = CASE WHEN c.state IN ('running', 'waiting') THEN 'failed' ELSE c.state END
        WHERE c.run = e.id AND NOT c.checkpoint;
    -- The epoch says which lines are of the attempts before.
    INSERT INTO stepd_engine.events (run, epoch, kind, by_whom, data)
        VALUES (e.id, e.epoch, 'retried', stepd_engine.actor(), json_build_object('from', 'failed', 'ended_at', e.ended_at, 'failure', e.error::json, 'at_end', handlers)::text);
    PERFORM stepd_engine.wake();
    RETURN state_;
END
$$;
COMMENT ON FUNCTION stepd.retry(uuid, boolean) IS
    'Takes up a failed run again under the same id: finished steps keep their results, failed ones get fresh attempts, the workflow''s timeout begins anew; a resuming run goes on at once. With latest it goes on with the workflow''s present definition instead of the one that it began with. Returns the new state, queued or held. Raises SD010 for an unknown run, SD012 for another state, SD013 when the unique key has been taken, SD020 when its steps have been undone.';

-- Fork -------------------------------------------------------------------------------------------------
-- What a fork keeps: the checkpoints of the steps that had started before from_step did. Whatever depends on from_step started after it
-- had ended, so nothing that is kept depends on it, in whatever order the steps stand; a branch beside it that started later runs
-- anew. Of the steps that hold others (a map), an open one is kept open where a part of it is kept or from_step is a part of it: its
-- decision (the items) stands, and it is put together anew; of a repeat, it goes back to the first iteration that is not kept whole. A
-- step that has been undone is not kept, nor is its undo; nor is what was granted beyond the budget: a fork spends one of its own.

CREATE FUNCTION stepd.fork(id uuid, from_step text, input jsonb DEFAULT NULL, latest boolean DEFAULT false, alone boolean DEFAULT false) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
    first_ integer;
    fresh uuid;
    kept bigint;
    known text;
BEGIN
    IF fork.from_step IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'SD016', MESSAGE = 'stepd SD016: fork needs the step from which on everything runs anew',
            HINT = format('SELECT key FROM stepd.steps WHERE run = %L ORDER BY seq lists them. (stepd explain SD016)', fork.id);
    END IF;
    SELECT x.id, x.state, x.workflow, x.queue, x.priority, x.input, x.labels, x.concurrency_key, x.traceparent, x.session_id, x.definition INTO r
        FROM stepd.runs x WHERE x.id = fork.id;
    IF NOT FOUND THEN
        PERFORM stepd_engine.refuse_unknown(fork.id);
    END IF;
    SELECT s.seq INTO first_ FROM stepd.steps s WHERE s.run = fork.id AND s.key = fork.from_step AND s.kind <> 'end';
    IF NOT FOUND THEN
        SELECT string_agg(k.key, ', ' ORDER BY k.seq) || CASE WHEN count(*) > 20 THEN ', …' ELSE '' END INTO known
            FROM (SELECT s.key, s.seq FROM stepd.steps s WHERE s.run = fork.id AND s.kind <> 'end' ORDER BY s.seq LIMIT 21) k;
        RAISE EXCEPTION USING ERRCODE = 'SD017',
            MESSAGE = format('stepd SD017: run %s has not begun a step "%s"', fork.id, fork.from_step),
            HINT = CASE WHEN known IS NULL THEN 'It has begun no step yet; enqueue a new run.' ELSE 'It has begun: ' || known END || ' (stepd explain SD017)';
    END IF;

    -- A fork takes no unique key: that belongs to the run that it is forked from. One of its own keeps the workflow from giving it that.
    INSERT INTO stepd.jobs AS j (workflow, queue, priority, input, labels, concurrency_key, traceparent, session_id, unique_key)
        VALUES (r.workflow, r.queue, r.priority, coalesce(fork.input, r.input), r.labels,
            CASE WHEN fork.input IS NULL THEN r.concurrency_key END, r.traceparent, r.session_id, 'fork ' || gen_random_uuid())
        RETURNING j.id INTO fresh;
    -- The first claim of a run whose epoch is not 0 loads its checkpoints.
    UPDATE stepd.jobs j SET unique_key = NULL, unique_keep = NULL, epoch = 1, definition = CASE WHEN fork.latest
            THEN coalesce(stepd_engine.present_definition(r.workflow), r.definition) ELSE r.definition END
        WHERE j.id = fresh;

    -- Dated now and without attempts: nothing of them was done in this run. Their own times are those of the other run.
    WITH before AS (
        SELECT s.seq, s.key, s.kind, s.label, s.checkpoint, s.state, s.output::text AS output, s.error::text AS error, s.decision::text AS decision,
            s.attempts, s.ended_at
        FROM stepd.steps s WHERE s.run = fork.id AND (s.seq < first_ OR fork.alone) AND s.key <> fork.from_step
            -- What is made of steps runs anew with all of them.
            AND NOT starts_with(s.key, fork.from_step || '[') AND NOT starts_with(s.key, fork.from_step || '.')
            AND NOT (s.kind = 'approve' AND s.key ~ '^budget\[[0-9]+\]$')
            AND NOT EXISTS (SELECT FROM stepd.steps u WHERE u.run = s.run AND u.key = s.key || '.undo')
            -- How the run ended, and what was done because of it.
            AND NOT EXISTS (SELECT FROM stepd.steps z WHERE z.run = s.run AND z.kind = 'end' AND z.seq <= s.seq)
    ), taken AS (
        SELECT b.*, NOT b.checkpoint OR starts_with(fork.from_step, b.key || '[') OR starts_with(fork.from_step, b.key || '.')
            -- The keys of a branch's steps do not say where they stand, but its steps begin before it ends.
            OR b.kind = 'switch' AND (b.attempts = 0 OR EXISTS (SELECT FROM stepd.steps u
                WHERE u.run = fork.id AND u.seq > b.seq AND u.started_at <= b.ended_at
                    AND (u.key = fork.from_step OR EXISTS (SELECT FROM stepd.steps z WHERE z.run = u.run AND z.key = u.key || '.undo'))))
            -- What has been undone in an item is done again.
            OR b.decision IS NOT NULL AND EXISTS (SELECT FROM stepd.steps u
                WHERE u.run = fork.id AND starts_with(u.key, b.key || '[') AND u.key ~ '\.undo$') AS open
        FROM before b
        WHERE b.checkpoint OR b.kind = 'switch' AND b.decision IS NOT NULL
            OR b.decision IS NOT NULL AND b.state <> 'waiting' AND (starts_with(fork.from_step, b.key || '[') OR starts_with(fork.from_step, b.key || '.')
                OR EXISTS (SELECT FROM before part WHERE part.checkpoint AND (starts_with(part.key, b.key || '[') OR starts_with(part.key, b.key || '.'))))
    ), written AS (
        INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output, error, decision, label)
            SELECT fresh, t.seq, 1, clock_timestamp(), CASE WHEN t.open THEN NULL ELSE clock_timestamp() END, 0, NOT t.open,
                CASE WHEN t.open THEN 'running' ELSE t.state END, t.key, t.kind,
                CASE WHEN t.open THEN NULL ELSE t.output END, CASE WHEN t.open THEN NULL ELSE t.error END,
                CASE WHEN n.first IS NULL THEN t.decision ELSE json_build_object('iterations', least(n.first, (t.decision::json ->> 'iterations')::integer),
                    'from', least(n.first, coalesce((t.decision::json ->> 'from')::integer, 0)))::text END, t.label
            FROM taken t LEFT JOIN LATERAL (
                SELECT min(split_part(substr(p.key, length(t.key) + 2), ']', 1)::integer) AS first FROM stepd.steps p
                WHERE t.open AND t.kind = 'repeat' AND t.decision::json ->> 'iterations' IS NOT NULL AND p.run = fork.id AND starts_with(p.key, t.key || '[')
                    AND NOT EXISTS (SELECT FROM before k WHERE k.key = p.key AND k.checkpoint)
            ) n ON true
            RETURNING checkpoint
    )
    SELECT count(*) FILTER (WHERE w.checkpoint) INTO kept FROM written w;
    INSERT INTO stepd_engine.events (run, kind, key, by_whom, data)
        VALUES (fresh, 'forked', fork.from_step, stepd_engine.actor(), json_build_object('from', fork.id, 'kept', kept, 'latest', fork.latest, 'alone', fork.alone)::text);
    RETURN fresh;
END
$$;
COMMENT ON FUNCTION stepd.fork(uuid, text, jsonb, boolean, boolean) IS
    'Makes a new run of a run, live or ended: every step that had ended, and had started before from_step, keeps its result; from_step and all else run anew; with alone, every other step that is done keeps its result, and from_step alone runs anew. With input it has another input, with latest the workflow''s present definition. Takes no unique key; the run that it is forked from stays as it is. Returns the new id. Raises SD010 for an unknown run, SD016 without a step, SD017 for a step that the run has not begun.';

-- Pause and unpause -------------------------------------------------------------------------------------
-- While a run is paused, or is to be, its one signal of kind 'pause' says by whom and why, and where an unpause brings it:
-- `from` is the state and `due_at` the time that it had. Without `from` it goes back to a worker.

-- Pauses a run that is not running. False when there is no such row, a worker has it, or it is paused already.
CREATE FUNCTION stepd_engine.pause_now(run_ uuid, reason text, by_whom text) RETURNS boolean LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was record;
BEGIN
    SELECT j.state, j.due_at INTO was FROM stepd.jobs j WHERE j.id = run_ AND j.state NOT IN ('running', 'paused') AND j.state NOT IN ('completed', 'failed', 'cancelled') FOR UPDATE;
    IF NOT FOUND THEN RETURN false; END IF;
    UPDATE stepd.jobs j SET state = 'paused', lane = 3, due_at = NULL, worker = NULL WHERE j.id = run_;
    INSERT INTO stepd_engine.signals AS g (run, kind, name, by_whom, payload)
        VALUES (run_, 'pause', 'pause', by_whom, jsonb_build_object('reason', reason, 'from', was.state, 'due_at', was.due_at))
        ON CONFLICT (run) WHERE kind = 'pause' DO UPDATE SET payload = g.payload || jsonb_build_object('from', was.state, 'due_at', was.due_at);
    INSERT INTO stepd_engine.events (run, kind, by_whom, data)
        VALUES (run_, 'paused', by_whom, json_build_object('reason', reason, 'from', was.state)::text);
    RETURN true;
END
$$;
COMMENT ON FUNCTION stepd_engine.pause_now(uuid, text, text) IS 'Pauses a run that no worker has, and keeps where it came from.';

-- Ends a pause whose signal is gone: its payload says where the run belongs. The workflow's timeout has stood still meanwhile.
CREATE FUNCTION stepd_engine.unpause_now(run_ uuid, kept jsonb, by_whom text) RETURNS text LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    from_ text := kept ->> 'from';
    due timestamptz := CASE WHEN from_ IN ('scheduled', 'waiting', 'resuming') THEN (kept ->> 'due_at')::timestamptz END;
    -- Held for what the admitter knows, perhaps an unknown workflow: it looks again.
    limited boolean := from_ = 'held' OR (SELECT stepd_engine.limited(j.queue, j.workflow, j.concurrency_key) FROM stepd.jobs j WHERE j.id = run_);
    pause interval;
    state_ text;
BEGIN
    SELECT clock_timestamp() - max(v.at) INTO pause FROM stepd_engine.events v WHERE v.run = run_ AND v.kind = 'paused';
    UPDATE stepd.jobs j SET due_at = due,
            state = CASE WHEN from_ IN ('scheduled', 'waiting', 'resuming') THEN from_ WHEN limited THEN 'held' ELSE 'queued' END::stepd.run_state,
            -- Whoever was held before anybody had claimed it is new as ever, and counts towards its rate.
            lane = CASE WHEN from_ IN ('scheduled', 'waiting', 'resuming') THEN 3 WHEN from_ = 'held' AND j.epoch = 0 THEN 4 WHEN limited THEN 5 ELSE 1 END,
            first_started_at = coalesce(j.first_started_at, j.started_at), started_at = j.started_at + coalesce(pause, '0')
        WHERE j.id = run_ AND j.state = 'paused' RETURNING j.state::text INTO state_;
    INSERT INTO stepd_engine.events (run, kind, by_whom, data)
        VALUES (run_, 'unpaused', by_whom, json_build_object('to', state_)::text);
    PERFORM stepd_engine.wake();
    RETURN state_;
END
$$;
COMMENT ON FUNCTION stepd_engine.unpause_now(uuid, jsonb, text) IS 'Brings a paused run back to where it belongs.';

-- A request can meet a run in the instant in which its worker lets it go; and it can be withdrawn in the instant in which its worker
-- pauses it. Called when that is over, and by the sweep.
CREATE FUNCTION stepd_engine.settle_pause(run_ uuid) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked record;
BEGIN
    SELECT g.by_whom, g.payload INTO asked FROM stepd_engine.signals g WHERE g.run = run_ AND g.kind = 'pause';
    IF FOUND THEN
        PERFORM stepd_engine.pause_now(run_, asked.payload ->> 'reason', asked.by_whom);
        RETURN;
    END IF;
    PERFORM FROM stepd.jobs j WHERE j.id = run_ AND j.state = 'paused' FOR UPDATE;
    IF FOUND THEN PERFORM stepd_engine.unpause_now(run_, NULL, NULL); END IF;
END
$$;
COMMENT ON FUNCTION stepd_engine.settle_pause(uuid) IS 'Makes a run that no worker has paused where a pause is asked for, and not paused where none is.';

CREATE FUNCTION stepd.pause(id uuid, reason text DEFAULT NULL, now boolean DEFAULT false) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state_ text;
    asked boolean := false;
BEGIN
    -- As a cancel does: a worker that lets the run go meanwhile looks again afterwards.
    PERFORM pg_advisory_xact_lock_shared(stepd_engine.run_lock(pause.id));
    LOOP
        IF stepd_engine.pause_now(pause.id, pause.reason, stepd_engine.actor()) THEN
            RETURN 'paused';
        END IF;
        state_ := stepd_engine.state_of(pause.id);
        IF state_ IS NULL THEN
            PERFORM stepd_engine.refuse_unknown(pause.id);
        ELSIF state_ = 'paused' THEN
            PERFORM FROM stepd.jobs j WHERE j.id = pause.id AND j.state = 'paused' FOR UPDATE;
            IF FOUND THEN
                -- Its worker has just paused it by a request that was withdrawn meanwhile: without one of its own the pause would not last.
                INSERT INTO stepd_engine.signals (run, kind, name, by_whom, payload)
                    VALUES (pause.id, 'pause', 'pause', stepd_engine.actor(), jsonb_build_object('reason', pause.reason))
                    ON CONFLICT (run) WHERE kind = 'pause' DO NOTHING;
                RETURN 'paused';
            END IF;
        ELSIF state_ IN ('completed', 'failed', 'cancelled') THEN
            EXIT WHEN asked;
            RAISE EXCEPTION USING ERRCODE = 'SD011',
                MESSAGE = format('stepd SD011: run %s has already ended as %s', pause.id, state_),
                HINT = 'There is nothing left to pause. (stepd explain SD011)';
        ELSIF state_ = 'running' THEN
            EXIT WHEN asked;
            INSERT INTO stepd_engine.signals AS g (run, kind, name, by_whom, payload)
                VALUES (pause.id, 'pause', 'pause', stepd_engine.actor(), jsonb_build_object('reason', pause.reason)
                    || CASE WHEN pause.now THEN '{"now": true}' ELSE '{}' END::jsonb)
                -- One that may take its time becomes one that may not; never the other way round.
                ON CONFLICT (run) WHERE kind = 'pause' DO UPDATE SET payload = g.payload || '{"now": true}' WHERE pause.now AND NOT g.payload ? 'now';
            IF FOUND THEN
                INSERT INTO stepd_engine.events (run, kind, by_whom, data)
                    VALUES (pause.id, 'pause_requested', stepd_engine.actor(), CASE WHEN pause.now THEN json_build_object('reason', pause.reason, 'now', true)
                        ELSE json_build_object('reason', pause.reason) END::text);
                PERFORM stepd_engine.wake();
            END IF;
            asked := true;
        END IF;
        -- Else, and after a request, one more look: the worker may have let it go between the statements.
    END LOOP;
    RETURN 'requested';
END
$$;
COMMENT ON FUNCTION stepd.pause(uuid, text, boolean) IS
    'Pauses a run until stepd.unpause: at once where no worker has it (returns ''paused''), else when the steps that run now have ended, and before another starts (''requested''). With now => true those steps are broken off, as a worker''s end would do it: after the unpause on_interrupt says what becomes of them. A paused run holds no slot; answers, signals and events that come meanwhile are kept. No error where it is paused already. Raises SD010 for an unknown run, SD011 for an ended one.';

CREATE FUNCTION stepd.unpause(id uuid) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept jsonb;
    state_ text;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(stepd_engine.run_lock(unpause.id));
    LOOP
        PERFORM FROM stepd.jobs j WHERE j.id = unpause.id AND j.state = 'paused' FOR UPDATE;
        IF FOUND THEN
            DELETE FROM stepd_engine.signals g WHERE g.run = unpause.id AND g.kind = 'pause' RETURNING g.payload INTO kept;
            RETURN stepd_engine.unpause_now(unpause.id, kept, stepd_engine.actor());
        END IF;
        state_ := stepd_engine.state_of(unpause.id);
        IF state_ IS NULL THEN
            PERFORM stepd_engine.refuse_unknown(unpause.id);
        ELSIF state_ IN ('completed', 'failed', 'cancelled') THEN
            RAISE EXCEPTION USING ERRCODE = 'SD011',
                MESSAGE = format('stepd SD011: run %s has already ended as %s', unpause.id, state_),
                HINT = CASE state_ WHEN 'failed' THEN 'stepd.retry(id) takes it up again.' ELSE 'There is nothing left to unpause.' END || ' (stepd explain SD011)';
        ELSIF state_ <> 'paused' THEN
            -- A request that its worker has not carried out is withdrawn.
            DELETE FROM stepd_engine.signals g WHERE g.run = unpause.id AND g.kind = 'pause';
            IF NOT FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'SD012',
                    MESSAGE = format('stepd SD012: run %s is %s; only a paused run can be unpaused', unpause.id, state_),
                    HINT = format('SELECT stepd.why(%L) says what it waits for.', unpause.id) || ' (stepd explain SD012)';
            END IF;
            INSERT INTO stepd_engine.events (run, kind, by_whom, data)
                VALUES (unpause.id, 'unpaused', stepd_engine.actor(), json_build_object('to', state_)::text);
            RETURN state_;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION stepd.unpause(uuid) IS
    'Ends a pause. Returns where the run is again: scheduled, waiting or resuming with the due time that it had, else queued or held; running where the pause was only requested. Raises SD010 for an unknown run, SD011 for an ended one, SD012 for one that is not paused.';

-- Signals, events, approvals -------------------------------------------------------------------------

CREATE FUNCTION stepd.signal(id uuid, name text, payload jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state_ text;
    sent bigint;
    r record;
BEGIN
    state_ := stepd_engine.state_of(signal.id);
    IF state_ IS NULL THEN
        PERFORM stepd_engine.refuse_unknown(signal.id);
    ELSIF state_ IN ('completed', 'failed', 'cancelled') THEN
        RAISE EXCEPTION USING ERRCODE = 'SD011',
            MESSAGE = format('stepd SD011: run %s has already ended as %s', signal.id, state_),
            HINT = CASE state_ WHEN 'failed' THEN 'stepd.retry(id) takes it up again; signal it then.' ELSE 'No step of it can receive a signal.' END || ' (stepd explain SD011)';
    ELSIF name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'SD016', MESSAGE = 'stepd SD016: a signal needs a name', HINT = 'stepd.signal(id, name, payload) (stepd explain SD016)';
    END IF;
    PERFORM stepd_engine.refuse_large(signal.payload, 'payload');
    PERFORM pg_advisory_xact_lock_shared(stepd_engine.event_lock(signal.name));
    INSERT INTO stepd_engine.signals AS g (run, kind, name, by_whom, payload)
        VALUES (signal.id, 'signal', signal.name, stepd_engine.actor(), coalesce(signal.payload, 'null')) RETURNING g.id INTO sent;
    INSERT INTO stepd_engine.events (run, kind, by_whom, data)
        VALUES (signal.id, 'signalled', stepd_engine.actor(), json_build_object('name', signal.name, 'signal', sent)::text);
    FOR r IN SELECT c.key FROM stepd_engine.checkpoints c
        WHERE c.run = signal.id AND c.state = 'waiting' AND c.event = signal.name
            AND stepd_engine.fits(coalesce(signal.payload, 'null'), c.match)
        ORDER BY c.seq, c.key
    LOOP
        IF stepd_engine.deliver(sent, signal.id, r.key, coalesce(signal.payload, 'null'), true) THEN RETURN 'delivered'; END IF;
    END LOOP;
    RETURN 'kept';
END
$$;
COMMENT ON FUNCTION stepd.signal(uuid, text, jsonb) IS
    'Sends a signal to one run: answers its first step that waits for this name with a matching payload (returns ''delivered''), else is kept for it until the run ends (''kept''). Raises SD010 for an unknown run, SD011 for an ended one, SD002 for a payload that is too large.';

CREATE FUNCTION stepd.emit(name text, payload jsonb DEFAULT '{}') RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sent bigint;
    last uuid;
    n bigint := 0;
    r record;
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'SD016', MESSAGE = 'stepd SD016: an event needs a name', HINT = 'stepd.emit(name, payload) (stepd explain SD016)';
    END IF;
    PERFORM stepd_engine.refuse_large(emit.payload, 'payload');
    -- Shared with other emitters; a wait that is being recorded takes it alone, then looks for what is kept here.
    PERFORM pg_advisory_xact_lock_shared(stepd_engine.event_lock(emit.name));
    INSERT INTO stepd_engine.signals AS g (kind, name, expires_at, by_whom, payload)
        SELECT 'event', emit.name, clock_timestamp() + s.event_ttl, stepd_engine.actor(), coalesce(emit.payload, 'null')
        FROM stepd_engine.settings s RETURNING g.id INTO sent;
    FOR r IN SELECT w.run, w.key FROM stepd_engine.waits_for(emit.name, coalesce(emit.payload, 'null')) w LOOP
        IF stepd_engine.deliver(sent, r.run, r.key, coalesce(emit.payload, 'null'), false) THEN
            n := n + (last IS DISTINCT FROM r.run)::integer;
            last := r.run;
        END IF;
    END LOOP;
    RETURN n;
END
$$;
COMMENT ON FUNCTION stepd.emit(text, jsonb) IS
    'Emits an event: answers every step that waits for this name with a matching payload, and keeps the event a while (1 hour by default) for runs that begin to wait later. Returns how many runs it reached.';

-- The one waiting step that an approval or rejection means. Raises where there is none, or more than one.
CREATE FUNCTION stepd_engine.approval_of(run_ uuid, step_ text) RETURNS text LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked text[];
    state_ text := stepd_engine.state_of(run_);
    step_state text;
BEGIN
    -- A worker that suspends the run meanwhile looks again when this is let go: see stepd_engine.settle.
    PERFORM pg_advisory_xact_lock_shared(stepd_engine.run_lock(run_));
    IF state_ IS NULL THEN
        PERFORM stepd_engine.refuse_unknown(run_);
    ELSIF state_ IN ('completed', 'failed', 'cancelled') THEN
        RAISE EXCEPTION USING ERRCODE = 'SD011', MESSAGE = format('stepd SD011: run %s has already ended as %s', run_, state_),
            HINT = 'No step of it waits for an approval. (stepd explain SD011)';
    END IF;
    SELECT array_agg(c.key ORDER BY c.seq, c.key) INTO asked FROM stepd_engine.checkpoints c
        WHERE c.run = run_ AND c.state = 'waiting' AND c.kind = 'approve';
    IF step_ = ANY (asked) THEN RETURN step_; END IF;
    IF step_ IS NULL AND cardinality(asked) = 1 THEN RETURN asked[1]; END IF;
    IF step_ IS NULL AND cardinality(asked) > 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'SD015', MESSAGE = format('stepd SD015: %s approvals wait in run %s', cardinality(asked), run_),
            HINT = format('Name the step: %s.', array_to_string(asked, ', ')) || ' (stepd explain SD015)';
    END IF;
    SELECT c.state::text INTO step_state FROM stepd_engine.checkpoints c WHERE c.run = run_ AND c.key = step_;
    RAISE EXCEPTION USING ERRCODE = 'SD014',
        MESSAGE = CASE
            WHEN step_ IS NULL THEN format('stepd SD014: no approval waits in run %s', run_)
            WHEN step_state IS NULL THEN format('stepd SD014: run %s has no step "%s" that waits for an approval', run_, step_)
            ELSE format('stepd SD014: step "%s" of run %s does not wait for an approval; it is %s', step_, run_, step_state) END,
        HINT = CASE WHEN asked IS NULL THEN format('SELECT stepd.why(%L) says what the run waits for.', run_)
            ELSE format('What waits for one: %s.', array_to_string(asked, ', ')) END || ' (stepd explain SD014)';
END
$$;
COMMENT ON FUNCTION stepd_engine.approval_of(uuid, text) IS 'The step that an approval means; raises SD014 or SD015 where that is not clear.';

-- What of the flat schemas that servers of tools ask with can be told here; the worker checks the rest, and asks again.
CREATE FUNCTION stepd_engine.misfit(answer jsonb, asked jsonb) RETURNS text LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN jsonb_typeof(answer) IS DISTINCT FROM 'object' THEN 'it must be a JSON object' ELSE (
        SELECT string_agg(m.what, '; ' ORDER BY m.what) FROM (
            SELECT format('"%s" is missing', r.name) AS what
                FROM jsonb_array_elements_text(CASE jsonb_typeof(asked -> 'required') WHEN 'array' THEN asked -> 'required' ELSE '[]' END) AS r(name)
                WHERE NOT answer ? r.name
            UNION ALL
            SELECT CASE WHEN p.value ? 'enum' THEN format('"%s" must be one of %s', p.key, p.value -> 'enum')
                    ELSE format('"%s" must be of type %s', p.key, p.value ->> 'type') END
                FROM jsonb_each(CASE jsonb_typeof(asked -> 'properties') WHEN 'object' THEN asked -> 'properties' ELSE '{}' END) AS p,
                    LATERAL (SELECT answer -> p.key AS said, jsonb_typeof(answer -> p.key) AS type) a
                WHERE answer ? p.key AND (
                    jsonb_typeof(p.value -> 'enum') = 'array' AND NOT p.value -> 'enum' @> jsonb_build_array(a.said)
                    OR p.value ->> 'type' IN ('string', 'number', 'boolean', 'array', 'object') AND a.type <> p.value ->> 'type'
                    OR p.value ->> 'type' = 'integer' AND (a.type <> 'number' OR a.said::text LIKE '%.%' AND trunc((a.said #>> '{}')::numeric) <> (a.said #>> '{}')::numeric))
        ) m) END
$$;
COMMENT ON FUNCTION stepd_engine.misfit(jsonb, jsonb) IS 'What is wrong with an answer, by the schema with which it was asked for; NULL: nothing that could be told here.';

-- Raises SD018 where a yes to this approval must carry an answer and this one does not fit, or where it may carry none.
CREATE FUNCTION stepd_engine.refuse_answer(run_ uuid, key_ text, answer jsonb) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asked jsonb;
    wrong text;
BEGIN
    SELECT stepd_engine.failure_json(c.decision)::jsonb -> 'schema' INTO asked FROM stepd_engine.checkpoints c WHERE c.run = run_ AND c.key = key_;
    IF asked IS NULL AND answer IS NULL THEN RETURN; END IF;
    wrong := CASE WHEN asked IS NULL THEN format('step "%s" asks for a yes or a no, and for no answer', key_)
        WHEN answer IS NULL THEN format('step "%s" needs an answer, not only a yes', key_)
        -- NULL where nothing is wrong.
        ELSE format('the answer does not fit step "%s": ', key_) || stepd_engine.misfit(answer, asked) END;
    IF wrong IS NULL THEN RETURN; END IF;
    RAISE EXCEPTION USING ERRCODE = 'SD018', MESSAGE = 'stepd SD018: ' || wrong,
        HINT = coalesce(format('It asks for JSON that matches %s.', asked), 'Leave the answer out.') || ' (stepd explain SD018)';
END
$$;
COMMENT ON FUNCTION stepd_engine.refuse_answer(uuid, text, jsonb) IS 'Raises SD018 where an answer does not fit what a step asks.';

CREATE FUNCTION stepd.approve(id uuid, step text DEFAULT NULL, note text DEFAULT NULL, answer jsonb DEFAULT NULL) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key_ text := stepd_engine.approval_of(approve.id, approve.step);
    yes text := CASE WHEN approve.answer IS NULL
        THEN json_build_object('approved', true, 'by', stepd_engine.actor(), 'note', approve.note, 'at', clock_timestamp())
        ELSE json_build_object('approved', true, 'by', stepd_engine.actor(), 'note', approve.note, 'at', clock_timestamp(), 'answer', approve.answer) END::text;
BEGIN
    PERFORM stepd_engine.refuse_large(approve.answer, 'answer');
    PERFORM stepd_engine.refuse_answer(approve.id, key_, approve.answer);
    IF NOT stepd_engine.answer(approve.id, key_, yes, NULL) THEN
        -- Somebody else was faster: say what it is now.
        PERFORM stepd_engine.approval_of(approve.id, key_);
    END IF;
    INSERT INTO stepd_engine.events (run, kind, key, by_whom, data) VALUES (approve.id, 'approved', key_, stepd_engine.actor(), yes);
    RETURN key_;
END
$$;
COMMENT ON FUNCTION stepd.approve(uuid, text, text, jsonb) IS
    'Answers yes to a step that waits for an approval; the step may be left out where only one waits. Where a tool asks for input, answer is the JSON object that it asks for (stepd.waiting.schema). Returns the step''s key. Raises SD014 when none waits, SD015 when several do, SD018 for an answer that does not fit.';

CREATE FUNCTION stepd.reject(id uuid, step text DEFAULT NULL, note text DEFAULT NULL) RETURNS text LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key_ text := stepd_engine.approval_of(reject.id, reject.step);
    no text := json_build_object('class', 'permanent', 'code', 'rejected',
        'message', format('rejected by %s%s', stepd_engine.actor(), coalesce(': ' || reject.note, '')),
        'details', json_build_object('by', stepd_engine.actor(), 'note', reject.note, 'at', clock_timestamp()))::text;
BEGIN
    IF NOT stepd_engine.answer(reject.id, key_, NULL, no) THEN
        PERFORM stepd_engine.approval_of(reject.id, key_);
    END IF;
    INSERT INTO stepd_engine.events (run, kind, key, by_whom, data)
        VALUES (reject.id, 'rejected', key_, stepd_engine.actor(), json_build_object('approved', false, 'by', stepd_engine.actor(), 'note', reject.note)::text);
    RETURN key_;
END
$$;
COMMENT ON FUNCTION stepd.reject(uuid, text, text) IS
    'Answers no to a step that waits for an approval: it fails with code rejected. The step may be left out where only one waits. Returns the step''s key. Raises SD014 when none waits, SD015 when several do.';

-- Queues ---------------------------------------------------------------------------------------------

-- What concerns no run stands in the audit trail under the nil UUID.
CREATE FUNCTION stepd.pause_queue(name text, by_whom text DEFAULT NULL) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO stepd_engine.queues AS q (name, paused, paused_by, paused_at, open)
        VALUES (pause_queue.name, true, concat_ws(' for ', stepd_engine.actor(), nullif(pause_queue.by_whom, '')), clock_timestamp(), false)
        ON CONFLICT ON CONSTRAINT queues_pkey DO UPDATE SET paused = true, open = false,
            paused_by = excluded.paused_by, paused_at = excluded.paused_at WHERE NOT q.paused;
    INSERT INTO stepd_engine.events (run, kind, key, by_whom)
        VALUES ('00000000-0000-0000-0000-000000000000', 'queue_paused', pause_queue.name, stepd_engine.actor());
    PERFORM stepd_engine.wake();
END
$$;
COMMENT ON FUNCTION stepd.pause_queue(text, text) IS 'Stops the claims of a queue at once; runs that are under way go on. stepd.why and stepd.queues show who did it: the caller, and behind it by_whom, for whom it did: ops for anna.';

CREATE FUNCTION stepd.unpause_queue(name text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- With a limit it opens when the admitter has counted: the limit may have changed during the pause.
    UPDATE stepd_engine.queues q SET paused = false, open = q.max_running IS NULL, paused_by = NULL, paused_at = NULL
        WHERE q.name = unpause_queue.name AND q.paused;
    INSERT INTO stepd_engine.events (run, kind, key, by_whom)
        VALUES ('00000000-0000-0000-0000-000000000000', 'queue_unpaused', unpause_queue.name, stepd_engine.actor());
    PERFORM stepd_engine.wake();
END
$$;
COMMENT ON FUNCTION stepd.unpause_queue(text) IS 'Lets a paused queue be claimed again. No error where it is not paused.';

CREATE FUNCTION stepd.limit_queue(name text, max_running integer) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO stepd_engine.queues AS q (name, max_running, open)
        VALUES (limit_queue.name, limit_queue.max_running, limit_queue.max_running IS NULL)
        ON CONFLICT ON CONSTRAINT queues_pkey DO UPDATE SET max_running = excluded.max_running, open = excluded.open AND NOT q.paused;
    INSERT INTO stepd_engine.events (run, kind, key, by_whom, data)
        VALUES ('00000000-0000-0000-0000-000000000000', 'queue_limited', limit_queue.name, stepd_engine.actor(),
            json_build_object('max_running', limit_queue.max_running)::text);
    PERFORM stepd_engine.wake();
END
$$;
COMMENT ON FUNCTION stepd.limit_queue(text, integer) IS 'Sets how many runs of a queue may be queued or running at once, over all workers; NULL removes the limit.';

-- Schedules ------------------------------------------------------------------------------------------

CREATE FUNCTION stepd_engine.refuse_schedule(name text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'SD030', MESSAGE = format('stepd SD030: workflow %s has no schedule', coalesce('"' || name || '"', 'NULL')),
        HINT = 'SELECT workflow, cron FROM stepd.schedules lists those that have one; a schedule stands in the workflow''s file. (stepd explain SD030)';
END
$$;
COMMENT ON FUNCTION stepd_engine.refuse_schedule(text) IS 'Raises SD030.';

-- Enqueues the run of one instant. NULL: its unique key is taken.
CREATE FUNCTION stepd_engine.start_scheduled(workflow_ text, instant timestamptz) RETURNS uuid LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run_ uuid;
BEGIN
    INSERT INTO stepd.jobs AS j (workflow, run_at, labels) VALUES (workflow_, instant, '{"schedule": true}')
        ON CONFLICT DO NOTHING RETURNING j.id INTO run_;
    UPDATE stepd_engine.schedules s SET run = coalesce(run_, s.run), fired_at = CASE WHEN run_ IS NULL THEN s.fired_at ELSE instant END,
        skipped_at = CASE WHEN run_ IS NULL THEN instant ELSE s.skipped_at END WHERE s.workflow = workflow_;
    RETURN run_;
END
$$;
COMMENT ON FUNCTION stepd_engine.start_scheduled(text, timestamptz) IS 'Enqueues the run of one instant of a schedule.';

-- Decides the instants up to `upto`: those of them that the worker found worth a run, and what waits already. Whoever else has decided
-- meanwhile has moved seen_at: then nothing happens, and NULL says so. Otherwise how many runs it has enqueued.
CREATE FUNCTION stepd_engine.fire(workflow_ text, cron_ text, timezone_ text, seen timestamptz, upto timestamptz, instants timestamptz[], next timestamptz)
    RETURNS integer LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s stepd_engine.schedules%ROWTYPE;
    instant timestamptz;
    n integer := 0;
BEGIN
    -- The latest hundred of what waits.
    UPDATE stepd_engine.schedules x SET seen_at = upto, next_at = next,
            pending = (x.pending || instants)[greatest(1, cardinality(x.pending || instants) - 99):]
        WHERE x.workflow = workflow_ AND x.cron = cron_ AND x.timezone = timezone_ AND x.seen_at = seen AND NOT x.paused RETURNING x.* INTO s;
    IF NOT FOUND THEN RETURN NULL; END IF;
    WHILE cardinality(s.pending) > 0 LOOP
        instant := s.pending[1];
        IF s.overlap <> 'allow' AND stepd_engine.state_of((SELECT x.run FROM stepd_engine.schedules x WHERE x.workflow = workflow_))
                NOT IN ('completed', 'failed', 'cancelled') THEN
            EXIT WHEN s.overlap = 'queue';
            UPDATE stepd_engine.schedules x SET skipped_at = instant WHERE x.workflow = workflow_;
        ELSIF stepd_engine.start_scheduled(workflow_, instant) IS NOT NULL THEN
            n := n + 1;
        END IF;
        s.pending := s.pending[2:];
    END LOOP;
    UPDATE stepd_engine.schedules x SET pending = s.pending WHERE x.workflow = workflow_;
    RETURN n;
END
$$;
COMMENT ON FUNCTION stepd_engine.fire(text, text, text, timestamptz, timestamptz, timestamptz[], timestamptz) IS
    'Decides the instants of a schedule up to a time, once: enqueues their runs, or leaves them out, or lets them wait.';

CREATE FUNCTION stepd.run_schedule(workflow text) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    run_ uuid;
BEGIN
    PERFORM FROM stepd_engine.schedules s WHERE s.workflow = run_schedule.workflow FOR UPDATE;
    IF NOT FOUND THEN PERFORM stepd_engine.refuse_schedule(run_schedule.workflow); END IF;
    run_ := stepd_engine.start_scheduled(run_schedule.workflow, clock_timestamp());
    IF run_ IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'SD013', MESSAGE = format('stepd SD013: workflow "%s" has a run with its unique key already', run_schedule.workflow),
            HINT = 'Wait until that run has ended, or cancel it. (stepd explain SD013)';
    END IF;
    RETURN run_;
END
$$;
COMMENT ON FUNCTION stepd.run_schedule(text) IS 'Starts a run of a schedule now, beside its instants, also while it is paused or a run of it is unfinished; run.scheduled_for is the present time. Returns the run''s id. Raises SD030 where the workflow has no schedule.';

CREATE FUNCTION stepd.pause_schedule(workflow text, by_whom text DEFAULT NULL) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM stepd_engine.schedules s WHERE s.workflow = pause_schedule.workflow FOR UPDATE;
    IF NOT FOUND THEN PERFORM stepd_engine.refuse_schedule(pause_schedule.workflow); END IF;
    UPDATE stepd_engine.schedules s SET paused = true, next_at = NULL, pending = '{}', paused_by = concat_ws(' for ', stepd_engine.actor(), nullif(pause_schedule.by_whom, '')), paused_at = clock_timestamp()
        WHERE s.workflow = pause_schedule.workflow AND NOT s.paused;
    IF NOT FOUND THEN RETURN; END IF;
    INSERT INTO stepd_engine.events (run, kind, key, by_whom)
        VALUES ('00000000-0000-0000-0000-000000000000', 'schedule_paused', pause_schedule.workflow, stepd_engine.actor());
END
$$;
COMMENT ON FUNCTION stepd.pause_schedule(text, text) IS 'Stops a schedule: no instant starts a run until stepd.unpause_schedule, and those that pass meanwhile never do. Runs that are there go on. Raises SD030 where the workflow has no schedule.';

CREATE FUNCTION stepd.unpause_schedule(workflow text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM stepd_engine.schedules s WHERE s.workflow = unpause_schedule.workflow FOR UPDATE;
    IF NOT FOUND THEN PERFORM stepd_engine.refuse_schedule(unpause_schedule.workflow); END IF;
    UPDATE stepd_engine.schedules s SET paused = false, paused_by = NULL, paused_at = NULL, seen_at = clock_timestamp(), next_at = NULL
        WHERE s.workflow = unpause_schedule.workflow AND s.paused;
    IF NOT FOUND THEN RETURN; END IF;
    INSERT INTO stepd_engine.events (run, kind, key, by_whom)
        VALUES ('00000000-0000-0000-0000-000000000000', 'schedule_unpaused', unpause_schedule.workflow, stepd_engine.actor());
    PERFORM stepd_engine.wake();
END
$$;
COMMENT ON FUNCTION stepd.unpause_schedule(text) IS 'Lets a paused schedule go on with the next instant. No error where it is not paused. Raises SD030 where the workflow has no schedule.';

-- Workflows ------------------------------------------------------------------------------------------

CREATE FUNCTION stepd.retire_workflow(name text, loaded_at timestamptz DEFAULT NULL) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE stepd_engine.workflows w SET retired_at = clock_timestamp()
        WHERE w.name = retire_workflow.name AND (retire_workflow.loaded_at IS NULL OR w.loaded_at = retire_workflow.loaded_at) AND w.retired_at IS NULL;
    IF NOT FOUND THEN RETURN false; END IF;
    DELETE FROM stepd_engine.schedules s WHERE s.workflow = retire_workflow.name;
    RETURN true;
END
$$;
COMMENT ON FUNCTION stepd.retire_workflow(text, timestamptz) IS 'Retires a workflow: new jobs may not name it any more and its schedule ends; its runs go on. With loaded_at, only what was loaded then. Returns whether there was anything to retire.';

-- Why --------------------------------------------------------------------------------------------------

CREATE FUNCTION stepd_engine.worker_alive(beat_at timestamptz, lease_ms integer) RETURNS boolean LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT beat_at > clock_timestamp() - lease_ms * interval '1 millisecond'
$$;
COMMENT ON FUNCTION stepd_engine.worker_alive(timestamptz, integer) IS 'Is the last heartbeat younger than the lease? For people; a take-over decides by its own watch.';

CREATE FUNCTION stepd_engine.why_waiting(run_ uuid) RETURNS text LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN max(w.total) > 5 THEN format('%s waits, the first are ', max(w.total)) ELSE '' END || string_agg(w.what, '; ' ORDER BY w.seq, w.key)
    FROM (
        SELECT c.seq, c.key, count(*) OVER () AS total, row_number() OVER (ORDER BY c.seq, c.key) AS n,
            CASE
                WHEN c.kind = 'approve' THEN
                    format('%s at %s%s', CASE WHEN c.decision LIKE '%,"schema":%' THEN 'an answer' ELSE 'approval' END, c.key, coalesce(' "' || stepd_engine.failure_field(c.decision, 'prompt') || '"', ''))
                    || CASE WHEN c.decision LIKE '%,"schema":%' THEN format(' (stepd approve %s %s --answer JSON, for %s)', c.run, c.key, stepd_engine.failure_json(c.decision) ->> 'schema') ELSE '' END
                    || format(' since %s', stepd_engine.span(clock_timestamp() - c.started_at))
                    || CASE WHEN c.due_at IS NULL THEN '' ELSE ', times out in ' || stepd_engine.span(greatest(c.due_at - clock_timestamp(), interval '0')) END
                WHEN c.kind = 'workflow' AND stepd_engine.failure_field(c.decision, 'wait') = 'child' THEN
                    format('child run %s of workflow %s at %s since %s, which is %s', stepd_engine.failure_field(c.decision, 'run'),
                        stepd_engine.failure_field(c.decision, 'workflow'), c.key, stepd_engine.span(clock_timestamp() - c.started_at),
                        coalesce(stepd_engine.state_of(stepd_engine.failure_field(c.decision, 'run')::uuid), 'gone'))
                    || CASE WHEN c.due_at IS NULL THEN '' ELSE ', times out in ' || stepd_engine.span(greatest(c.due_at - clock_timestamp(), interval '0')) END
                WHEN c.event IS NOT NULL THEN
                    format('event %s%s at %s since %s', c.event, CASE WHEN c.match IS NULL OR c.match = '{}' THEN '' ELSE ' matching ' || c.match::text END,
                        c.key, stepd_engine.span(clock_timestamp() - c.started_at))
                    || CASE WHEN c.due_at IS NULL THEN '' ELSE ', times out in ' || stepd_engine.span(greatest(c.due_at - clock_timestamp(), interval '0')) END
                WHEN stepd_engine.failure_field(c.decision, 'wait') = 'retry' AND stepd_engine.failure_field(c.decision, 'why') IS NOT NULL THEN
                    format('step %s, which goes on in %s: %s', c.key, stepd_engine.span(greatest(c.due_at - clock_timestamp(), interval '0')),
                        stepd_engine.failure_field(c.decision, 'why'))
                WHEN stepd_engine.failure_field(c.decision, 'wait') = 'retry' THEN format('attempt %s of %s of step %s in %s%s',
                    stepd_engine.failure_field(c.decision, 'attempt'), stepd_engine.failure_field(c.decision, 'of'), c.key,
                    stepd_engine.span(greatest(c.due_at - clock_timestamp(), interval '0')),
                    coalesce((SELECT format(': the last failed with %s: %s', f.failure ->> 'code', f.failure ->> 'message')
                        FROM stepd_engine.events v, LATERAL (SELECT stepd_engine.failure_json(v.data) -> 'failure' AS failure) f
                        WHERE v.run = c.run AND v.key = c.key AND v.kind = 'attempt_failed' ORDER BY v.id DESC LIMIT 1), ''))
                WHEN c.due_at IS NOT NULL THEN format('sleep at %s until %s (in %s)', c.key, to_char(c.due_at, 'YYYY-MM-DD HH24:MI:SS TZ'),
                    stepd_engine.span(greatest(c.due_at - clock_timestamp(), interval '0')))
                ELSE format('step %s (%s) since %s', c.key, c.kind, stepd_engine.span(clock_timestamp() - c.started_at)) END AS what
        FROM stepd_engine.checkpoints c WHERE c.run = run_ AND c.state = 'waiting'
    ) w WHERE w.n <= 5
$$;
COMMENT ON FUNCTION stepd_engine.why_waiting(uuid) IS 'What the waiting steps of a run wait for, as one phrase; NULL when none waits.';

CREATE FUNCTION stepd_engine.why_key(j stepd.jobs) RETURNS text LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f jsonb;
    n bigint;
    holder uuid;
    t timestamptz;
BEGIN
    SELECT w.flow INTO f FROM stepd_engine.workflows w WHERE w.name = j.workflow;
    IF f ? 'concurrency' AND j.concurrency_key IS NOT NULL THEN
        SELECT count(*), (array_agg(x.id ORDER BY x.id))[1] INTO n, holder FROM stepd.jobs x WHERE x.workflow = j.workflow AND x.concurrency_key = j.concurrency_key
            AND x.concurrency_key IS NOT NULL AND (x.lane <= 2 OR x.lane = 3 AND x.error IS NOT NULL) AND x.state IN ('queued', 'running', 'resuming');
        IF n >= (f #>> '{concurrency,limit}')::integer THEN
            RETURN format('key %s is limited to %s at once, and %s', j.concurrency_key, f #>> '{concurrency,limit}',
                CASE n WHEN 1 THEN format('run %s holds it', holder) ELSE format('%s hold it, the first is run %s', n, holder) END);
        END IF;
    END IF;
    IF f ? 'rate' AND j.rate_key IS NOT NULL AND j.lane = 4 THEN
        SELECT s.at + (f #>> '{rate,per}')::interval INTO t FROM stepd_engine.starts s WHERE s.workflow = j.workflow AND s.key = j.rate_key
            ORDER BY s.at DESC OFFSET (f #>> '{rate,limit}')::integer - 1 LIMIT 1;
        IF t > clock_timestamp() THEN
            RETURN format('key %s is limited to %s starts in %s; the next is in %s', j.rate_key, f #>> '{rate,limit}',
                stepd_engine.span((f #>> '{rate,per}')::interval), stepd_engine.span(t - clock_timestamp()));
        END IF;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION stepd_engine.why_key(stepd.jobs) IS 'What the concurrency or the rate of its key keeps a held run back; NULL: nothing.';

CREATE FUNCTION stepd_engine.why_breaker(j stepd.jobs) RETURNS text LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('waits, for %s runs have failed there and resumes stand still since %s%s', f.n,
        stepd_engine.span(clock_timestamp() - b.opened_at),
        CASE WHEN b.probe IS NOT NULL THEN format('; run %s tries whether it works again', b.probe)
            ELSE format('; one of them tries in %s', stepd_engine.span(greatest(b.next_at - clock_timestamp(), interval '0'))) END)
    FROM stepd_engine.breakers b, LATERAL (SELECT count(*) AS n FROM stepd.jobs x WHERE x.workflow = b.workflow AND x.target = b.target AND x.target IS NOT NULL AND x.state = 'resuming') f
    WHERE b.workflow = j.workflow AND b.target = j.target AND b.closed_at IS NULL
$$;
COMMENT ON FUNCTION stepd_engine.why_breaker(stepd.jobs) IS 'That the resume of a run waits for a step that keeps failing; NULL: it does not.';

CREATE FUNCTION stepd.why(id uuid) RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    j stepd.jobs%ROWTYPE;
    e stepd_engine.ended%ROWTYPE;
    q stepd_engine.queues%ROWTYPE;
    w stepd_engine.workers%ROWTYPE;
    ev stepd_engine.events%ROWTYPE;
    known boolean;
    n bigint;
    at_step text;
    asked text;
    t text;
BEGIN
    SELECT * INTO j FROM stepd.jobs x WHERE x.id = why.id AND x.state NOT IN ('completed', 'failed', 'cancelled');
    IF NOT FOUND THEN
        SELECT * INTO e FROM stepd_engine.ended x WHERE x.id = why.id;
        IF NOT FOUND THEN
            RETURN format('there is no run %s', coalesce(why.id::text, 'NULL'));
        END IF;
        IF e.state = 'completed' THEN
            RETURN format('completed %s ago%s', stepd_engine.span(clock_timestamp() - e.ended_at),
                coalesce(', ' || stepd_engine.span(e.ended_at - e.started_at) || ' after its start', ''));
        ELSIF e.state = 'failed' THEN
            SELECT c.key INTO at_step FROM stepd_engine.checkpoints c WHERE c.run = e.id AND c.state = 'failed' AND NOT c.checkpoint
                ORDER BY c.ended_at DESC NULLS LAST, c.seq DESC LIMIT 1;
            IF e.last_output IS NULL THEN at_step := coalesce(e.last_key, at_step); END IF;
            RETURN format('failed%s %s ago%s: %s; ', coalesce(' at ' || at_step, ''),
                stepd_engine.span(clock_timestamp() - e.ended_at),
                CASE e.resumes WHEN 0 THEN '' WHEN 1 THEN ', after 1 resume' ELSE format(', after %s resumes', e.resumes) END,
                coalesce(stepd_engine.failure_text(e.error), 'no failure was recorded'))
                || CASE WHEN stepd_engine.failure_field(e.error, 'code') = 'invalid_input' THEN 'enqueue a new run with an input that fits'
                WHEN EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = e.id AND c.key LIKE '%.undo' AND c.state <> 'skipped') THEN 'its steps have been undone: fork it, or enqueue a new run'
                ELSE format('SELECT stepd.retry(''%s'') takes it up again%s', e.id, CASE WHEN EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = e.id AND c.checkpoint) OR e.last_output IS NOT NULL
                    THEN ' from there' ELSE '' END) END;
        END IF;
        SELECT x.* INTO ev FROM stepd_engine.events x WHERE x.run = e.id AND x.kind IN ('cancelled', 'cancel_requested')
            ORDER BY (x.by_whom IS NULL), x.id DESC LIMIT 1;
        RETURN format('cancelled %s ago%s%s', stepd_engine.span(clock_timestamp() - e.ended_at), coalesce(' by ' || ev.by_whom, ''),
            coalesce(': ' || stepd_engine.failure_field(ev.data, 'reason'), ''));
    END IF;

    SELECT * INTO q FROM stepd_engine.queues x WHERE x.name = j.queue;
    IF stepd_engine.ending(j.id) IS NOT NULL THEN
        asked := format('; it is ending as %s, and does what is to be done then', stepd_engine.ending(j.id));
    ELSIF EXISTS (SELECT FROM stepd_engine.signals g WHERE g.run = j.id AND g.kind = 'cancel') THEN
        asked := '; its cancel has been requested';
    ELSIF j.state = 'running' THEN
        SELECT format('; a pause has been requested%s', coalesce(' by ' || g.by_whom, '')) INTO asked
            FROM stepd_engine.signals g WHERE g.run = j.id AND g.kind = 'pause';
    END IF;

    IF j.state = 'scheduled' THEN
        RETURN format('scheduled until %s (in %s)', to_char(j.due_at, 'YYYY-MM-DD HH24:MI:SS TZ'), stepd_engine.span(greatest(j.due_at - clock_timestamp(), interval '0')));

    ELSIF j.state IN ('queued', 'held') THEN
        -- The outermost obstacle first.
        IF q.paused THEN
            RETURN format('%s: queue %s is paused%s since %s; SELECT stepd.unpause_queue(''%s'') lets it go on', j.state, j.queue,
                coalesce(' by ' || q.paused_by, ''), stepd_engine.span(clock_timestamp() - q.paused_at), replace(j.queue, '''', '''''')) || coalesce(asked, '');
        END IF;
        SELECT EXISTS (SELECT FROM stepd_engine.workflows f WHERE f.name = j.workflow AND f.retired_at IS NULL) INTO known;
        IF j.state = 'held' THEN
            IF NOT known THEN
                RETURN format('held: workflow %s is not known; it is parked until a worker has loaded it', j.workflow) || coalesce(asked, '');
            END IF;
            SELECT count(*) INTO n FROM stepd.jobs x WHERE x.queue = j.queue AND x.lane <= 2 AND x.state IN ('queued', 'running');
            IF n >= q.max_running THEN
                RETURN format('held: queue %s is limited to %s at once, and %s are queued or running', j.queue, q.max_running, n) || coalesce(asked, '');
            END IF;
            t := stepd_engine.why_key(j);
            IF t IS NOT NULL THEN
                RETURN 'held: ' || t || coalesce(asked, '');
            END IF;
            IF NOT EXISTS (SELECT FROM stepd_engine.workers x WHERE NOT x.stopping AND stepd_engine.worker_alive(x.beat_at, x.lease_ms)) THEN
                RETURN 'held: no live worker is there to admit it; start one with stepd serve' || coalesce(asked, '');
            END IF;
            RETURN 'held: nothing keeps it any more; the next admission, within 2 s, lets it go' || coalesce(asked, '');
        END IF;
        IF NOT EXISTS (SELECT FROM stepd_engine.workers x WHERE NOT x.stopping AND stepd_engine.worker_alive(x.beat_at, x.lease_ms)
                AND CASE WHEN x.queues IS NULL THEN NOT coalesce(q.exclusive, false) ELSE j.queue = ANY (x.queues) END) THEN
            RETURN format('queued: no live worker serves queue %s', j.queue)
                || CASE WHEN q.exclusive THEN format(', which only those serve that name it: stepd serve --queue %s', j.queue) ELSE '' END || coalesce(asked, '');
        END IF;
        IF q.open IS FALSE THEN
            RETURN format('queued: queue %s has a new limit, and its queued runs are being counted', j.queue) || coalesce(asked, '');
        END IF;
        IF j.streak >= 4 THEN
            SELECT * INTO w FROM stepd_engine.workers x WHERE x.id = j.worker;
            RETURN format('queued: needs to run alone because of %s crashes%s', j.crashes,
                CASE WHEN w.id IS NULL THEN '; waits for a worker that runs nothing else'
                    ELSE format('; worker %s:%s empties itself for it', w.host, w.pid) END) || coalesce(asked, '');
        END IF;
        SELECT count(*) INTO n FROM (SELECT FROM stepd.jobs x
            WHERE x.queue = j.queue AND x.state = 'queued' AND x.lane = 0 AND j.lane = 0
                AND (x.priority, x.ready_at, x.id) < (j.priority, j.ready_at, j.id) LIMIT 10001) ahead;
        RETURN format('queued: ready since %s in queue %s, %s', stepd_engine.span(clock_timestamp() - j.ready_at), j.queue,
            CASE WHEN j.lane = 1 THEN 'came back and is claimed before new runs' WHEN n = 0 THEN 'next to be claimed'
                WHEN n > 10000 THEN 'more than 10000 ahead of it' ELSE format('%s ahead of it', n) END) || coalesce(asked, '');

    ELSIF j.state = 'running' THEN
        SELECT * INTO w FROM stepd_engine.workers x WHERE x.id = j.worker;
        SELECT string_agg(CASE c.state
                WHEN 'waiting' THEN format('%s waits', c.key)
                ELSE format('%s for %s%s', c.key, stepd_engine.span(clock_timestamp() - c.started_at),
                    CASE WHEN c.attempts > 1 THEN format(', attempt %s', c.attempts) ELSE '' END) END, '; ' ORDER BY c.seq) INTO t
            FROM (SELECT * FROM stepd_engine.checkpoints x WHERE x.run = j.id AND x.state IN ('running', 'waiting') ORDER BY x.seq LIMIT 5) c;
        RETURN format('running %s on %s', coalesce(t, format('since %s', stepd_engine.span(clock_timestamp() - coalesce(j.first_started_at, j.started_at, j.ready_at)))),
                CASE WHEN w.id IS NULL THEN 'a worker that is gone: a take-over is under way' ELSE format('%s, worker %s (pid %s)', w.host, left(w.id::text, 8), w.pid) END)
            || CASE WHEN w.id IS NOT NULL AND NOT stepd_engine.worker_alive(w.beat_at, w.lease_ms)
                THEN format('; that worker''s last heartbeat is %s old: a take-over is due', stepd_engine.span(clock_timestamp() - w.beat_at)) ELSE '' END
            || coalesce(asked, '');

    ELSIF j.state = 'waiting' THEN
        RETURN 'waiting for ' || coalesce(stepd_engine.why_waiting(j.id), 'nothing any more: the next sweep takes it up') || coalesce(asked, '');

    ELSIF j.state = 'resuming' THEN
        SELECT x.* INTO ev FROM stepd_engine.events x WHERE x.run = j.id AND x.kind = 'resume_scheduled' ORDER BY x.id DESC LIMIT 1;
        RETURN format('failed%s, resume %s%s %s: %s', coalesce(' at ' || coalesce(stepd_engine.failure_field(ev.data, 'step'), ev.key), ''),
            coalesce(stepd_engine.failure_field(ev.data, 'resume'), (j.resumes + 1)::text), coalesce(' of ' || stepd_engine.failure_field(ev.data, 'of'), ''),
            coalesce(stepd_engine.why_breaker(j), 'in ' || stepd_engine.span(greatest(j.due_at - clock_timestamp(), interval '0'))),
            coalesce(stepd_engine.failure_text(j.error), stepd_engine.failure_text(stepd_engine.failure_field(ev.data, 'failure')), 'no failure was recorded')) || coalesce(asked, '');

    ELSIF j.state = 'paused' THEN
        SELECT x.* INTO ev FROM stepd_engine.events x WHERE x.run = j.id AND x.kind = 'paused' ORDER BY x.id DESC LIMIT 1;
        SELECT coalesce(' by ' || g.by_whom, ''), coalesce(' "' || (g.payload ->> 'reason') || '"', '') INTO at_step, t
            FROM stepd_engine.signals g WHERE g.run = j.id AND g.kind = 'pause';
        RETURN format('paused%s%s%s; SELECT stepd.unpause(%L) lets it go on', at_step,
            coalesce(' since ' || stepd_engine.span(clock_timestamp() - ev.at), ''), t, j.id) || coalesce(asked, '');
    END IF;
    RETURN format('%s', j.state);
END
$$;
COMMENT ON FUNCTION stepd.why(uuid) IS 'One true sentence on where a run stands and what it waits for.';

-- Function rights -------------------------------------------------------------------------------------
-- The schema stepd_engine is closed to PUBLIC; its functions are, too, but for the pure ones that the views call
-- (Postgres checks those against the reader of a view, not against its owner).

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'stepd_engine'::regnamespace
        AND p.proname NOT IN ('uuid_time', 'failure_field', 'failure_json', 'worker_alive')
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
    FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'stepd'::regnamespace
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;
