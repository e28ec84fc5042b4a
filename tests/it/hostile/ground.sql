-- Why: what the hostile rows are put in with. A row is a valid one of its table, with some columns as the table of rows says.

CREATE SCHEMA t;
GRANT USAGE ON SCHEMA t TO stepd_enqueue;

-- A run that some worker has begun: whoever claims it loads what is recorded of its steps.
CREATE FUNCTION t.begun(workflow_ text DEFAULT 'three') RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    id_ uuid;
BEGIN
    INSERT INTO stepd.jobs (workflow, input) VALUES (workflow_, '{"list": [1, 2]}') RETURNING id INTO id_;
    UPDATE stepd.jobs SET epoch = 1, lane = 1, started_at = now() WHERE id = id_;
    RETURN id_;
END
$$;

-- A run that waits for a person, and its step.
CREATE FUNCTION t.waits() RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    id_ uuid := t.begun('asks');
BEGIN
    UPDATE stepd.jobs SET state = 'waiting', lane = 3 WHERE id = id_;
    INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, attempts, checkpoint, state, key, kind, decision)
        VALUES (id_, 1, 1, now(), 1, false, 'waiting', 'ok', 'approve', '{"wait":"approval","prompt":"Go on?"}');
    RETURN id_;
END
$$;

CREATE FUNCTION t.columns(given jsonb) RETURNS text LANGUAGE sql AS $$ SELECT string_agg(quote_ident(k), ', ') FROM jsonb_object_keys(given) k $$;

CREATE FUNCTION t.insert(into_ text, given jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %1$s (%2$s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM jsonb_populate_record(NULL::%1$s, $1)', into_, t.columns(given)) USING given;
END
$$;

CREATE FUNCTION t.update(of_ text, given jsonb, which text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE %1$s x SET (%2$s) = ROW(%3$s) FROM jsonb_populate_record(NULL::%1$s, $1) g WHERE %4$s', of_, t.columns(given),
        (SELECT string_agg('g.' || quote_ident(k), ', ') FROM jsonb_object_keys(given) k), which) USING given;
END
$$;

-- A workflow of its own, for what there is one of for each.
CREATE FUNCTION t.workflow(given jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    name_ text := coalesce(given ->> 'name', 'w' || nextval('stepd_engine.worker_number'));
BEGIN
    PERFORM t.insert('stepd_engine.workflows', to_jsonb(w) - 'name' || given || jsonb_build_object('name', name_)) FROM stepd_engine.workflows w WHERE w.name = 'echo';
    RETURN name_;
END
$$;

CREATE FUNCTION t.base(what text, run_ uuid) RETURNS jsonb LANGUAGE sql AS $$
    SELECT CASE what
        WHEN 'checkpoints' THEN jsonb_build_object('run', run_, 'seq', 1, 'epoch', 1, 'started_at', now(), 'ended_at', now(), 'attempts', 1, 'checkpoint', true,
            'state', 'completed', 'key', 'a', 'kind', 'set', 'output', '1')
        WHEN 'events' THEN jsonb_build_object('run', run_, 'at', now(), 'epoch', 1, 'attempt', 1, 'kind', 'attempt_failed', 'key', 'a', 'data',
            '{"failure":{"class":"transient","code":"exit_1","message":"no"},"started_at":"2026-01-01T00:00:00Z","ended_at":"2026-01-01T00:00:01Z","retry_in_ms":10}')
        WHEN 'signals' THEN jsonb_build_object('run', run_, 'kind', 'signal', 'name', 'go', 'at', now(), 'payload', '{}'::jsonb)
        WHEN 'children' THEN jsonb_build_object('parent', run_, 'key', 'b', 'n', 1, 'child', gen_random_uuid(), 'depth', 1, 'attached', true, 'settled', false)
        WHEN 'logs' THEN jsonb_build_object('run', run_, 'n', 1, 'first', 1, 'at', now(), 'epoch', 1, 'attempt', 1, 'key', 'a', 'lines', '[[0,"stderr","info","x"]]')
        WHEN 'ended' THEN jsonb_build_object('id', run_, 'state', 'failed', 'epoch', 1, 'priority', 5, 'resumes', 0, 'crashes', 0, 'ready_at', now(),
            'started_at', now(), 'ended_at', now(), 'workflow', 'echo', 'queue', 'default', 'input', '{}'::jsonb, 'labels', '{}'::jsonb,
            'error', '{"class":"permanent","code":"exit_3","message":"no"}')
        WHEN 'workers' THEN jsonb_build_object('id', gen_random_uuid(), 'number', nextval('stepd_engine.worker_number'), 'host', 'h', 'pid', 1, 'version', '9.9.9', 'schema', 1,
            'slots', 1, 'started_at', now(), 'beat', 0, 'beat_at', now(), 'lease_ms', 1000, 'stopping', false, 'facts', '{}'::jsonb)
        WHEN 'starts' THEN jsonb_build_object('workflow', 'echo', 'key', '', 'at', now(), 'run', run_)
        WHEN 'breakers' THEN jsonb_build_object('workflow', 'echo', 'target', gen_random_uuid(), 'opened_at', now(), 'next_at', now())
        WHEN 'deliveries' THEN jsonb_build_object('hook', 'h', 'delivery', gen_random_uuid(), 'at', now(), 'answer', '{}')
        WHEN 'definitions' THEN jsonb_build_object('hash', gen_random_uuid(), 'workflow', 'echo', 'body', 'x', 'handlers', false, 'created_at', now(), 'used_at', now())
        WHEN 'queues' THEN jsonb_build_object('name', gen_random_uuid(), 'paused', false, 'exclusive', false, 'open', true)
        WHEN 'trace_notes' THEN jsonb_build_object('at', now(), 'due_at', now(), 'from_at', now(), 'to_at', now(), 'target', 'x', 'runs', ARRAY[run_])
        WHEN 'trace_targets' THEN jsonb_build_object('name', gen_random_uuid(), 'seen_at', now(), 'keep', '1 day', 'most', 10)
        WHEN 'trace_waits' THEN jsonb_build_object('run', run_, 'at', now())
        WHEN 'worker_sessions' THEN jsonb_build_object('worker', gen_random_uuid(), 'started', now())
        END
$$;

-- Puts one row in. Gives the run that it concerns.
CREATE FUNCTION t.put(what text, given jsonb) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    run_ uuid;
    row_ jsonb := given;
    workflow_ text;
BEGIN
    IF what = 'enqueue' THEN
        row_ := '{"workflow": "echo"}' || given;
        EXECUTE format('INSERT INTO stepd.jobs (%1$s) SELECT %1$s FROM jsonb_populate_record(NULL::stepd.jobs, $1) RETURNING id', t.columns(row_)) INTO run_ USING row_;
        RETURN run_;
    ELSIF what = 'signal' THEN
        PERFORM stepd.signal((given ->> 'id')::uuid, given ->> 'name', given -> 'payload');
        RETURN (given ->> 'id')::uuid;
    ELSIF what = 'emit' THEN
        PERFORM stepd.emit(given ->> 'name', given -> 'payload');
        RETURN NULL;
    ELSIF what = 'jobs' THEN
        run_ := t.begun(coalesce(given ->> 'of', 'three'));
        PERFORM t.update('stepd.jobs', given - 'of', format('x.id = %L', run_));
        RETURN run_;
    ELSIF what = 'waits' THEN
        run_ := t.waits();
        PERFORM t.update('stepd_engine.checkpoints', given, format('x.run = %L', run_));
        RETURN run_;
    ELSIF what = 'workflows' THEN
        workflow_ := t.workflow(given - 'job');
        INSERT INTO stepd.jobs (workflow) VALUES (workflow_) RETURNING id INTO run_;
        RETURN run_;
    ELSIF what = 'schedules' THEN
        PERFORM t.insert('stepd_engine.schedules', '{"cron": "0 3 * * *", "timezone": "UTC", "overlap": "allow", "catch_up": "last", "paused": false, "pending": []}'
            || jsonb_build_object('workflow', t.workflow('{}'), 'loaded_at', now(), 'seen_at', now(), 'next_at', now() + interval '1 hour') || given);
        RETURN NULL;
    ELSIF what = 'settings' THEN
        PERFORM t.update('stepd_engine.settings', given, 'true');
        RETURN NULL;
    END IF;
    -- Of the ended ones the row is the run; all else lies beside one that is to be taken up.
    run_ := CASE WHEN what = 'ended' THEN gen_random_uuid() ELSE t.begun(coalesce(given ->> 'of', 'three')) END;
    IF what = 'ended' THEN
        run_ := stepd_engine.uuid7();
    END IF;
    PERFORM t.insert('stepd_engine.' || what, t.base(what, run_) || (given - 'of'));
    RETURN run_;
END
$$;
