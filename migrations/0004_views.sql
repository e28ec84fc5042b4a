-- Why: what people and dashboards read. Rules of this file
--   * A view must be safe to SELECT * with LIMIT at ten million rows: plain UNION ALL over tables with no
--     sort of the whole; what must be looked up per row is a scalar subquery, so it costs only for the rows
--     that come out, and nothing when the column is not asked for.
--   * Newest first is ORDER BY id DESC: ids grow with time and both halves of stepd.runs have them indexed.
--   * No volatile function stands in a select list: it would keep the planner from looking inside the view.
--   * A row of stepd.jobs in a final state is a tombstone, which keeps a unique key and no more: no view shows it.
--   * A payload that was recorded as text is cast to json, never to jsonb, which refuses NUL escapes.

-- What is looked up for each run stands outside the union: then ORDER BY id LIMIT looks it up for those rows alone that it returns.
CREATE VIEW stepd.runs AS
SELECT r.id, r.state, r.workflow, stepd_engine.uuid_time(r.id) AS created_at, r.run_at, r.started_at, r.ended_at,
    coalesce(r.ended_at, greatest(statement_timestamp(), r.started_at)) - r.started_at AS duration,
    CASE WHEN r.state = 'completed' THEN NULL
        WHEN r.last_key IS NOT NULL THEN r.last_key
        ELSE (SELECT c.key FROM stepd_engine.checkpoints c WHERE c.run = r.id AND NOT c.checkpoint
            AND c.state = ANY (r.telling) ORDER BY (r.ended_at IS NOT NULL AND c.state = 'failed') DESC, c.seq DESC LIMIT 1) END AS step,
    CASE WHEN r.state = 'completed' THEN NULL
        WHEN r.last_key IS NOT NULL THEN r.last_attempts
        ELSE (SELECT c.attempts::integer FROM stepd_engine.checkpoints c WHERE c.run = r.id AND NOT c.checkpoint
            AND c.state = ANY (r.telling) ORDER BY (r.ended_at IS NOT NULL AND c.state = 'failed') DESC, c.seq DESC LIMIT 1) END AS attempts,
    stepd_engine.failure_field(r.error, 'code') AS error_code, stepd_engine.failure_field(r.error, 'message') AS error_message,
    r.resumes, r.crashes, r.queue, r.priority, r.due_at, r.worker, r.unique_key, r.concurrency_key, r.labels, r.input, r.output,
    stepd_engine.failure_json(r.error) AS error, r.created_by, r.traceparent, r.session_id, r.epoch, r.definition,
    (SELECT stepd_engine.failure_field(v.data, 'from')::uuid FROM stepd_engine.events v WHERE v.run = r.id AND v.kind = 'forked' LIMIT 1) AS forked_from,
    (SELECT sum(stepd_engine.failure_field(c.usage, 'calls')::bigint)::bigint FROM stepd_engine.checkpoints c WHERE c.run = r.id AND c.usage IS NOT NULL) AS calls,
    (SELECT sum(stepd_engine.failure_field(c.usage, 'tokens_in')::bigint)::bigint FROM stepd_engine.checkpoints c WHERE c.run = r.id AND c.usage IS NOT NULL) AS tokens_in,
    (SELECT sum(stepd_engine.failure_field(c.usage, 'tokens_out')::bigint)::bigint FROM stepd_engine.checkpoints c WHERE c.run = r.id AND c.usage IS NOT NULL) AS tokens_out,
    (SELECT sum(stepd_engine.failure_field(c.usage, 'cost')::numeric)::numeric FROM stepd_engine.checkpoints c WHERE c.run = r.id AND c.usage IS NOT NULL) AS cost,
    (SELECT k.parent FROM stepd_engine.children k WHERE k.child = r.id) AS parent
FROM (
    SELECT j.id, j.state, j.workflow, j.run_at, coalesce(j.first_started_at, j.started_at) AS started_at, NULL::timestamptz AS ended_at,
        NULL::text AS last_key, NULL::integer AS last_attempts, '{running,waiting,failed}'::stepd.step_state[] AS telling,
        j.error, j.resumes::integer AS resumes, j.crashes::integer AS crashes, j.queue, j.priority::integer AS priority, j.due_at, j.worker,
        j.unique_key, j.concurrency_key, j.labels, j.input, NULL::json AS output, j.created_by, j.traceparent, j.session_id, j.epoch, j.definition
    FROM stepd.jobs j
    UNION ALL
    SELECT e.id, e.state, e.workflow, e.run_at, e.started_at, e.ended_at,
        CASE WHEN e.last_output IS NULL THEN e.last_key END, e.last_attempts::integer, '{failed,cancelled}'::stepd.step_state[],
        e.error, e.resumes::integer, e.crashes::integer, e.queue, e.priority::integer, NULL::timestamptz, e.worker,
        e.unique_key, e.concurrency_key, e.labels, e.input, e.output::json, e.created_by, e.traceparent, e.session_id, e.epoch, e.definition
    FROM stepd_engine.ended e
) r
-- Out here: the planner walks the two primary keys for ORDER BY id LIMIT only where neither half of a union has a condition of its own.
WHERE r.ended_at IS NOT NULL OR r.state NOT IN ('completed', 'failed', 'cancelled');
COMMENT ON VIEW stepd.runs IS 'Every run, live or ended, under one id. Newest first: ORDER BY id DESC.';
COMMENT ON COLUMN stepd.runs.id IS 'The id of job, run and trace (a UUIDv7: grows with time).';
COMMENT ON COLUMN stepd.runs.state IS 'Where the run stands; SELECT stepd.why(id) says it in a sentence.';
COMMENT ON COLUMN stepd.runs.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.runs.created_at IS 'When the job was inserted, to the millisecond; taken from the id.';
COMMENT ON COLUMN stepd.runs.run_at IS 'Not before this time; NULL: at once.';
COMMENT ON COLUMN stepd.runs.started_at IS 'The first claim.';
COMMENT ON COLUMN stepd.runs.ended_at IS 'When the run ended; NULL while it lives.';
COMMENT ON COLUMN stepd.runs.duration IS 'From the first claim to the end, or until now.';
COMMENT ON COLUMN stepd.runs.step IS 'The step that runs, waits, or failed the run; stepd.steps has them all.';
COMMENT ON COLUMN stepd.runs.attempts IS 'The attempts of that step.';
COMMENT ON COLUMN stepd.runs.error_code IS 'The failure''s code: http_503, timeout, exit_1. On a resuming run, of the failure that it resumes after.';
COMMENT ON COLUMN stepd.runs.error_message IS 'The failure in one sentence.';
COMMENT ON COLUMN stepd.runs.resumes IS 'Automatic resumes after a failure.';
COMMENT ON COLUMN stepd.runs.crashes IS 'Workers that died after they had started this run.';
COMMENT ON COLUMN stepd.runs.queue IS 'The queue it came through.';
COMMENT ON COLUMN stepd.runs.priority IS '0 to 9, lower first.';
COMMENT ON COLUMN stepd.runs.due_at IS 'When a scheduled, waiting or resuming run is looked at again.';
COMMENT ON COLUMN stepd.runs.worker IS 'The worker that runs it, or that ended it; see stepd.workers.';
COMMENT ON COLUMN stepd.runs.unique_key IS 'At most one unfinished run per workflow and key.';
COMMENT ON COLUMN stepd.runs.concurrency_key IS 'What the workflow''s concurrency limit counts by.';
COMMENT ON COLUMN stepd.runs.labels IS 'A flat JSON object to find runs by.';
COMMENT ON COLUMN stepd.runs.input IS 'The workflow''s input.';
COMMENT ON COLUMN stepd.runs.output IS 'The workflow''s output, once completed; as json, byte for byte what was recorded.';
COMMENT ON COLUMN stepd.runs.error IS 'The failure with its details: {class, code, message, details}.';
COMMENT ON COLUMN stepd.runs.created_by IS 'The database role that inserted the job.';
COMMENT ON COLUMN stepd.runs.traceparent IS 'The enqueuer''s W3C trace context.';
COMMENT ON COLUMN stepd.runs.session_id IS 'What it belongs to together with other runs, as the enqueuer says; forks and children are of the same session.';
COMMENT ON COLUMN stepd.runs.epoch IS 'Claims and take-overs so far.';
COMMENT ON COLUMN stepd.runs.definition IS 'The definition that the run is pinned to.';
COMMENT ON COLUMN stepd.runs.forked_from IS 'The run that this one was forked from; its steps before the fork keep their results here.';
COMMENT ON COLUMN stepd.runs.calls IS 'Calls of models, over all steps, those included that failed; NULL: no model was called.';
COMMENT ON COLUMN stepd.runs.tokens_in IS 'Tokens of prompts, over all steps; NULL: no model was called.';
COMMENT ON COLUMN stepd.runs.tokens_out IS 'Tokens of the models'' answers.';
COMMENT ON COLUMN stepd.runs.cost IS 'What they cost, by the configured prices.';
COMMENT ON COLUMN stepd.runs.parent IS 'The run whose step started it, where one did; that step''s child is this run.';

CREATE VIEW stepd.steps AS
SELECT c.run, c.seq, c.key, c.label, c.state, c.kind, c.attempts::integer AS attempts, c.started_at, c.ended_at,
    coalesce(c.ended_at, greatest(statement_timestamp(), c.started_at)) - c.started_at AS duration, c.due_at,
    stepd_engine.failure_field(c.error, 'code') AS error_code, stepd_engine.failure_field(c.error, 'message') AS error_message,
    c.output::json AS output, stepd_engine.failure_json(c.error) AS error, c.decision::json AS decision, c.event, c.match, c.checkpoint, c.epoch,
    stepd_engine.failure_field(c.usage, 'calls')::bigint AS calls, stepd_engine.failure_field(c.usage, 'tokens_in')::bigint AS tokens_in,
    stepd_engine.failure_field(c.usage, 'tokens_out')::bigint AS tokens_out, stepd_engine.failure_field(c.usage, 'cost')::numeric AS cost,
    CASE WHEN c.kind = 'workflow' THEN (SELECT k.child FROM stepd_engine.children k WHERE k.parent = c.run AND k.key = c.key ORDER BY k.n DESC LIMIT 1) END AS child
FROM stepd_engine.checkpoints c
-- The step that a run ended with stands in ended; what is left of it here, from before, is not done. A scalar subquery on purpose: a join
-- would tempt the planner into hashing all ended runs; and asked for only of what is not done, for it costs as much as the rest of the row.
WHERE c.checkpoint OR (SELECT e.last_key FROM stepd_engine.ended e WHERE e.id = c.run) IS DISTINCT FROM c.key
UNION ALL
SELECT e.id, e.last_seq, e.last_key, NULL::text,
    CASE WHEN e.last_output IS NOT NULL OR e.state = 'completed' THEN 'completed' ELSE e.state::text END::stepd.step_state,
    e.last_kind, e.last_attempts::integer, e.last_started_at, e.ended_at, e.ended_at - e.last_started_at, NULL::timestamptz,
    CASE WHEN e.last_output IS NULL AND e.state = 'failed' THEN stepd_engine.failure_field(e.error, 'code') END,
    CASE WHEN e.last_output IS NULL AND e.state = 'failed' THEN stepd_engine.failure_field(e.error, 'message') END,
    e.last_output::json, CASE WHEN e.last_output IS NULL AND e.state = 'failed' THEN stepd_engine.failure_json(e.error) END,
    NULL::json, NULL::text, NULL::jsonb, e.last_output IS NOT NULL OR e.state = 'completed', e.epoch, NULL::bigint, NULL::bigint, NULL::bigint, NULL::numeric,
    CASE WHEN e.last_kind = 'workflow' THEN (SELECT k.child FROM stepd_engine.children k WHERE k.parent = e.id AND k.key = e.last_key ORDER BY k.n DESC LIMIT 1) END
FROM stepd_engine.ended e WHERE e.last_key IS NOT NULL;
COMMENT ON VIEW stepd.steps IS 'Every step of every run, one row each. Those of one run in order: WHERE run = … ORDER BY seq.';
COMMENT ON COLUMN stepd.steps.run IS 'The run''s id.';
COMMENT ON COLUMN stepd.steps.seq IS 'The order in which the run''s steps started.';
COMMENT ON COLUMN stepd.steps.key IS 'The step''s name in its run: charge, docs[12].text.';
COMMENT ON COLUMN stepd.steps.label IS 'What people call it: its label, or that of the map''s item which it belongs to; NULL: its key must do.';
COMMENT ON COLUMN stepd.steps.state IS 'running, waiting, completed, failed, skipped or cancelled.';
COMMENT ON COLUMN stepd.steps.attempts IS 'Attempts so far; 0 after an operator''s retry, until the step starts again, and on a step whose result a fork has kept.';
COMMENT ON COLUMN stepd.steps.kind IS 'What it does: run, exec, http, sql, sleep, wait, approve, set, workflow; map, switch and repeat, which are made of steps; end: how the run ends, recorded before undo, on_failure and finally.';
COMMENT ON COLUMN stepd.steps.started_at IS 'When its first attempt started.';
COMMENT ON COLUMN stepd.steps.ended_at IS 'When it ended; NULL while it runs or waits.';
COMMENT ON COLUMN stepd.steps.duration IS 'From start to end, or until now.';
COMMENT ON COLUMN stepd.steps.due_at IS 'When a sleep ends or a wait times out.';
COMMENT ON COLUMN stepd.steps.error_code IS 'The failure''s code.';
COMMENT ON COLUMN stepd.steps.error_message IS 'The failure in one sentence.';
COMMENT ON COLUMN stepd.steps.output IS 'The step''s output, byte for byte as it was recorded.';
COMMENT ON COLUMN stepd.steps.error IS 'The failure with its details.';
COMMENT ON COLUMN stepd.steps.decision IS 'What a resume does not decide anew: a map''s items, an approval''s question.';
COMMENT ON COLUMN stepd.steps.event IS 'The event or signal that a waiting step waits for.';
COMMENT ON COLUMN stepd.steps.match IS 'What that event''s payload must contain.';
COMMENT ON COLUMN stepd.steps.checkpoint IS 'Is the step done for good? Such a step never runs again.';
COMMENT ON COLUMN stepd.steps.epoch IS 'The claim that recorded it.';
COMMENT ON COLUMN stepd.steps.calls IS 'Calls of models, over all its attempts, those included that failed; NULL: it has called none.';
COMMENT ON COLUMN stepd.steps.tokens_in IS 'Tokens of prompts, over all its attempts; NULL: it has called no model.';
COMMENT ON COLUMN stepd.steps.tokens_out IS 'Tokens of the model''s answers, over all its attempts.';
COMMENT ON COLUMN stepd.steps.cost IS 'What they cost, by the configured prices.';
COMMENT ON COLUMN stepd.steps.child IS 'The run that a workflow step has started.';

CREATE VIEW stepd.attempts AS
SELECT v.run, v.key, v.attempt::integer AS attempt, 'failed'::stepd.step_state AS state,
    stepd_engine.failure_field(v.data, 'started_at')::timestamptz AS started_at,
    coalesce(stepd_engine.failure_field(v.data, 'ended_at')::timestamptz, v.at) AS ended_at,
    coalesce(stepd_engine.failure_field(v.data, 'ended_at')::timestamptz, v.at) - stepd_engine.failure_field(v.data, 'started_at')::timestamptz AS duration,
    stepd_engine.failure_field(stepd_engine.failure_json(v.data) ->> 'failure', 'code') AS error_code,
    stepd_engine.failure_field(stepd_engine.failure_json(v.data) ->> 'failure', 'message') AS error_message,
    stepd_engine.failure_json(v.data) -> 'failure' AS error,
    stepd_engine.failure_field(v.data, 'retry_in_ms')::bigint * interval '1 millisecond' AS retry_in, v.epoch,
    (stepd_engine.failure_json(v.data) -> 'usage' ->> 'calls')::bigint AS calls,
    (stepd_engine.failure_json(v.data) -> 'usage' ->> 'tokens_in')::bigint AS tokens_in,
    (stepd_engine.failure_json(v.data) -> 'usage' ->> 'tokens_out')::bigint AS tokens_out,
    (stepd_engine.failure_json(v.data) -> 'usage' ->> 'cost')::numeric AS cost
FROM stepd_engine.events v WHERE v.kind = 'attempt_failed'
UNION ALL
SELECT s.run, s.key, s.attempts, s.state, b.began, s.ended_at, s.ended_at - b.began, s.error_code, s.error_message, s.error, NULL::interval, s.epoch,
    -- What a step has used up is the sum of its attempts; the failed ones have said theirs.
    s.calls - (SELECT coalesce(sum((stepd_engine.failure_json(v.data) -> 'usage' ->> 'calls')::bigint), 0)::bigint FROM stepd_engine.events v
        WHERE s.calls IS NOT NULL AND v.run = s.run AND v.key = s.key AND v.kind = 'attempt_failed'),
    s.tokens_in - (SELECT coalesce(sum((stepd_engine.failure_json(v.data) -> 'usage' ->> 'tokens_in')::bigint), 0)::bigint FROM stepd_engine.events v
        WHERE s.tokens_in IS NOT NULL AND v.run = s.run AND v.key = s.key AND v.kind = 'attempt_failed'),
    s.tokens_out - (SELECT coalesce(sum((stepd_engine.failure_json(v.data) -> 'usage' ->> 'tokens_out')::bigint), 0)::bigint FROM stepd_engine.events v
        WHERE s.tokens_out IS NOT NULL AND v.run = s.run AND v.key = s.key AND v.kind = 'attempt_failed'),
    s.cost - (SELECT coalesce(sum((stepd_engine.failure_json(v.data) -> 'usage' ->> 'cost')::numeric), 0)::numeric FROM stepd_engine.events v
        WHERE s.cost IS NOT NULL AND v.run = s.run AND v.key = s.key AND v.kind = 'attempt_failed')
FROM stepd.steps s
-- The last try's start: the step's own, or the end of the try before it and the pause between them.
CROSS JOIN LATERAL (SELECT CASE WHEN s.attempts = 1 THEN s.started_at ELSE (
    SELECT stepd_engine.failure_field(p.data, 'ended_at')::timestamptz
        + stepd_engine.failure_field(p.data, 'retry_in_ms')::bigint * interval '1 millisecond'
    FROM stepd_engine.events p WHERE p.run = s.run AND p.key = s.key AND p.kind = 'attempt_failed' AND p.attempt = s.attempts - 1
    ORDER BY p.id DESC LIMIT 1) END AS began) b
WHERE s.attempts > 0 AND s.state <> 'skipped'
    -- A failed try has its line in events already; those from before an operator's retry are of other tries with the same number.
    AND NOT EXISTS (SELECT FROM stepd_engine.events v
        WHERE v.run = s.run AND v.key = s.key AND v.kind = 'attempt_failed' AND v.attempt = s.attempts AND s.state NOT IN ('running', 'completed')
          AND v.epoch > coalesce((SELECT max(r.epoch) FROM stepd_engine.events r WHERE r.run = s.run AND r.kind = 'retried'), 0));
COMMENT ON VIEW stepd.attempts IS 'Every try of every step: the failed ones before, and the last or present one. Those of one run: WHERE run = … ORDER BY ended_at.';
COMMENT ON COLUMN stepd.attempts.run IS 'The run''s id.';
COMMENT ON COLUMN stepd.attempts.key IS 'The step''s key.';
COMMENT ON COLUMN stepd.attempts.attempt IS 'Which try, from 1; begins anew after an operator''s retry.';
COMMENT ON COLUMN stepd.attempts.state IS 'failed, or for the last try the state of its step.';
COMMENT ON COLUMN stepd.attempts.started_at IS 'When this try started; for the last of several, the end of the one before it and the pause between them.';
COMMENT ON COLUMN stepd.attempts.ended_at IS 'When this try ended; NULL while it runs.';
COMMENT ON COLUMN stepd.attempts.duration IS 'How long it took, where its start is known.';
COMMENT ON COLUMN stepd.attempts.error_code IS 'The failure''s code.';
COMMENT ON COLUMN stepd.attempts.error_message IS 'The failure in one sentence.';
COMMENT ON COLUMN stepd.attempts.error IS 'The failure with its details.';
COMMENT ON COLUMN stepd.attempts.retry_in IS 'The pause before the next try; NULL for the last one.';
COMMENT ON COLUMN stepd.attempts.epoch IS 'The claim under which it ran.';
COMMENT ON COLUMN stepd.attempts.calls IS 'Calls of models, those included that failed; NULL: it has called none.';
COMMENT ON COLUMN stepd.attempts.tokens_in IS 'Tokens of prompts; NULL: it has called no model.';
COMMENT ON COLUMN stepd.attempts.tokens_out IS 'Tokens of the model''s answers.';
COMMENT ON COLUMN stepd.attempts.cost IS 'What they cost, by the configured prices.';

-- The few steps that have called a model have an index of their own; their run is looked up by its key.
CREATE VIEW stepd.costs AS
SELECT c.run, c.key, r.workflow, r.state, r.queue, r.concurrency_key, r.labels, stepd_engine.uuid_time(c.run) AS created_at, r.ended_at,
    stepd_engine.failure_field(c.usage, 'calls')::bigint AS calls, stepd_engine.failure_field(c.usage, 'tokens_in')::bigint AS tokens_in,
    stepd_engine.failure_field(c.usage, 'tokens_out')::bigint AS tokens_out, stepd_engine.failure_field(c.usage, 'cost')::numeric AS cost
FROM stepd_engine.checkpoints c CROSS JOIN LATERAL (
    SELECT j.workflow, j.state, j.queue, j.concurrency_key, j.labels, NULL::timestamptz AS ended_at FROM stepd.jobs j
        WHERE j.id = c.run AND j.state NOT IN ('completed', 'failed', 'cancelled')
    UNION ALL
    SELECT e.workflow, e.state, e.queue, e.concurrency_key, e.labels, e.ended_at FROM stepd_engine.ended e WHERE e.id = c.run
) r
WHERE c.usage IS NOT NULL;
COMMENT ON VIEW stepd.costs IS 'What models have cost: a row for each step that has called any, to be summed by workflow, key, label or time. Of runs that are there; stepd.daily_costs has those too that are gone.';
COMMENT ON COLUMN stepd.costs.run IS 'The run''s id.';
COMMENT ON COLUMN stepd.costs.key IS 'The step''s key.';
COMMENT ON COLUMN stepd.costs.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.costs.state IS 'Where the run stands.';
COMMENT ON COLUMN stepd.costs.queue IS 'The queue it came through.';
COMMENT ON COLUMN stepd.costs.concurrency_key IS 'What the workflow''s concurrency limit counts by: most often the customer.';
COMMENT ON COLUMN stepd.costs.labels IS 'The run''s labels.';
COMMENT ON COLUMN stepd.costs.created_at IS 'When the run was enqueued.';
COMMENT ON COLUMN stepd.costs.ended_at IS 'When it ended; NULL while it lives.';
COMMENT ON COLUMN stepd.costs.calls IS 'Calls of models, over all attempts, those included that failed.';
COMMENT ON COLUMN stepd.costs.tokens_in IS 'Tokens of prompts.';
COMMENT ON COLUMN stepd.costs.tokens_out IS 'Tokens of the models'' answers.';
COMMENT ON COLUMN stepd.costs.cost IS 'What they cost, by the configured prices.';

-- One run at a time (LATERAL), so that a LIMIT reads no more runs than it shows.
CREATE VIEW stepd.history AS
SELECT r.id AS run, h.n AS seq, h.at, h.event, h.key, h.attempt, h.by_whom, h.epoch, h.data
FROM (SELECT j.id FROM stepd.jobs j WHERE j.state NOT IN ('completed', 'failed', 'cancelled') UNION ALL SELECT e.id FROM stepd_engine.ended e) r
CROSS JOIN LATERAL (
    SELECT row_number() OVER (ORDER BY p.part, p.at, p.rank, p.seq, p.tie) AS n, p.at, p.event, p.key, p.attempt::integer, p.by_whom, p.epoch, p.data
    FROM (
        SELECT 0 AS part, stepd_engine.uuid_time(r.id) AS at, 0 AS rank, 0 AS seq, 0::bigint AS tie, 'run enqueued' AS event,
            NULL::text AS key, NULL::smallint AS attempt,
            coalesce((SELECT j.created_by FROM stepd.jobs j WHERE j.id = r.id AND j.state NOT IN ('completed', 'failed', 'cancelled')), (SELECT e.created_by FROM stepd_engine.ended e WHERE e.id = r.id)) AS by_whom,
            NULL::integer AS epoch, NULL::json AS data
        UNION ALL
        -- A step's start is dated by its worker, which may be a moment behind the database.
        SELECT 1, least(coalesce(j.first_started_at, j.started_at), (SELECT min(s.started_at) FROM stepd.steps s WHERE s.run = r.id AND NOT (s.checkpoint AND s.attempts = 0))),
            1, 0, 0, 'run started', NULL, NULL, NULL, NULL, NULL FROM stepd.jobs j
            WHERE j.id = r.id AND j.state NOT IN ('completed', 'failed', 'cancelled') AND coalesce(j.first_started_at, j.started_at) IS NOT NULL
        UNION ALL
        SELECT 1, least(e.started_at, (SELECT min(s.started_at) FROM stepd.steps s WHERE s.run = r.id AND NOT (s.checkpoint AND s.attempts = 0))),
            1, 0, 0, 'run started', NULL, NULL, NULL, NULL, NULL FROM stepd_engine.ended e WHERE e.id = r.id AND e.started_at IS NOT NULL
        UNION ALL
        SELECT 1, s.started_at, 3, s.seq, 0, 'step started', s.key, NULL, NULL, s.epoch, json_build_object('kind', s.kind)
            FROM stepd.steps s WHERE s.run = r.id AND s.state <> 'skipped' AND NOT (s.checkpoint AND s.attempts = 0) AND s.kind <> 'end'
        UNION ALL
        SELECT 1, CASE WHEN s.state = 'waiting' THEN s.started_at ELSE coalesce(s.ended_at, s.started_at) END, CASE WHEN s.state = 'waiting' THEN 4 ELSE 5 END, s.seq, 0,
            'step ' || s.state, s.key, nullif(s.attempts, 0)::smallint, NULL, s.epoch,
            CASE WHEN s.state = 'waiting' THEN json_build_object('event', s.event, 'match', s.match, 'due_at', s.due_at) ELSE s.error END
            FROM stepd.steps s WHERE s.run = r.id AND s.state <> 'running'
            -- What a fork has kept was done in another run; the line of the fork tells it.
            AND NOT (s.checkpoint AND s.attempts = 0) AND s.kind <> 'end'
            -- The pause before a retry is told by the attempt that failed.
            AND NOT (s.state = 'waiting' AND s.attempts > 0 AND s.due_at IS NOT NULL AND s.event IS NULL AND s.kind NOT IN ('sleep', 'wait', 'approve', 'workflow'))
        UNION ALL
        SELECT 1, s.started_at, 6, s.seq, 0, 'run ending', NULL, NULL, NULL, s.epoch, s.decision FROM stepd.steps s WHERE s.run = r.id AND s.kind = 'end'
        UNION ALL
        -- The last failure of a step is written with the step's end, and stands before it.
        SELECT 1, CASE WHEN v.kind = 'attempt_failed' THEN least(v.at, (SELECT s.ended_at FROM stepd.steps s WHERE s.run = r.id AND s.key = v.key)) ELSE v.at END,
            CASE WHEN v.kind = 'attempt_failed' THEN 4 ELSE 6 END, 0, v.id, replace(v.kind, '_', ' '), v.key, v.attempt, v.by_whom, v.epoch,
            CASE WHEN v.kind = 'event_received' THEN json_build_object('signal', v.data) ELSE stepd_engine.failure_json(v.data) END
            FROM stepd_engine.events v WHERE v.run = r.id AND v.kind <> 'called'
        UNION ALL
        SELECT 2, e.ended_at, 9, 0, 0, 'run ' || e.state, NULL, NULL, NULL, e.epoch, stepd_engine.failure_json(e.error) FROM stepd_engine.ended e WHERE e.id = r.id
    ) p
) h;
COMMENT ON VIEW stepd.history IS 'The audit trail: what happened to a run, strictly ordered. WHERE run = … ORDER BY seq.';
COMMENT ON COLUMN stepd.history.run IS 'The run''s id.';
COMMENT ON COLUMN stepd.history.seq IS 'The place in the run''s trail, from 1. A number may shift when a late record comes in before it.';
COMMENT ON COLUMN stepd.history.at IS 'When it happened.';
COMMENT ON COLUMN stepd.history.event IS 'run enqueued, run started, step started, step completed (failed, skipped, waiting, cancelled), run ending (what is to be done at its end begins), attempt failed, resume scheduled, resumed, crashed, taken over, released, event received, cancel requested, cancelled, pause requested, paused, unpaused, retried, forked, approved, rejected, signalled, run completed (failed, cancelled).';
COMMENT ON COLUMN stepd.history.key IS 'The step''s key, where it concerns a step.';
COMMENT ON COLUMN stepd.history.attempt IS 'Which attempt of the step.';
COMMENT ON COLUMN stepd.history.by_whom IS 'The database role of the enqueuer or operator.';
COMMENT ON COLUMN stepd.history.epoch IS 'The claim under which it happened.';
COMMENT ON COLUMN stepd.history.data IS 'What else is known, as json: a failure, the dead worker, the worker that took the run up again, an operator''s reason.';

CREATE VIEW stepd.waiting AS
SELECT c.run, c.key,
    CASE WHEN c.kind = 'approve' THEN 'approval'
        WHEN c.event IS NOT NULL THEN 'event' WHEN c.kind = 'sleep' THEN 'sleep' WHEN c.kind = 'workflow' THEN 'child' ELSE c.kind END AS waits_for,
    c.started_at AS since, greatest(statement_timestamp(), c.started_at) - c.started_at AS waited, c.due_at,
    CASE WHEN c.kind = 'approve' THEN stepd_engine.failure_field(c.decision, 'prompt') END AS prompt,
    CASE WHEN c.kind = 'approve' AND c.decision LIKE '%,"schema":%' THEN stepd_engine.failure_json(c.decision) -> 'schema' END AS schema,
    c.event, c.match,
    (SELECT j.workflow FROM stepd.jobs j WHERE j.id = c.run) AS workflow,
    (SELECT j.state FROM stepd.jobs j WHERE j.id = c.run) AS run_state
FROM stepd_engine.checkpoints c WHERE c.state = 'waiting';
COMMENT ON VIEW stepd.waiting IS 'Every step that waits: for a person, an event, a time, or another run.';
COMMENT ON COLUMN stepd.waiting.run IS 'The run''s id.';
COMMENT ON COLUMN stepd.waiting.key IS 'The step''s key.';
COMMENT ON COLUMN stepd.waiting.waits_for IS 'approval, event, sleep, or child.';
COMMENT ON COLUMN stepd.waiting.since IS 'Since when.';
COMMENT ON COLUMN stepd.waiting.waited IS 'For how long already.';
COMMENT ON COLUMN stepd.waiting.due_at IS 'When the sleep ends, or the wait times out; NULL: it waits for ever.';
COMMENT ON COLUMN stepd.waiting.prompt IS 'The question of an approval: answer with stepd.approve or stepd.reject.';
COMMENT ON COLUMN stepd.waiting.schema IS 'The answer that is asked for with it, as a JSON Schema: hand it in as stepd.approve(id, step, answer => …); NULL: a yes or a no will do.';
COMMENT ON COLUMN stepd.waiting.event IS 'The event''s or signal''s name: answer with stepd.emit or stepd.signal.';
COMMENT ON COLUMN stepd.waiting.match IS 'What its payload must contain.';
COMMENT ON COLUMN stepd.waiting.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.waiting.run_state IS 'waiting; or running, where other steps of the run still run.';

CREATE VIEW stepd.workflows AS
SELECT w.name, w.retired_at IS NULL AS active, w.loaded_at, w.retired_at, w.queue, w.priority::integer AS priority, w.source, w.definition,
    (SELECT d.hash FROM stepd_engine.definitions d WHERE d.id = w.definition) AS hash, w.loaded_by, w.flow
FROM stepd_engine.workflows w;
COMMENT ON VIEW stepd.workflows IS 'The workflows that jobs may name, and those that are retired.';
COMMENT ON COLUMN stepd.workflows.name IS 'What stepd.jobs.workflow names.';
COMMENT ON COLUMN stepd.workflows.active IS 'May new jobs name it?';
COMMENT ON COLUMN stepd.workflows.loaded_at IS 'When its present definition was loaded.';
COMMENT ON COLUMN stepd.workflows.retired_at IS 'When it was withdrawn.';
COMMENT ON COLUMN stepd.workflows.queue IS 'The queue of jobs that name none.';
COMMENT ON COLUMN stepd.workflows.priority IS 'The priority of jobs that name none.';
COMMENT ON COLUMN stepd.workflows.source IS 'Where it came from: the file, or the binary.';
COMMENT ON COLUMN stepd.workflows.definition IS 'The definition that new runs are pinned to.';
COMMENT ON COLUMN stepd.workflows.hash IS 'That definition''s content hash.';
COMMENT ON COLUMN stepd.workflows.loaded_by IS 'The worker that loaded it.';
COMMENT ON COLUMN stepd.workflows.flow IS 'Its unique, concurrency and rate settings; NULL: it has none.';

CREATE VIEW stepd.schedules AS
SELECT s.workflow, NOT s.paused AS active, s.next_at, s.cron, s.timezone, s.overlap, s.catch_up, s.fired_at, s.run,
    coalesce((SELECT j.state FROM stepd.jobs j WHERE j.id = s.run), (SELECT e.state FROM stepd_engine.ended e WHERE e.id = s.run)) AS run_state, cardinality(s.pending) AS pending, s.skipped_at, s.paused_by, s.paused_at, s.loaded_at
FROM stepd_engine.schedules s;
COMMENT ON VIEW stepd.schedules IS 'The schedules of workflows, as their files say, and when they start the next run.';
COMMENT ON COLUMN stepd.schedules.workflow IS 'The workflow that it starts.';
COMMENT ON COLUMN stepd.schedules.active IS 'Does it start runs? False: an operator has paused it.';
COMMENT ON COLUMN stepd.schedules.next_at IS 'The next instant; NULL while it is paused, or has no further one.';
COMMENT ON COLUMN stepd.schedules.cron IS 'When: five fields, as the file says.';
COMMENT ON COLUMN stepd.schedules.timezone IS 'By which clock: an IANA name.';
COMMENT ON COLUMN stepd.schedules.overlap IS 'While its last run is unfinished: skip the instant, queue it, or allow a second run.';
COMMENT ON COLUMN stepd.schedules.catch_up IS 'Of the instants that passed while no worker was there: none, the last, or all (the latest 100).';
COMMENT ON COLUMN stepd.schedules.fired_at IS 'The last instant whose run was enqueued.';
COMMENT ON COLUMN stepd.schedules.run IS 'The run that it started last.';
COMMENT ON COLUMN stepd.schedules.run_state IS 'How that run stands; NULL: it has been pruned.';
COMMENT ON COLUMN stepd.schedules.pending IS 'How many instants wait for it to end (overlap: queue).';
COMMENT ON COLUMN stepd.schedules.skipped_at IS 'The last instant that was left out because a run was unfinished.';
COMMENT ON COLUMN stepd.schedules.paused_by IS 'Who paused it: stepd.pause_schedule, stepd.unpause_schedule.';
COMMENT ON COLUMN stepd.schedules.paused_at IS 'Since when it is paused.';
COMMENT ON COLUMN stepd.schedules.loaded_at IS 'Since when it stands so.';

CREATE VIEW stepd.queues AS
-- The live runs are read once.
WITH d AS MATERIALIZED (
    SELECT j.queue, count(*) FILTER (WHERE j.state = 'queued') AS queued, count(*) FILTER (WHERE j.state = 'held') AS held,
        count(*) FILTER (WHERE j.state = 'running') AS running, count(*) FILTER (WHERE j.state = 'scheduled') AS scheduled,
        count(*) FILTER (WHERE j.state = 'waiting') AS waiting, count(*) FILTER (WHERE j.state = 'resuming') AS resuming,
        count(*) FILTER (WHERE j.state = 'paused') AS paused, min(j.ready_at) FILTER (WHERE j.state = 'queued') AS oldest_ready_at
    FROM stepd.jobs j WHERE j.state NOT IN ('completed', 'failed', 'cancelled') GROUP BY j.queue
)
SELECT n.name, coalesce(q.paused, false) AS paused, q.paused_by, q.paused_at, q.max_running, coalesce(q.exclusive, false) AS exclusive,
    coalesce(d.queued, 0) AS queued, coalesce(d.held, 0) AS held, coalesce(d.running, 0) AS running, coalesce(d.scheduled, 0) AS scheduled,
    coalesce(d.waiting, 0) AS waiting, coalesce(d.resuming, 0) AS resuming, coalesce(d.paused, 0) AS runs_paused,
    d.oldest_ready_at, greatest(statement_timestamp(), d.oldest_ready_at) - d.oldest_ready_at AS oldest_ready_age
FROM (SELECT name FROM stepd_engine.queues UNION SELECT queue FROM stepd_engine.workflows WHERE retired_at IS NULL UNION SELECT queue FROM d) n
LEFT JOIN stepd_engine.queues q ON q.name = n.name
LEFT JOIN d ON d.queue = n.name;
COMMENT ON VIEW stepd.queues IS 'Queues with what stands in them. Counts every live run, not the ended ones.';
COMMENT ON COLUMN stepd.queues.name IS 'The queue''s name.';
COMMENT ON COLUMN stepd.queues.paused IS 'Has an operator stopped its claims? stepd.pause_queue, stepd.unpause_queue.';
COMMENT ON COLUMN stepd.queues.paused_by IS 'Who paused it.';
COMMENT ON COLUMN stepd.queues.paused_at IS 'Since when it is paused.';
COMMENT ON COLUMN stepd.queues.max_running IS 'The most runs that may be queued or running at once (stepd.limit_queue); NULL: no limit.';
COMMENT ON COLUMN stepd.queues.exclusive IS 'Is it served only by workers that name it?';
COMMENT ON COLUMN stepd.queues.queued IS 'Runs that are ready to claim.';
COMMENT ON COLUMN stepd.queues.held IS 'Runs that a limit or a pause keeps back.';
COMMENT ON COLUMN stepd.queues.running IS 'Runs that a worker has.';
COMMENT ON COLUMN stepd.queues.scheduled IS 'Runs whose time is ahead.';
COMMENT ON COLUMN stepd.queues.waiting IS 'Runs that wait for a time, an event or a person.';
COMMENT ON COLUMN stepd.queues.resuming IS 'Failed runs whose next automatic resume is due.';
COMMENT ON COLUMN stepd.queues.runs_paused IS 'Runs that an operator has paused one by one.';
COMMENT ON COLUMN stepd.queues.oldest_ready_at IS 'When the longest-waiting queued run became ready.';
COMMENT ON COLUMN stepd.queues.oldest_ready_age IS 'How long it has been ready: the first figure to alert on.';

CREATE VIEW stepd.workers AS
SELECT w.id, stepd_engine.worker_alive(w.beat_at, w.lease_ms) AS alive, w.stopping, w.host, w.pid, w.started_at, w.beat_at,
    greatest(statement_timestamp(), w.beat_at) - w.beat_at AS beat_age, coalesce(r.n, 0) AS running, w.slots, coalesce(r.runs, '{}') AS runs, w.queues, w.version,
    w.lease_ms * interval '1 millisecond' AS lease, w.facts
FROM stepd_engine.workers w
LEFT JOIN (SELECT j.worker, count(*) AS n, (array_agg(j.id ORDER BY j.id))[1:100] AS runs
    FROM stepd.jobs j WHERE j.state = 'running' GROUP BY j.worker) r ON r.worker = w.id;
COMMENT ON VIEW stepd.workers IS 'The daemon processes that are registered, and what they run.';
COMMENT ON COLUMN stepd.workers.id IS 'One random id for each registration.';
COMMENT ON COLUMN stepd.workers.alive IS 'Is its last heartbeat younger than its lease? False: a take-over is due.';
COMMENT ON COLUMN stepd.workers.stopping IS 'Is it ending: finishing its steps, claiming no more?';
COMMENT ON COLUMN stepd.workers.host IS 'The host''s name.';
COMMENT ON COLUMN stepd.workers.pid IS 'The process id on that host.';
COMMENT ON COLUMN stepd.workers.started_at IS 'When it registered.';
COMMENT ON COLUMN stepd.workers.beat_at IS 'Its last heartbeat.';
COMMENT ON COLUMN stepd.workers.beat_age IS 'How old that is.';
COMMENT ON COLUMN stepd.workers.running IS 'How many runs it has.';
COMMENT ON COLUMN stepd.workers.slots IS 'How many it takes at once.';
COMMENT ON COLUMN stepd.workers.runs IS 'Their ids, the first hundred.';
COMMENT ON COLUMN stepd.workers.queues IS 'The queues it serves; NULL: all that are not exclusive.';
COMMENT ON COLUMN stepd.workers.version IS 'The daemon''s version.';
COMMENT ON COLUMN stepd.workers.lease IS 'How long its lease outlives its last heartbeat.';
COMMENT ON COLUMN stepd.workers.facts IS 'What may explain its death: memory used and allowed, and kills for want of memory, at the last heartbeat; under seen, what another worker on its machine saw when it was taken over.';

CREATE VIEW stepd.locks AS
SELECT 'lease' AS kind, j.id::text AS name, j.id AS run, j.workflow, j.state, j.worker, w.host || ':' || w.pid AS holder,
    coalesce(j.first_started_at, j.started_at) AS since, w.beat_at + w.lease_ms * interval '1 millisecond' AS expires_at, j.epoch
FROM stepd.jobs j LEFT JOIN stepd_engine.workers w ON w.id = j.worker WHERE j.state = 'running'
UNION ALL
SELECT 'key', j.workflow || ' ' || j.concurrency_key, j.id, j.workflow, j.state, j.worker, j.id::text, coalesce(j.first_started_at, j.started_at), NULL, j.epoch
FROM stepd.jobs j WHERE j.concurrency_key IS NOT NULL AND (j.lane <= 2 OR j.lane = 3 AND j.error IS NOT NULL) AND j.state IN ('queued', 'running', 'resuming')
    AND EXISTS (SELECT FROM stepd_engine.workflows f WHERE f.name = j.workflow AND f.flow ? 'concurrency');
COMMENT ON VIEW stepd.locks IS 'Who keeps what from whom: the leases, by which no second worker has a run, and the places of concurrency keys.';
COMMENT ON COLUMN stepd.locks.kind IS 'lease: a worker has a run. key: a run has a place of a concurrency key, of which there are as many as its limit says.';
COMMENT ON COLUMN stepd.locks.name IS 'What is locked: of a lease the run''s id, of a key the workflow and the key.';
COMMENT ON COLUMN stepd.locks.run IS 'The run.';
COMMENT ON COLUMN stepd.locks.workflow IS 'Its workflow.';
COMMENT ON COLUMN stepd.locks.state IS 'Where it stands. A run that is queued or resuming keeps its key''s place.';
COMMENT ON COLUMN stepd.locks.worker IS 'The worker that has the run; NULL: none has.';
COMMENT ON COLUMN stepd.locks.holder IS 'Who holds it: of a lease the worker, as host:pid (NULL: it is gone, and the sweep takes over); of a key the run.';
COMMENT ON COLUMN stepd.locks.since IS 'When the run was first claimed.';
COMMENT ON COLUMN stepd.locks.expires_at IS 'When the lease would end without another heartbeat; NULL: a key has no time, its place is given back when the run waits or ends.';
COMMENT ON COLUMN stepd.locks.epoch IS 'The claim that it was given under: whoever writes with an older one is refused.';

CREATE VIEW stepd.definitions AS
SELECT d.id, d.workflow, d.hash, d.created_at, d.used_at, d.body FROM stepd_engine.definitions d;
COMMENT ON VIEW stepd.definitions IS 'The definitions that workflows and runs name.';
COMMENT ON COLUMN stepd.definitions.id IS 'What stepd.runs.definition and stepd.workflows.definition name.';
COMMENT ON COLUMN stepd.definitions.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.definitions.hash IS 'The hash of the definition''s content.';
COMMENT ON COLUMN stepd.definitions.created_at IS 'When it was first loaded.';
COMMENT ON COLUMN stepd.definitions.used_at IS 'When a worker last said that it has it, to the hour.';
COMMENT ON COLUMN stepd.definitions.body IS 'The file''s text; NULL for a workflow that is Rust code.';

CREATE VIEW stepd.breakers AS
SELECT b.workflow, b.target AS step, b.opened_at, b.closed_at, b.probe, b.next_at,
    (SELECT count(*) FROM stepd.jobs j WHERE j.workflow = b.workflow AND j.target = b.target AND j.target IS NOT NULL AND j.state = 'resuming') AS runs
FROM stepd_engine.breakers b;
COMMENT ON VIEW stepd.breakers IS 'Steps at which so many runs have failed that their automatic resumes stand still, but for one that probes.';
COMMENT ON COLUMN stepd.breakers.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.breakers.step IS 'The step''s key, without the numbers of items: docs[].text.';
COMMENT ON COLUMN stepd.breakers.opened_at IS 'Since when.';
COMMENT ON COLUMN stepd.breakers.closed_at IS 'When a probe succeeded and all went on; NULL: it stands open.';
COMMENT ON COLUMN stepd.breakers.probe IS 'The run that probes; NULL: none at present.';
COMMENT ON COLUMN stepd.breakers.next_at IS 'No probe before this time.';
COMMENT ON COLUMN stepd.breakers.runs IS 'How many runs wait there to be resumed.';

CREATE VIEW stepd.settings AS
SELECT s.on_unknown_workflow, s.notify, s.event_ttl, s.max_input_bytes, s.breaker_after, s.breaker_probe FROM stepd_engine.settings s;
COMMENT ON VIEW stepd.settings IS 'Settings that the database itself knows: one row.';
COMMENT ON COLUMN stepd.settings.on_unknown_workflow IS 'What an INSERT with an unknown workflow does: refuse (SD001) or park (held until the workflow is loaded).';
COMMENT ON COLUMN stepd.settings.notify IS 'Wake the workers by NOTIFY, once per statement; without it they poll.';
COMMENT ON COLUMN stepd.settings.event_ttl IS 'How long an emitted event is kept for runs that begin to wait for it later.';
COMMENT ON COLUMN stepd.settings.max_input_bytes IS 'The largest input of a job, and payload of a signal or event, in bytes of its JSON text.';
COMMENT ON COLUMN stepd.settings.breaker_after IS 'When so many runs of a workflow wait to be resumed after a failure at the same step, their resumes stand still but for one that probes.';
COMMENT ON COLUMN stepd.settings.breaker_probe IS 'How far apart such probes are.';

-- Of many ended runs what the statistics say, of few the count. security_barrier stays off: it reads no more than it shows.
CREATE VIEW stepd.states AS
SELECT j.state, count(*) AS runs, false AS estimated FROM stepd.jobs j WHERE j.state NOT IN ('completed', 'failed', 'cancelled') GROUP BY j.state
UNION ALL
SELECT e.state, count(*), false FROM stepd_engine.ended e
    WHERE (SELECT c.reltuples < 200000 FROM pg_catalog.pg_class c WHERE c.oid = 'stepd_engine.ended'::regclass) GROUP BY e.state
UNION ALL
SELECT v.state::stepd.run_state, round(v.part * c.reltuples)::bigint, true
    FROM pg_catalog.pg_class c, pg_catalog.pg_stats s, unnest(s.most_common_vals::text::text[], s.most_common_freqs) AS v(state, part)
    WHERE c.oid = 'stepd_engine.ended'::regclass AND c.reltuples >= 200000
        AND s.schemaname = 'stepd_engine' AND s.tablename = 'ended' AND s.attname = 'state';
COMMENT ON VIEW stepd.states IS 'How many runs there are in each state.';
COMMENT ON COLUMN stepd.states.state IS 'The state.';
COMMENT ON COLUMN stepd.states.runs IS 'How many runs are in it.';
COMMENT ON COLUMN stepd.states.estimated IS 'Is that what the statistics say, and not a count? So it is for ended runs where there are many.';
