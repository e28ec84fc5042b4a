-- Why: for those who come from two older systems, whose documents print queries: the same names, columns and words over stepd's rows.
-- stepd migrate --compat views applies this file, as often as one likes; nothing of it is there otherwise.
--   SET search_path = stepd_runtime    executions, execution_steps, execution_state, execution_events, execution_locks
--   SET search_path = stepd_afu9       workflow_executions, workflow_steps
-- What a view cannot serve (GROUP BY a primary key, CREATE INDEX, \dt) is in tables.sql. What is not stored is not shown: the parameters
-- with which a step was called are NULL.

CREATE SCHEMA IF NOT EXISTS stepd_runtime;
CREATE SCHEMA IF NOT EXISTS stepd_afu9;
COMMENT ON SCHEMA stepd_runtime IS 'stepd''s runs under the names of an older agent runtime: executions, execution_steps and others, to be read only.';
COMMENT ON SCHEMA stepd_afu9 IS 'stepd''s runs under the names of AFU-9: workflow_executions and workflow_steps.';

CREATE OR REPLACE VIEW stepd_runtime.executions AS
SELECT r.id, r.workflow AS workflow_id,
    CASE WHEN r.state IN ('scheduled', 'queued', 'held') THEN 'PENDING' WHEN r.state = 'completed' THEN 'SUCCESS' WHEN r.state IN ('failed', 'cancelled') THEN 'FAILED'
        ELSE 'RUNNING' END AS status,
    r.input AS input_payload, r.output AS output_payload, CASE r.state WHEN 'cancelled' THEN 'cancelled' ELSE r.error_message END AS error_message,
    r.created_at, r.started_at, r.ended_at AS completed_at, coalesce(r.ended_at, r.started_at, r.created_at) AS updated_at
FROM stepd.runs r;
COMMENT ON VIEW stepd_runtime.executions IS 'Every run: stepd.runs in the words PENDING, RUNNING, SUCCESS, FAILED.';
COMMENT ON COLUMN stepd_runtime.executions.id IS 'The run''s id.';
COMMENT ON COLUMN stepd_runtime.executions.workflow_id IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_runtime.executions.status IS 'PENDING: scheduled, queued or held. RUNNING: begun, also while it waits or is paused. SUCCESS. FAILED: or cancelled.';
COMMENT ON COLUMN stepd_runtime.executions.input_payload IS 'The workflow''s input.';
COMMENT ON COLUMN stepd_runtime.executions.output_payload IS 'The workflow''s output.';
COMMENT ON COLUMN stepd_runtime.executions.error_message IS 'Why it failed.';
COMMENT ON COLUMN stepd_runtime.executions.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN stepd_runtime.executions.started_at IS 'The first claim.';
COMMENT ON COLUMN stepd_runtime.executions.completed_at IS 'When it ended.';
COMMENT ON COLUMN stepd_runtime.executions.updated_at IS 'The latest of these times.';

CREATE OR REPLACE VIEW stepd_runtime.execution_steps AS
SELECT md5(s.run::text || ' ' || s.key)::uuid AS id, s.run AS execution_id, s.key AS step_name, s.seq AS step_order,
    CASE WHEN s.state IN ('completed', 'skipped') THEN 'SUCCESS' WHEN s.state IN ('failed', 'cancelled') THEN 'FAILED' ELSE 'RUNNING' END AS status,
    NULL::json AS input_payload, s.output AS output_payload, s.error_message, greatest(s.attempts - 1, 0) AS retry_count, s.started_at, s.ended_at AS completed_at
FROM stepd.steps s WHERE s.kind <> 'end';
COMMENT ON VIEW stepd_runtime.execution_steps IS 'Every step that has begun.';
COMMENT ON COLUMN stepd_runtime.execution_steps.id IS 'Made of the run''s id and the step''s key.';
COMMENT ON COLUMN stepd_runtime.execution_steps.execution_id IS 'The run''s id.';
COMMENT ON COLUMN stepd_runtime.execution_steps.step_name IS 'The step''s key.';
COMMENT ON COLUMN stepd_runtime.execution_steps.step_order IS 'The order of their starts, from 1.';
COMMENT ON COLUMN stepd_runtime.execution_steps.status IS 'RUNNING: also while it waits. SUCCESS: or skipped. FAILED: or cancelled.';
COMMENT ON COLUMN stepd_runtime.execution_steps.input_payload IS 'Always NULL: with what a step was called is not stored.';
COMMENT ON COLUMN stepd_runtime.execution_steps.output_payload IS 'The step''s output.';
COMMENT ON COLUMN stepd_runtime.execution_steps.error_message IS 'Why it failed.';
COMMENT ON COLUMN stepd_runtime.execution_steps.retry_count IS 'Attempts after the first.';
COMMENT ON COLUMN stepd_runtime.execution_steps.started_at IS 'When its first attempt started.';
COMMENT ON COLUMN stepd_runtime.execution_steps.completed_at IS 'When it ended.';

CREATE OR REPLACE VIEW stepd_runtime.execution_state AS
SELECT r.id AS execution_id,
    (SELECT coalesce(json_object_agg(s.key, s.output ORDER BY s.seq), '{}') FROM stepd.steps s WHERE s.run = r.id AND s.state = 'completed' AND s.kind <> 'end') AS state_snapshot,
    (SELECT coalesce(max(s.seq), 0) FROM stepd.steps s WHERE s.run = r.id AND s.kind <> 'end') AS current_step,
    (SELECT max(coalesce(s.ended_at, s.started_at)) FROM stepd.steps s WHERE s.run = r.id) AS updated_at
FROM stepd.runs r;
COMMENT ON VIEW stepd_runtime.execution_state IS 'What each run has so far.';
COMMENT ON COLUMN stepd_runtime.execution_state.execution_id IS 'The run''s id.';
COMMENT ON COLUMN stepd_runtime.execution_state.state_snapshot IS 'The outputs of its completed steps, by key.';
COMMENT ON COLUMN stepd_runtime.execution_state.current_step IS 'The step that started last, by its number; 0: none yet.';
COMMENT ON COLUMN stepd_runtime.execution_state.updated_at IS 'When a step last began or ended.';

-- Strictly increasing times within a run: a line is never dated before the one before it, and each a microsecond after it.
CREATE OR REPLACE VIEW stepd_runtime.execution_events AS
SELECT md5(r.id::text || ' ' || e.n)::uuid AS id, r.id AS execution_id,
    CASE WHEN e.key IS NOT NULL THEN md5(r.id::text || ' ' || e.key)::uuid END AS step_id, e.event_type, e.event_payload, e.timestamp, e.n AS sequence
FROM (SELECT x.id FROM stepd.runs x) r
CROSS JOIN LATERAL (
    SELECT row_number() OVER w AS n, l.key, k.event_type,
        CASE WHEN l.key IS NULL THEN json_build_object('event', l.event, 'data', l.data) ELSE json_build_object('step', l.key, 'attempt', l.attempt, 'data', l.data) END AS event_payload,
        max(l.at) OVER w + row_number() OVER w * interval '1 microsecond' AS timestamp
    FROM (SELECT h.seq, h.at, h.event, h.key, h.attempt, h.data, (SELECT s.kind FROM stepd.steps s WHERE s.run = h.run AND s.key = h.key) AS kind
        FROM stepd.history h WHERE h.run = r.id) l
    CROSS JOIN LATERAL (VALUES
        (1, CASE l.event WHEN 'run started' THEN 'EXECUTION_STARTED' WHEN 'run completed' THEN 'EXECUTION_COMPLETED' WHEN 'run failed' THEN 'EXECUTION_FAILED'
            WHEN 'run cancelled' THEN 'EXECUTION_FAILED' WHEN 'step started' THEN 'STEP_STARTED'
            WHEN 'step completed' THEN CASE WHEN l.kind IN ('set', 'sleep', 'wait', 'approve', 'map', 'switch', 'repeat', 'workflow') THEN 'STEP_COMPLETED' ELSE 'AGENT_RESPONSE' END
            WHEN 'step failed' THEN 'STEP_FAILED' END),
        (2, CASE WHEN l.kind NOT IN ('set', 'sleep', 'wait', 'approve', 'map', 'switch', 'repeat', 'workflow')
            THEN CASE l.event WHEN 'step started' THEN 'AGENT_INVOKED' WHEN 'step completed' THEN 'STEP_COMPLETED' END END)) AS k(half, event_type)
    WHERE k.event_type IS NOT NULL
    WINDOW w AS (ORDER BY l.seq, k.half)
) e;
COMMENT ON VIEW stepd_runtime.execution_events IS 'What happened: stepd.history in eight words, to be read only. ORDER BY timestamp is the order of a run.';
COMMENT ON COLUMN stepd_runtime.execution_events.id IS 'Made of the run''s id and the line''s number.';
COMMENT ON COLUMN stepd_runtime.execution_events.execution_id IS 'The run''s id.';
COMMENT ON COLUMN stepd_runtime.execution_events.step_id IS 'The id of execution_steps; NULL where it concerns the run.';
COMMENT ON COLUMN stepd_runtime.execution_events.event_type IS 'EXECUTION_STARTED, EXECUTION_COMPLETED, EXECUTION_FAILED, STEP_STARTED, STEP_COMPLETED, STEP_FAILED, AGENT_INVOKED, AGENT_RESPONSE.';
COMMENT ON COLUMN stepd_runtime.execution_events.event_payload IS 'What else is known.';
COMMENT ON COLUMN stepd_runtime.execution_events.timestamp IS 'When; strictly increasing within a run, for which it may be some microseconds late.';
COMMENT ON COLUMN stepd_runtime.execution_events.sequence IS 'The line''s number in its run, from 1.';

CREATE OR REPLACE VIEW stepd_runtime.execution_locks AS
SELECT j.id AS execution_id, w.host || ':' || w.pid AS locked_by, w.beat_at + w.lease_ms * interval '1 millisecond' AS expires_at, j.started_at AS created_at
FROM stepd.jobs j JOIN stepd_engine.workers w ON w.id = j.worker WHERE j.state = 'running';
COMMENT ON VIEW stepd_runtime.execution_locks IS 'The leases: which worker has which run.';
COMMENT ON COLUMN stepd_runtime.execution_locks.execution_id IS 'The run''s id.';
COMMENT ON COLUMN stepd_runtime.execution_locks.locked_by IS 'The worker: host and process id.';
COMMENT ON COLUMN stepd_runtime.execution_locks.expires_at IS 'When the lease would end without another heartbeat.';
COMMENT ON COLUMN stepd_runtime.execution_locks.created_at IS 'When the run was first claimed.';

CREATE OR REPLACE VIEW stepd_runtime.workflow_runs AS
SELECT r.id::text AS thread_id, r.workflow AS workflow_name,
    CASE WHEN r.state IN ('scheduled', 'queued', 'held') THEN 'pending' WHEN r.state IN ('completed', 'failed', 'cancelled', 'paused') THEN r.state::text ELSE 'running' END AS status,
    r.error_message, r.created_at, r.started_at, r.ended_at AS completed_at,
    (SELECT s.key FROM stepd.steps s WHERE s.run = r.id AND s.checkpoint ORDER BY s.seq DESC LIMIT 1) AS latest_checkpoint
FROM stepd.runs r;
COMMENT ON VIEW stepd_runtime.workflow_runs IS 'Every run with its latest checkpoint.';
COMMENT ON COLUMN stepd_runtime.workflow_runs.thread_id IS 'The run''s id.';
COMMENT ON COLUMN stepd_runtime.workflow_runs.workflow_name IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_runtime.workflow_runs.status IS 'pending, running, paused, completed, failed or cancelled.';
COMMENT ON COLUMN stepd_runtime.workflow_runs.error_message IS 'Why it failed.';
COMMENT ON COLUMN stepd_runtime.workflow_runs.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN stepd_runtime.workflow_runs.started_at IS 'The first claim.';
COMMENT ON COLUMN stepd_runtime.workflow_runs.completed_at IS 'When it ended.';
COMMENT ON COLUMN stepd_runtime.workflow_runs.latest_checkpoint IS 'The step that was done last; its record is in latest_checkpoints.';

CREATE OR REPLACE VIEW stepd_runtime.latest_checkpoints AS
SELECT r.id::text AS thread_id, s.key AS checkpoint_id, s.seq AS step, s.output AS checkpoint, s.ended_at AS created_at
FROM (SELECT x.id FROM stepd.runs x) r CROSS JOIN LATERAL (
    SELECT c.key, c.seq, c.output, c.ended_at FROM stepd.steps c WHERE c.run = r.id AND c.checkpoint ORDER BY c.seq DESC LIMIT 1) s;
COMMENT ON VIEW stepd_runtime.latest_checkpoints IS 'The latest checkpoint of each run that has one.';
COMMENT ON COLUMN stepd_runtime.latest_checkpoints.thread_id IS 'The run''s id.';
COMMENT ON COLUMN stepd_runtime.latest_checkpoints.checkpoint_id IS 'The step''s key.';
COMMENT ON COLUMN stepd_runtime.latest_checkpoints.step IS 'Its number.';
COMMENT ON COLUMN stepd_runtime.latest_checkpoints.checkpoint IS 'What it gave.';
COMMENT ON COLUMN stepd_runtime.latest_checkpoints.created_at IS 'When it was recorded.';

CREATE OR REPLACE VIEW stepd_afu9.workflow_executions AS
SELECT r.id, r.workflow AS workflow_id,
    CASE WHEN r.state IN ('scheduled', 'queued', 'held') THEN 'pending' WHEN r.state IN ('completed', 'failed', 'cancelled', 'paused') THEN r.state::text
        WHEN r.state = 'waiting' AND EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = r.id AND c.state = 'waiting' AND c.kind = 'approve' AND c.key LIKE 'hold[%') THEN 'paused'
        ELSE 'running' END AS status,
    r.input, r.output, json_build_object('input', r.input, 'variables', CASE WHEN r.state = 'completed' THEN r.output
        ELSE (SELECT coalesce(json_object_agg(s.key, s.output ORDER BY s.seq), '{}') FROM stepd.steps s WHERE s.run = r.id AND s.state = 'completed' AND s.kind <> 'end') END) AS context,
    coalesce(r.started_at, r.created_at) AS started_at, r.ended_at AS completed_at, r.error_message AS error,
    coalesce(r.labels ->> 'triggered_by', r.created_by) AS triggered_by, r.labels ->> 'github_run_id' AS github_run_id,
    r.created_at, coalesce(r.ended_at, r.started_at, r.created_at) AS updated_at,
    (SELECT json_build_object('pausedAt', v.at, 'pausedBy', v.by_whom, 'reason', stepd_engine.failure_field(v.data, 'reason')) FROM stepd_engine.events v
        WHERE v.run = r.id AND v.kind = 'paused' ORDER BY v.id DESC LIMIT 1) AS pause_metadata
FROM stepd.runs r;
COMMENT ON VIEW stepd_afu9.workflow_executions IS 'Every run: stepd.runs in the words pending, running, completed, failed, cancelled, paused. A DELETE removes ended runs for good, as stepd prune does.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.id IS 'The run''s id.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.workflow_id IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.status IS 'pending: scheduled, queued or held. running: begun, also while it waits. paused: by an operator or a guard. completed, failed, cancelled.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.input IS 'The workflow''s input.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.output IS 'The workflow''s output.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.context IS 'The input, and the variables: the output once completed, before that the outputs of the completed steps.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.started_at IS 'The first claim; before it, when it was enqueued.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.completed_at IS 'When it ended.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.error IS 'Why it failed.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.triggered_by IS 'The label triggered_by, or the database role that enqueued it.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.github_run_id IS 'The label github_run_id.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.created_at IS 'When it was enqueued.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.updated_at IS 'The latest of these times.';
COMMENT ON COLUMN stepd_afu9.workflow_executions.pause_metadata IS 'Its last pause: when, by whom, why; NULL: never paused.';

CREATE OR REPLACE VIEW stepd_afu9.workflow_steps AS
SELECT md5(s.run::text || ' ' || s.key)::uuid AS id, s.run AS execution_id, s.key AS step_name, s.seq - 1 AS step_index,
    CASE WHEN s.state IN ('completed', 'failed', 'skipped') THEN s.state::text WHEN s.state = 'cancelled' THEN 'failed' ELSE 'running' END AS status,
    NULL::json AS input, s.output, s.started_at, s.ended_at AS completed_at,
    CASE WHEN s.ended_at IS NOT NULL THEN round(date_part('epoch', s.ended_at - s.started_at) * 1000)::bigint END AS duration_ms,
    s.error_message AS error, greatest(s.attempts - 1, 0) AS retry_count, s.started_at AS created_at, coalesce(s.ended_at, s.started_at) AS updated_at
FROM stepd.steps s WHERE s.kind <> 'end' AND NOT (s.kind = 'approve' AND s.key LIKE 'hold[%');
COMMENT ON VIEW stepd_afu9.workflow_steps IS 'Every step that has begun.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.id IS 'Made of the run''s id and the step''s key.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.execution_id IS 'The run''s id.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.step_name IS 'The step''s key.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.step_index IS 'The order of their starts, from 0.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.status IS 'running: also while it waits. completed, skipped. failed: or cancelled.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.input IS 'Always NULL: with what a step was called is not stored.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.output IS 'The step''s output.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.started_at IS 'When its first attempt started.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.completed_at IS 'When it ended.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.duration_ms IS 'From start to end, in milliseconds.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.error IS 'Why it failed.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.retry_count IS 'Attempts after the first.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.created_at IS 'As started_at.';
COMMENT ON COLUMN stepd_afu9.workflow_steps.updated_at IS 'The later of its times.';

CREATE OR REPLACE FUNCTION stepd_afu9.forget() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF OLD.status NOT IN ('completed', 'failed', 'cancelled') THEN
        RAISE EXCEPTION USING ERRCODE = 'SD012', MESSAGE = format('stepd SD012: run %s is %s; only an ended run can be removed', OLD.id, OLD.status),
            HINT = format('SELECT stepd.cancel(%L) ends it. (stepd explain SD012)', OLD.id);
    END IF;
    PERFORM stepd_engine.remove_runs(ARRAY[OLD.id]);
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION stepd_afu9.forget() IS 'Removes an ended run with all that belongs to it; a live one is refused (SD012). The daily figures stay.';
REVOKE ALL ON FUNCTION stepd_afu9.forget() FROM PUBLIC;
CREATE OR REPLACE TRIGGER forget INSTEAD OF DELETE ON stepd_afu9.workflow_executions FOR EACH ROW EXECUTE FUNCTION stepd_afu9.forget();
COMMENT ON TRIGGER forget ON stepd_afu9.workflow_executions IS 'A DELETE removes ended runs for good.';
