-- Why: what is left of the history when its runs are gone: by day, workflow and state how many there were, how long they took, what
-- failed them, what they cost. Rules of this file
--   * The statement that ends a run notes it in stepd_engine.tallies, in its own transaction: so a run is counted exactly when it has
--     ended, whoever dies, and however late somebody commits. There is no watermark that a late commit could fall behind.
--   * One trigger a statement, not a row: a batch of the writer notes a few lines for hundreds of runs. It stands on the table, so that
--     no statement that ends a run can forget it.
--     Measured (Postgres 15): 6 µs for a statement that ends none, 80 µs for one that ends any, 1.2 µs and 2.3 bytes of WAL for each of
--     200 runs; an index on ended_at, along which `ended` could be walked afterwards, takes 0.9 µs and 64 bytes a run before the walk.
--   * A run that is retried has not ended: stepd.retry notes it with the sign turned. Pruning notes nothing.
--   * stepd_engine.fold adds the tallies up and removes them in one statement: each is counted once.

CREATE TABLE stepd_engine.tallies (
    day date NOT NULL,
    state stepd.run_state NOT NULL,
    bucket smallint,
    runs integer NOT NULL,
    resumes bigint NOT NULL,
    crashes bigint NOT NULL,
    calls bigint,
    tokens_in bigint,
    tokens_out bigint,
    ms double precision,
    waited_ms double precision,
    workflow text NOT NULL,
    step text,
    code text,
    cost numeric
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_insert_threshold = -1,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE stepd_engine.tallies IS 'Ends of runs that the daily figures do not hold yet, summed by statement. Only ever inserted and removed; the truncation of a vacuum would stop the writer.';
COMMENT ON COLUMN stepd_engine.tallies.day IS 'The day of the end, by UTC.';
COMMENT ON COLUMN stepd_engine.tallies.state IS 'How the runs ended.';
COMMENT ON COLUMN stepd_engine.tallies.bucket IS 'How long they took: see stepd_engine.bucket_of; NULL: they had not started.';
COMMENT ON COLUMN stepd_engine.tallies.runs IS 'How many; less than nothing where their end is taken back.';
COMMENT ON COLUMN stepd_engine.tallies.resumes IS 'Their automatic resumes.';
COMMENT ON COLUMN stepd_engine.tallies.crashes IS 'The workers that died with them.';
COMMENT ON COLUMN stepd_engine.tallies.calls IS 'Calls of models; NULL: none was called.';
COMMENT ON COLUMN stepd_engine.tallies.tokens_in IS 'Tokens of prompts; NULL: no model was called.';
COMMENT ON COLUMN stepd_engine.tallies.tokens_out IS 'Tokens of the models'' answers.';
COMMENT ON COLUMN stepd_engine.tallies.ms IS 'Milliseconds from their first claim to their end; NULL: they had not started.';
COMMENT ON COLUMN stepd_engine.tallies.waited_ms IS 'Milliseconds from when they were ready until their first claim; NULL: they had not started.';
COMMENT ON COLUMN stepd_engine.tallies.workflow IS 'Their workflow.';
COMMENT ON COLUMN stepd_engine.tallies.step IS 'The step that failed them, without the numbers of items; NULL unless failed.';
COMMENT ON COLUMN stepd_engine.tallies.code IS 'The failure''s code; NULL unless failed.';
COMMENT ON COLUMN stepd_engine.tallies.cost IS 'What their models cost.';

CREATE TABLE stepd_engine.daily (
    day date NOT NULL,
    workflow text NOT NULL,
    state stepd.run_state NOT NULL,
    runs bigint NOT NULL,
    resumes bigint NOT NULL,
    crashes bigint NOT NULL,
    ms double precision,
    waited_ms double precision,
    calls bigint,
    tokens_in bigint,
    tokens_out bigint,
    cost numeric,
    CONSTRAINT daily_pkey PRIMARY KEY (day, workflow, state)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE stepd_engine.daily IS 'The figures of a day, a workflow and a state: kept when the runs are gone.';
COMMENT ON COLUMN stepd_engine.daily.day IS 'The day of the end, by UTC.';
COMMENT ON COLUMN stepd_engine.daily.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_engine.daily.state IS 'How the runs ended.';
COMMENT ON COLUMN stepd_engine.daily.runs IS 'How many.';
COMMENT ON COLUMN stepd_engine.daily.resumes IS 'Their automatic resumes.';
COMMENT ON COLUMN stepd_engine.daily.crashes IS 'The workers that died with them.';
COMMENT ON COLUMN stepd_engine.daily.ms IS 'Milliseconds from first claim to end, of all that had started.';
COMMENT ON COLUMN stepd_engine.daily.waited_ms IS 'Milliseconds from when they were ready until their first claim, of all that had started.';
COMMENT ON COLUMN stepd_engine.daily.calls IS 'Calls of models; NULL: none was called.';
COMMENT ON COLUMN stepd_engine.daily.tokens_in IS 'Tokens of prompts; NULL: no model was called.';
COMMENT ON COLUMN stepd_engine.daily.tokens_out IS 'Tokens of the models'' answers.';
COMMENT ON COLUMN stepd_engine.daily.cost IS 'What they cost.';
COMMENT ON INDEX stepd_engine.daily_pkey IS 'A day''s figures, by workflow and state.';

CREATE TABLE stepd_engine.daily_durations (
    day date NOT NULL,
    workflow text NOT NULL,
    state stepd.run_state NOT NULL,
    bucket smallint NOT NULL,
    runs bigint NOT NULL,
    CONSTRAINT daily_durations_pkey PRIMARY KEY (day, workflow, state, bucket)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE stepd_engine.daily_durations IS 'How long the runs of a day took: a histogram, from which percentiles over any days are read.';
COMMENT ON COLUMN stepd_engine.daily_durations.day IS 'The day of the end, by UTC.';
COMMENT ON COLUMN stepd_engine.daily_durations.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_engine.daily_durations.state IS 'How the runs ended.';
COMMENT ON COLUMN stepd_engine.daily_durations.bucket IS 'Which span: see stepd_engine.bucket_of.';
COMMENT ON COLUMN stepd_engine.daily_durations.runs IS 'How many took so long.';
COMMENT ON INDEX stepd_engine.daily_durations_pkey IS 'The histogram of a day, workflow and state, in order.';

CREATE TABLE stepd_engine.daily_failures (
    day date NOT NULL,
    workflow text NOT NULL,
    step text NOT NULL,
    code text NOT NULL,
    runs bigint NOT NULL,
    CONSTRAINT daily_failures_pkey PRIMARY KEY (day, workflow, step, code)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE stepd_engine.daily_failures IS 'What failed the runs of a day: by step and code.';
COMMENT ON COLUMN stepd_engine.daily_failures.day IS 'The day of the end, by UTC.';
COMMENT ON COLUMN stepd_engine.daily_failures.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_engine.daily_failures.step IS 'The step that failed them, without the numbers of items; empty: no step did.';
COMMENT ON COLUMN stepd_engine.daily_failures.code IS 'The failure''s code; empty: none was recorded.';
COMMENT ON COLUMN stepd_engine.daily_failures.runs IS 'How many runs.';
COMMENT ON INDEX stepd_engine.daily_failures_pkey IS 'A day''s failures, by workflow, step and code.';

-- Apart from the tallies, which most runs are in: a row for each key, and only of runs that have called a model.
CREATE TABLE stepd_engine.spendings (
    day date NOT NULL,
    workflow text NOT NULL,
    key text NOT NULL,
    runs integer NOT NULL,
    calls bigint NOT NULL,
    tokens_in bigint NOT NULL,
    tokens_out bigint NOT NULL,
    cost numeric NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_insert_threshold = -1,
        autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE stepd_engine.spendings IS 'What ended runs have spent on models, not yet in the daily costs. Only ever inserted and removed.';
COMMENT ON COLUMN stepd_engine.spendings.day IS 'The day of the end, by UTC.';
COMMENT ON COLUMN stepd_engine.spendings.workflow IS 'Their workflow.';
COMMENT ON COLUMN stepd_engine.spendings.key IS 'Their concurrency key; empty: none.';
COMMENT ON COLUMN stepd_engine.spendings.runs IS 'How many; less than nothing where their end is taken back.';
COMMENT ON COLUMN stepd_engine.spendings.calls IS 'Calls of models.';
COMMENT ON COLUMN stepd_engine.spendings.tokens_in IS 'Tokens of prompts.';
COMMENT ON COLUMN stepd_engine.spendings.tokens_out IS 'Tokens of the models'' answers.';
COMMENT ON COLUMN stepd_engine.spendings.cost IS 'What they cost.';

CREATE TABLE stepd_engine.daily_costs (
    day date NOT NULL,
    workflow text NOT NULL,
    key text NOT NULL,
    runs bigint NOT NULL,
    calls bigint NOT NULL,
    tokens_in bigint NOT NULL,
    tokens_out bigint NOT NULL,
    cost numeric NOT NULL,
    CONSTRAINT daily_costs_pkey PRIMARY KEY (day, workflow, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE stepd_engine.daily_costs IS 'What the runs of a day have spent on models, by workflow and concurrency key: kept when the runs are gone.';
COMMENT ON COLUMN stepd_engine.daily_costs.day IS 'The day of the end, by UTC.';
COMMENT ON COLUMN stepd_engine.daily_costs.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd_engine.daily_costs.key IS 'The concurrency key; empty: none.';
COMMENT ON COLUMN stepd_engine.daily_costs.runs IS 'How many runs have called a model.';
COMMENT ON COLUMN stepd_engine.daily_costs.calls IS 'Calls of models.';
COMMENT ON COLUMN stepd_engine.daily_costs.tokens_in IS 'Tokens of prompts.';
COMMENT ON COLUMN stepd_engine.daily_costs.tokens_out IS 'Tokens of the models'' answers.';
COMMENT ON COLUMN stepd_engine.daily_costs.cost IS 'What they cost.';
COMMENT ON INDEX stepd_engine.daily_costs_pkey IS 'A day''s costs, by workflow and key.';

-- Four buckets for each doubling: what is read from them is at most 9 % off. Not STRICT, which would keep it from being inlined, and it
-- is called for each run that ends; 4 / ln 2 is 5.77.
CREATE FUNCTION stepd_engine.bucket_of(took interval) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN took IS NOT NULL
        THEN ceil(5.770780163555854::double precision * ln(least(greatest(date_part('epoch', took) * 1000, 1), 1e13)))::smallint END;
COMMENT ON FUNCTION stepd_engine.bucket_of(interval) IS 'The bucket n of a duration: over 2^((n-1)/4) ms and up to 2^(n/4) ms; 0: up to 1 ms.';

CREATE FUNCTION stepd_engine.bucket_end(bucket integer) RETURNS interval LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN power(2::double precision, bucket / 4.0::double precision) * interval '1 millisecond';
COMMENT ON FUNCTION stepd_engine.bucket_end(integer) IS 'The longest duration of a bucket.';

CREATE FUNCTION stepd_engine.bucket_middle(bucket integer) RETURNS interval LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN bucket <= 0 THEN interval '1 millisecond' ELSE power(2::double precision, (bucket - 0.5::double precision) / 4.0::double precision) * interval '1 millisecond' END;
COMMENT ON FUNCTION stepd_engine.bucket_middle(integer) IS 'The duration that stands for a bucket: at most 9 % from any other in it.';

-- As stepd.runs says it. Looked up for failed runs alone.
CREATE FUNCTION stepd_engine.failing_step(run_ uuid, last_key text, last_output text) RETURNS text LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(stepd_engine.target_of(CASE WHEN last_output IS NULL AND last_key IS NOT NULL THEN last_key ELSE (
        SELECT c.key FROM stepd_engine.checkpoints c WHERE c.run = run_ AND NOT c.checkpoint AND c.state IN ('failed', 'cancelled')
            ORDER BY (c.state = 'failed') DESC, c.seq DESC LIMIT 1) END), '')
$$;
COMMENT ON FUNCTION stepd_engine.failing_step(uuid, text, text) IS 'The step that failed an ended run, without the numbers of items; empty: no step did.';

CREATE FUNCTION stepd_engine.spent(run_ uuid) RETURNS TABLE (calls bigint, tokens_in bigint, tokens_out bigint, cost numeric) LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT sum(coalesce(stepd_engine.failure_field(c.usage, 'calls')::bigint, 0))::bigint, sum(coalesce(stepd_engine.failure_field(c.usage, 'tokens_in')::bigint, 0))::bigint,
        sum(coalesce(stepd_engine.failure_field(c.usage, 'tokens_out')::bigint, 0))::bigint, sum(coalesce(stepd_engine.failure_field(c.usage, 'cost')::numeric, 0))
    FROM stepd_engine.checkpoints c WHERE c.run = run_ AND c.usage IS NOT NULL
$$;
COMMENT ON FUNCTION stepd_engine.spent(uuid) IS 'What a run has spent on models; NULL: it has called none.';

-- Sums what one statement has ended. By index whatever the statistics say: its plan is kept.
CREATE FUNCTION stepd_engine.ended_after_insert() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    models boolean;
BEGIN
    -- Most batches of a writer end no run.
    IF NOT EXISTS (SELECT FROM fresh) THEN RETURN NULL; END IF;
    -- Where no model is called, none is looked for.
    models := EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.usage IS NOT NULL);
    INSERT INTO stepd_engine.tallies (day, state, bucket, runs, resumes, crashes, calls, tokens_in, tokens_out, ms, waited_ms, workflow, step, code, cost)
        SELECT (e.ended_at AT TIME ZONE 'UTC')::date, e.state, stepd_engine.bucket_of(e.ended_at - e.started_at), count(*), sum(e.resumes), sum(e.crashes),
            sum(u.calls)::bigint, sum(u.tokens_in)::bigint, sum(u.tokens_out)::bigint, sum(date_part('epoch', e.ended_at - e.started_at) * 1000),
            sum(greatest(0, date_part('epoch', e.started_at - e.ready_at) * 1000)), e.workflow,
            CASE WHEN e.state = 'failed' THEN stepd_engine.failing_step(e.id, e.last_key, e.last_output) END,
            CASE WHEN e.state = 'failed' THEN coalesce(left(stepd_engine.failure_field(e.error, 'code'), 200), '') END, sum(u.cost)
        FROM fresh e CROSS JOIN LATERAL (
            SELECT sum(stepd_engine.failure_field(c.usage, 'calls')::bigint) AS calls,
                sum(stepd_engine.failure_field(c.usage, 'tokens_in')::bigint) AS tokens_in, sum(stepd_engine.failure_field(c.usage, 'tokens_out')::bigint) AS tokens_out,
                sum(stepd_engine.failure_field(c.usage, 'cost')::numeric) AS cost FROM stepd_engine.checkpoints c WHERE models AND c.run = e.id AND c.usage IS NOT NULL) u
        GROUP BY 1, 2, 3, 12, 13, 14;
    IF models THEN
        INSERT INTO stepd_engine.spendings (day, workflow, key, runs, calls, tokens_in, tokens_out, cost)
            SELECT (e.ended_at AT TIME ZONE 'UTC')::date, e.workflow, coalesce(e.concurrency_key, ''), count(DISTINCT e.id),
                sum(coalesce(stepd_engine.failure_field(c.usage, 'calls')::bigint, 0)), sum(coalesce(stepd_engine.failure_field(c.usage, 'tokens_in')::bigint, 0)),
                sum(coalesce(stepd_engine.failure_field(c.usage, 'tokens_out')::bigint, 0)), sum(coalesce(stepd_engine.failure_field(c.usage, 'cost')::numeric, 0))
            FROM fresh e JOIN stepd_engine.checkpoints c ON c.run = e.id AND c.usage IS NOT NULL GROUP BY 1, 2, 3;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION stepd_engine.ended_after_insert() IS 'Notes the runs that a statement has ended, for the daily figures.';
CREATE TRIGGER ended_after_insert AFTER INSERT ON stepd_engine.ended REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION stepd_engine.ended_after_insert();
COMMENT ON TRIGGER ended_after_insert ON stepd_engine.ended IS 'Notes the runs that a statement has ended, once per statement.';

-- The same with the sign turned. Called before anything of the run is changed.
CREATE FUNCTION stepd_engine.take_back(e stepd_engine.ended) RETURNS void LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO stepd_engine.spendings (day, workflow, key, runs, calls, tokens_in, tokens_out, cost)
        SELECT (e.ended_at AT TIME ZONE 'UTC')::date, e.workflow, coalesce(e.concurrency_key, ''), -1, -u.calls, -u.tokens_in, -u.tokens_out, -u.cost
        FROM stepd_engine.spent(e.id) u WHERE u.calls IS NOT NULL;
    INSERT INTO stepd_engine.tallies (day, state, bucket, runs, resumes, crashes, calls, tokens_in, tokens_out, ms, waited_ms, workflow, step, code, cost)
        SELECT (e.ended_at AT TIME ZONE 'UTC')::date, e.state, stepd_engine.bucket_of(e.ended_at - e.started_at), -1, -e.resumes, -e.crashes,
            -u.calls::bigint, -u.tokens_in::bigint, -u.tokens_out::bigint, -date_part('epoch', e.ended_at - e.started_at) * 1000,
            -greatest(0, date_part('epoch', e.started_at - e.ready_at) * 1000), e.workflow,
            CASE WHEN e.state = 'failed' THEN stepd_engine.failing_step(e.id, e.last_key, e.last_output) END,
            CASE WHEN e.state = 'failed' THEN coalesce(left(stepd_engine.failure_field(e.error, 'code'), 200), '') END, -u.cost
        FROM (SELECT sum(stepd_engine.failure_field(c.usage, 'calls')::bigint) AS calls,
                sum(stepd_engine.failure_field(c.usage, 'tokens_in')::bigint) AS tokens_in, sum(stepd_engine.failure_field(c.usage, 'tokens_out')::bigint) AS tokens_out,
                sum(stepd_engine.failure_field(c.usage, 'cost')::numeric) AS cost FROM stepd_engine.checkpoints c WHERE c.run = e.id AND c.usage IS NOT NULL) u
$$;
COMMENT ON FUNCTION stepd_engine.take_back(stepd_engine.ended) IS 'Takes the end of a run back from the daily figures: it goes on.';

-- One caller at a time, so that two never wait for each other's days.
CREATE FUNCTION stepd_engine.fold(batch integer) RETURNS integer LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(stepd_engine.lock_class(), -4) THEN RETURN 0; END IF;
    WITH taken AS (
        DELETE FROM stepd_engine.tallies t WHERE t.ctid = ANY (ARRAY(SELECT x.ctid FROM stepd_engine.tallies x LIMIT batch FOR UPDATE SKIP LOCKED))
        RETURNING t.*
    ), days AS (
        INSERT INTO stepd_engine.daily AS d (day, workflow, state, runs, resumes, crashes, ms, waited_ms, calls, tokens_in, tokens_out, cost)
            SELECT t.day, t.workflow, t.state, sum(t.runs), sum(t.resumes), sum(t.crashes), sum(t.ms), sum(t.waited_ms), sum(t.calls), sum(t.tokens_in), sum(t.tokens_out), sum(t.cost)
            FROM taken t GROUP BY t.day, t.workflow, t.state
        ON CONFLICT (day, workflow, state) DO UPDATE SET runs = d.runs + excluded.runs, resumes = d.resumes + excluded.resumes, crashes = d.crashes + excluded.crashes,
            -- A sum of what is there: NULL stays NULL until somebody has some.
            ms = coalesce(d.ms + excluded.ms, d.ms, excluded.ms), waited_ms = coalesce(d.waited_ms + excluded.waited_ms, d.waited_ms, excluded.waited_ms),
            calls = coalesce(d.calls + excluded.calls, d.calls, excluded.calls),
            tokens_in = coalesce(d.tokens_in + excluded.tokens_in, d.tokens_in, excluded.tokens_in),
            tokens_out = coalesce(d.tokens_out + excluded.tokens_out, d.tokens_out, excluded.tokens_out),
            cost = coalesce(d.cost + excluded.cost, d.cost, excluded.cost)
    ), durations AS (
        INSERT INTO stepd_engine.daily_durations AS d (day, workflow, state, bucket, runs)
            SELECT t.day, t.workflow, t.state, t.bucket, sum(t.runs) FROM taken t WHERE t.bucket IS NOT NULL GROUP BY t.day, t.workflow, t.state, t.bucket
        ON CONFLICT (day, workflow, state, bucket) DO UPDATE SET runs = d.runs + excluded.runs
    ), failures AS (
        INSERT INTO stepd_engine.daily_failures AS d (day, workflow, step, code, runs)
            SELECT t.day, t.workflow, t.step, t.code, sum(t.runs) FROM taken t WHERE t.state = 'failed' GROUP BY t.day, t.workflow, t.step, t.code
        ON CONFLICT (day, workflow, step, code) DO UPDATE SET runs = d.runs + excluded.runs
    ), spent AS (
        DELETE FROM stepd_engine.spendings t WHERE t.ctid = ANY (ARRAY(SELECT x.ctid FROM stepd_engine.spendings x LIMIT batch FOR UPDATE SKIP LOCKED))
        RETURNING t.*
    ), costs AS (
        INSERT INTO stepd_engine.daily_costs AS d (day, workflow, key, runs, calls, tokens_in, tokens_out, cost)
            SELECT t.day, t.workflow, t.key, sum(t.runs), sum(t.calls), sum(t.tokens_in), sum(t.tokens_out), sum(t.cost) FROM spent t GROUP BY t.day, t.workflow, t.key
        ON CONFLICT (day, workflow, key) DO UPDATE SET runs = d.runs + excluded.runs, calls = d.calls + excluded.calls,
            tokens_in = d.tokens_in + excluded.tokens_in, tokens_out = d.tokens_out + excluded.tokens_out, cost = d.cost + excluded.cost
    )
    SELECT greatest((SELECT count(*) FROM taken), (SELECT count(*) FROM spent)) INTO n;
    RETURN n;
END
$$;
COMMENT ON FUNCTION stepd_engine.fold(integer) IS 'Adds so many tallies to the daily figures and removes them, at once; returns how many there were, 0 while another is at it.';

-- Removal -----------------------------------------------------------------------------------------------

-- Whoever removes a run removes all of it, or nothing. Lock order: ended, then what hangs on it, as in stepd.retry. Also the queue of each that only its
-- own `stepd run` served.
-- A plan that may not read a table whole looks dear to Postgres, which would then compile it: 300 ms for 500 runs, instead of 4 ms.
CREATE FUNCTION stepd_engine.remove_runs(ids uuid[]) RETURNS TABLE (workflow text, state stepd.run_state, runs bigint, steps bigint, events bigint) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    mine uuid[];
BEGIN
    -- What somebody has retried meanwhile is ended no more, and keeps its steps; a parent that has not been told of its child's end needs it.
    mine := ARRAY(SELECT e.id FROM stepd_engine.ended e WHERE e.id = ANY (ids) AND NOT EXISTS (SELECT FROM stepd_engine.children k, stepd.jobs j
        WHERE k.child = e.id AND k.attached AND NOT k.settled AND j.id = k.parent AND j.state NOT IN ('completed', 'failed', 'cancelled')) ORDER BY e.id FOR UPDATE);
    RETURN QUERY WITH gone AS (
        DELETE FROM stepd_engine.ended e WHERE e.id = ANY (mine) RETURNING e.workflow, e.state, e.queue
    ), steps AS (
        DELETE FROM stepd_engine.checkpoints c WHERE c.run = ANY (mine) RETURNING 1
    ), events AS (
        DELETE FROM stepd_engine.events v WHERE v.run = ANY (mine) RETURNING 1
    ), logs AS (
        DELETE FROM stepd_engine.logs l WHERE l.run = ANY (mine)
    ), signals AS (
        DELETE FROM stepd_engine.signals g WHERE g.run = ANY (mine)
    ), waits AS (
        DELETE FROM stepd_engine.trace_waits w WHERE w.run = ANY (mine)
    ), children AS (
        DELETE FROM stepd_engine.children k WHERE k.parent = ANY (mine) OR k.child = ANY (mine)
    ), queues AS (
        DELETE FROM stepd_engine.queues q WHERE q.name IN (SELECT g.queue FROM gone g) AND q.exclusive
            AND q.name ~ '^run-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.queue = q.name AND j.state NOT IN ('completed', 'failed', 'cancelled'))
    )
    SELECT g.workflow, g.state, count(*),
        (SELECT count(*) FROM steps), (SELECT count(*) FROM events)
    FROM gone g GROUP BY g.workflow, g.state ORDER BY g.workflow, g.state;
END
$$;
COMMENT ON FUNCTION stepd_engine.remove_runs(uuid[]) IS 'Removes ended runs with all that belongs to them; the daily figures stay. Returns how many, by workflow and state.';

-- What people read ---------------------------------------------------------------------------------------

CREATE VIEW stepd.daily AS
SELECT d.day, d.workflow, d.state, d.runs, nullif(d.ms, 0) / nullif((SELECT sum(b.runs) FROM stepd_engine.daily_durations b
        WHERE b.day = d.day AND b.workflow = d.workflow AND b.state = d.state), 0)::double precision * interval '1 millisecond' AS duration_avg,
    (SELECT stepd_engine.bucket_middle(h.bucket) FROM (SELECT b.bucket, sum(b.runs) OVER (ORDER BY b.bucket) AS upto, sum(b.runs) OVER () AS total
        FROM stepd_engine.daily_durations b WHERE b.day = d.day AND b.workflow = d.workflow AND b.state = d.state) h
        WHERE h.upto >= h.total * 0.5 AND h.total > 0 ORDER BY h.bucket LIMIT 1) AS duration_p50,
    (SELECT stepd_engine.bucket_middle(h.bucket) FROM (SELECT b.bucket, sum(b.runs) OVER (ORDER BY b.bucket) AS upto, sum(b.runs) OVER () AS total
        FROM stepd_engine.daily_durations b WHERE b.day = d.day AND b.workflow = d.workflow AND b.state = d.state) h
        WHERE h.upto >= h.total * 0.95 AND h.total > 0 ORDER BY h.bucket LIMIT 1) AS duration_p95,
    d.ms * interval '1 millisecond' AS duration_sum, d.waited_ms * interval '1 millisecond' AS waited_sum,
    d.resumes, d.crashes, d.calls, d.tokens_in, d.tokens_out, d.cost
FROM stepd_engine.daily d WHERE d.runs > 0;
COMMENT ON VIEW stepd.daily IS 'Ended runs by day, workflow and state: how many, how long, at what cost. Kept when the runs are gone; a few seconds behind them.';
COMMENT ON COLUMN stepd.daily.day IS 'The day on which they ended, by UTC.';
COMMENT ON COLUMN stepd.daily.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.daily.state IS 'How they ended: completed, failed or cancelled.';
COMMENT ON COLUMN stepd.daily.runs IS 'How many. A failed run that was retried counts once, by its last end.';
COMMENT ON COLUMN stepd.daily.duration_avg IS 'The mean from first claim to end, of those that had started.';
COMMENT ON COLUMN stepd.daily.duration_p50 IS 'The median, at most 9 % off. Over several days: stepd.stats.';
COMMENT ON COLUMN stepd.daily.duration_p95 IS 'What 95 of 100 stayed within, at most 9 % off. Over several days: stepd.stats.';
COMMENT ON COLUMN stepd.daily.duration_sum IS 'All their durations together.';
COMMENT ON COLUMN stepd.daily.waited_sum IS 'All their times from ready to first claim together.';
COMMENT ON COLUMN stepd.daily.resumes IS 'Automatic resumes after failures.';
COMMENT ON COLUMN stepd.daily.crashes IS 'Workers that died with them.';
COMMENT ON COLUMN stepd.daily.calls IS 'Calls of models, those included that failed; NULL: no model was called.';
COMMENT ON COLUMN stepd.daily.tokens_in IS 'Tokens of prompts; NULL: no model was called.';
COMMENT ON COLUMN stepd.daily.tokens_out IS 'Tokens of the models'' answers.';
COMMENT ON COLUMN stepd.daily.cost IS 'What they cost, by the configured prices.';

CREATE VIEW stepd.daily_durations AS
SELECT b.day, b.workflow, b.state, b.bucket::integer AS bucket, stepd_engine.bucket_end(b.bucket) AS up_to, b.runs
FROM stepd_engine.daily_durations b WHERE b.runs > 0;
COMMENT ON VIEW stepd.daily_durations IS 'How long ended runs took: a histogram by day, workflow and state, in four steps for each doubling.';
COMMENT ON COLUMN stepd.daily_durations.day IS 'The day on which they ended, by UTC.';
COMMENT ON COLUMN stepd.daily_durations.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.daily_durations.state IS 'How they ended.';
COMMENT ON COLUMN stepd.daily_durations.bucket IS 'The number of the step, from 0.';
COMMENT ON COLUMN stepd.daily_durations.up_to IS 'The longest duration that it holds; the shortest is that of the step before.';
COMMENT ON COLUMN stepd.daily_durations.runs IS 'How many runs.';

CREATE VIEW stepd.daily_failures AS
SELECT f.day, f.workflow, nullif(f.step, '') AS step, nullif(f.code, '') AS code, f.runs FROM stepd_engine.daily_failures f WHERE f.runs > 0;
COMMENT ON VIEW stepd.daily_failures IS 'What failed runs, by day, workflow, step and code.';
COMMENT ON COLUMN stepd.daily_failures.day IS 'The day on which they ended, by UTC.';
COMMENT ON COLUMN stepd.daily_failures.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.daily_failures.step IS 'The step that failed them, without the numbers of items: docs[].text; NULL: no step did.';
COMMENT ON COLUMN stepd.daily_failures.code IS 'The failure''s code: http_503, timeout, exit_1.';
COMMENT ON COLUMN stepd.daily_failures.runs IS 'How many runs ended so.';

CREATE VIEW stepd.daily_costs AS
SELECT c.day, c.workflow, nullif(c.key, '') AS concurrency_key, c.runs, c.calls, c.tokens_in, c.tokens_out, c.cost
FROM stepd_engine.daily_costs c WHERE c.runs > 0;
COMMENT ON VIEW stepd.daily_costs IS 'What ended runs have spent on models, by day, workflow and concurrency key. Kept when the runs are gone; a few seconds behind them.';
COMMENT ON COLUMN stepd.daily_costs.day IS 'The day on which they ended, by UTC.';
COMMENT ON COLUMN stepd.daily_costs.workflow IS 'The workflow''s name.';
COMMENT ON COLUMN stepd.daily_costs.concurrency_key IS 'What the workflow''s concurrency limit counts by: most often the customer; NULL: they had none.';
COMMENT ON COLUMN stepd.daily_costs.runs IS 'How many runs have called a model. One that was retried counts once, by its last end, with all that it has cost.';
COMMENT ON COLUMN stepd.daily_costs.calls IS 'Calls of models, those included that failed.';
COMMENT ON COLUMN stepd.daily_costs.tokens_in IS 'Tokens of prompts.';
COMMENT ON COLUMN stepd.daily_costs.tokens_out IS 'Tokens of the models'' answers.';
COMMENT ON COLUMN stepd.daily_costs.cost IS 'What they cost, by the configured prices.';

-- With the caller's own rights: it reads the views. Its body is parsed here (BEGIN ATOMIC), so that its caller needs no right on
-- stepd_engine, where one of its functions stands.
CREATE FUNCTION stepd.stats(since date DEFAULT NULL, until date DEFAULT NULL, name text DEFAULT NULL)
    RETURNS TABLE (workflow text, runs bigint, completed bigint, failed bigint, cancelled bigint, success_rate numeric,
        duration_avg interval, duration_p50 interval, duration_p95 interval, waited_avg interval, resumes bigint, crashes bigint,
        calls bigint, tokens_in bigint, tokens_out bigint, cost numeric) LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH days AS (
        SELECT d.workflow, d.state, d.runs, d.duration_sum, d.waited_sum, d.resumes, d.crashes, d.calls, d.tokens_in, d.tokens_out, d.cost FROM stepd.daily d
        WHERE (stats.name IS NULL OR d.workflow = stats.name) AND d.day >= coalesce(since, '-infinity') AND d.day <= coalesce(until, 'infinity')
    ), took AS (
        SELECT h.workflow, h.bucket, sum(h.runs) AS runs FROM stepd.daily_durations h
        WHERE (stats.name IS NULL OR h.workflow = stats.name) AND h.day >= coalesce(since, '-infinity') AND h.day <= coalesce(until, 'infinity')
        GROUP BY h.workflow, h.bucket
    ), upto AS (
        SELECT t.workflow, t.bucket, sum(t.runs) OVER (PARTITION BY t.workflow ORDER BY t.bucket) AS upto, sum(t.runs) OVER (PARTITION BY t.workflow) AS total FROM took t
    ), spread AS (
        SELECT u.workflow, min(u.bucket) FILTER (WHERE u.upto >= u.total * 0.5) AS p50, min(u.bucket) FILTER (WHERE u.upto >= u.total * 0.95) AS p95, max(u.total) AS total
        FROM upto u GROUP BY u.workflow
    )
    SELECT d.workflow, sum(d.runs)::bigint, coalesce(sum(d.runs) FILTER (WHERE d.state = 'completed'), 0)::bigint, coalesce(sum(d.runs) FILTER (WHERE d.state = 'failed'), 0)::bigint,
        coalesce(sum(d.runs) FILTER (WHERE d.state = 'cancelled'), 0)::bigint,
        round(coalesce(sum(d.runs) FILTER (WHERE d.state = 'completed'), 0) / nullif(sum(d.runs) FILTER (WHERE d.state IN ('completed', 'failed')), 0), 4),
        sum(d.duration_sum) / min(s.total)::double precision, stepd_engine.bucket_middle(min(s.p50)), stepd_engine.bucket_middle(min(s.p95)), sum(d.waited_sum) / min(s.total)::double precision,
        sum(d.resumes)::bigint, sum(d.crashes)::bigint, sum(d.calls)::bigint, sum(d.tokens_in)::bigint, sum(d.tokens_out)::bigint, sum(d.cost)
    FROM days d LEFT JOIN spread s ON s.workflow = d.workflow GROUP BY d.workflow ORDER BY sum(d.runs) DESC, d.workflow;
END;
COMMENT ON FUNCTION stepd.stats(date, date, text) IS
    'The figures of each workflow, or of the one named, over days (by UTC; both bounds count, NULL: no bound): runs, how they ended, success_rate (completed of completed and failed), durations, waits, resumes, tokens and cost. Also of runs that have been pruned.';

-- The older systems' tables (optional/tables.sql), where they are installed; here, so that a daemon needs no right on them.
CREATE FUNCTION stepd_engine.catch_up(batch integer) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n integer;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace s WHERE s.nspname = 'stepd_tables') THEN RETURN NULL; END IF;
    IF NOT pg_try_advisory_xact_lock(stepd_engine.lock_class(), -5) THEN RETURN 0; END IF;
    EXECUTE 'SELECT stepd_tables.catch_up($1)' INTO n USING batch;
    RETURN n;
END
$$;
COMMENT ON FUNCTION stepd_engine.catch_up(integer) IS 'Brings so many runs of the older systems'' tables up to date; NULL: these are not installed. Returns how many, 0 while another is at it.';

REVOKE ALL ON FUNCTION stepd_engine.catch_up(integer), stepd_engine.failing_step(uuid, text, text), stepd_engine.ended_after_insert(), stepd_engine.take_back(stepd_engine.ended), stepd_engine.spent(uuid),
    stepd_engine.fold(integer), stepd_engine.bucket_of(interval), stepd_engine.remove_runs(uuid[]), stepd.stats(date, date, text) FROM PUBLIC;
