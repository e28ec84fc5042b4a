-- Why: five roles, so that nobody who works with stepd needs to be its owner. stepd migrate --roles applies this file, as often as one
-- likes, and every later migration applies its grants again where they have been given: a new version's objects need no default privileges,
-- which would hold only for one creator and could not take from PUBLIC what Postgres gives it.
-- Rules of this file
--   * Nothing is granted to PUBLIC, and nothing of stepd_engine to anybody but the daemon, and what the HTTP
--     server must read to the server. The five roles cannot log in:
--     GRANT stepd_enqueue TO my_application.
--   * Roles belong to the whole cluster; their rights, to this database.

DO $$
DECLARE
    name_ text;
BEGIN
    FOREACH name_ IN ARRAY '{stepd_enqueue,stepd_read,stepd_operate,stepd_serve,stepd_daemon}'::text[] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = name_);
        BEGIN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', name_);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            -- Another database of this cluster was faster.
        END;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA stepd TO stepd_enqueue, stepd_read, stepd_operate, stepd_serve, stepd_daemon;
-- Is it set up, and for which daemons? Every command asks first.
GRANT SELECT ON stepd.versions TO stepd_enqueue, stepd_read, stepd_operate, stepd_serve, stepd_daemon;

-- Enqueue: the user's columns and no other; of what is there only what ON CONFLICT and a look for one's own key need.
GRANT INSERT (workflow, input, queue, priority, run_at, unique_key, concurrency_key, labels, traceparent, session_id),
    SELECT (id, workflow, unique_key, state) ON stepd.jobs TO stepd_enqueue;
GRANT EXECUTE ON FUNCTION stepd.enqueue(text, jsonb, text, integer, timestamptz, text, text, jsonb, text, text), stepd.unique_key(text, jsonb),
    stepd.signal(uuid, text, jsonb), stepd.emit(text, jsonb) TO stepd_enqueue;

-- Read: every view, and whatever says something about a run.
GRANT SELECT ON ALL TABLES IN SCHEMA stepd TO stepd_read, stepd_operate, stepd_daemon;
GRANT EXECUTE ON FUNCTION stepd.why(uuid), stepd.unique_key(text, jsonb), stepd.stats(date, date, text) TO stepd_read, stepd_operate;

-- Operate: what changes the way of a run, a queue, a schedule or a workflow; it starts nothing with an input of its own but a fork.
GRANT EXECUTE ON FUNCTION stepd.cancel(uuid, text), stepd.retry(uuid, boolean), stepd.fork(uuid, text, jsonb, boolean, boolean), stepd.pause(uuid, text, boolean),
    stepd.unpause(uuid), stepd.signal(uuid, text, jsonb), stepd.emit(text, jsonb), stepd.approve(uuid, text, text, jsonb),
    stepd.reject(uuid, text, text), stepd.pause_queue(text, text), stepd.unpause_queue(text), stepd.limit_queue(text, integer),
    stepd.run_schedule(text), stepd.pause_schedule(text, text), stepd.unpause_schedule(text),
    stepd.retire_workflow(text, timestamptz) TO stepd_operate;

-- Serve: the HTTP server on a host of its own (stepd serve --no-work). It enqueues, reads and operates as its tokens say; what it reads
-- of stepd_engine it reads there to be fast or to know what has changed. It writes no run: of its own it notes which webhooks have come,
-- and stores the documents that requests bring along, each pinned to its run before anybody has seen that.
GRANT INSERT (workflow, input, queue, priority, run_at, unique_key, concurrency_key, labels, traceparent) ON stepd.jobs TO stepd_serve;
GRANT UPDATE (definition) ON stepd.jobs TO stepd_serve;
GRANT SELECT ON ALL TABLES IN SCHEMA stepd TO stepd_serve;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA stepd TO stepd_serve;
GRANT USAGE ON SCHEMA stepd_engine TO stepd_serve;
GRANT SELECT ON stepd_engine.checkpoints, stepd_engine.ended, stepd_engine.events, stepd_engine.signals, stepd_engine.definitions,
    stepd_engine.workflows, stepd_engine.settings, stepd_engine.deliveries TO stepd_serve;
GRANT INSERT (hook, delivery), UPDATE (answer) ON stepd_engine.deliveries TO stepd_serve;
GRANT INSERT (hash, workflow, body, handlers), UPDATE (used_at) ON stepd_engine.definitions TO stepd_serve;
GRANT INSERT (name, definition, flow, source), UPDATE (retired_at) ON stepd_engine.workflows TO stepd_serve;
GRANT EXECUTE ON FUNCTION stepd_engine.first_id(timestamptz) TO stepd_serve;

-- Daemon: every row, and no object. It cannot change the schema: stepd migrate is for the owner.
GRANT USAGE ON SCHEMA stepd_engine TO stepd_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON stepd.jobs TO stepd_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA stepd_engine TO stepd_daemon;
REVOKE INSERT, UPDATE, DELETE ON stepd_engine.migrations FROM stepd_daemon;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA stepd_engine TO stepd_daemon;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA stepd, stepd_engine TO stepd_daemon;

-- The older systems' views and tables, where they are installed. A DELETE there removes runs: that is retention, and the daemon's.
DO $$
DECLARE
    s text;
BEGIN
    FOR s IN SELECT n.nspname FROM pg_catalog.pg_namespace n
        WHERE n.nspname IN ('stepd_runtime', 'stepd_afu9', 'stepd_runtime_tables', 'stepd_afu9_tables')
    LOOP
        EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO stepd_read, stepd_operate, stepd_serve, stepd_daemon', s);
        EXECUTE pg_catalog.format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO stepd_read, stepd_operate, stepd_serve, stepd_daemon', s);
        IF s IN ('stepd_afu9', 'stepd_afu9_tables') THEN
            EXECUTE pg_catalog.format('GRANT DELETE ON %I.workflow_executions TO stepd_daemon', s);
        END IF;
    END LOOP;
END
$$;
