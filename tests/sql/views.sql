\ir helpers.inc
-- Every object of both schemas has a comment, private columns, indexes and identity sequences included.
DO $$
DECLARE missing text;
BEGIN
    SELECT string_agg(what, ', ' ORDER BY what) INTO missing FROM (
        SELECT 'schema ' || n.nspname AS what FROM pg_namespace n WHERE n.nspname IN ('stepd', 'stepd_engine') AND obj_description(n.oid, 'pg_namespace') IS NULL
        UNION ALL
        SELECT format('%s %s', CASE c.relkind WHEN 'i' THEN 'index' WHEN 'S' THEN 'sequence' ELSE 'relation' END, c.oid::regclass)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('stepd', 'stepd_engine') AND c.relkind <> 'c' AND obj_description(c.oid, 'pg_class') IS NULL
        UNION ALL
        SELECT format('column %s.%s', c.oid::regclass, a.attname)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE n.nspname IN ('stepd', 'stepd_engine') AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'c') AND a.attnum > 0 AND NOT a.attisdropped
                AND col_description(c.oid, a.attnum) IS NULL
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('stepd', 'stepd_engine') AND obj_description(p.oid, 'pg_proc') IS NULL
        UNION ALL
        -- Without those that every table and every type brings along: its row type, its array.
        SELECT 'type ' || t.oid::regtype FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
            WHERE n.nspname IN ('stepd', 'stepd_engine') AND t.typcategory <> 'A' AND coalesce(c.relkind = 'c', true) AND obj_description(t.oid, 'pg_type') IS NULL
        UNION ALL
        SELECT format('trigger %s', g.tgname) FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('stepd', 'stepd_engine') AND NOT g.tgisinternal AND obj_description(g.oid, 'pg_trigger') IS NULL
    ) x;
    IF missing IS NOT NULL THEN RAISE EXCEPTION 'without a comment: %', missing; END IF;
    -- No definer function without a pinned search_path, none open to PUBLIC.
    SELECT string_agg(p.oid::regprocedure::text, ', ') INTO missing FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('stepd', 'stepd_engine') AND p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'sql')
            AND NOT coalesce(p.proconfig @> '{"search_path=pg_catalog, pg_temp"}', false)
            AND p.proname <> 'jobs_before_insert'; -- Names everything in full instead; tested below.
    IF missing IS NOT NULL THEN RAISE EXCEPTION 'search_path not pinned: %', missing; END IF;
    SELECT string_agg(p.oid::regprocedure::text, ', ') INTO missing FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('stepd', 'stepd_engine') AND p.prosecdef AND (p.proacl IS NULL OR p.proacl::text ~ '[{,]=X')
            AND p.proname <> 'unique_key'; -- What enqueue calls with the caller's rights: it makes a key of what it is given.
    IF missing IS NOT NULL THEN RAISE EXCEPTION 'definer functions open to PUBLIC: %', missing; END IF;
END $$;
-- Shapes.
DO $$
DECLARE v text; a uuid; h text;
BEGIN
    FOREACH v IN ARRAY '{runs,steps,attempts,history,waiting,workflows,queues,workers}'::text[] LOOP
        EXECUTE format('SELECT count(*) FROM (SELECT * FROM stepd.%I) x', v);
    END LOOP;
    PERFORM t.same((SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'stepd.runs'::regclass AND attnum BETWEEN 1 AND 8),
        'id state workflow created_at run_at started_at ended_at duration', 'state and times first');
    a := t.run(); PERFORM t.claim(a);
    PERFORM t.step(a, 1, 'one', 'run', 'completed', output => '"\u0000"');
    INSERT INTO stepd_engine.events (run, epoch, attempt, kind, key, data) VALUES (a, 1, 1, 'attempt_failed', 'two',
        json_build_object('started_at', clock_timestamp(), 'ended_at', clock_timestamp(), 'failure', '{"code":"http_503","message":"busy"}'::json, 'retry_in_ms', 250)::text);
    PERFORM t.step(a, 2, 'two', 'http', 'running');
    PERFORM t.ok((SELECT step = 'two' AND state = 'running' AND duration >= '0' FROM stepd.runs WHERE id = a), 'the current step');
    PERFORM t.finish(a, 'failed', NULL, '{"class":"permanent","code":"exit_1","message":"no \u0000"}', 'two', NULL);
    PERFORM t.ok((SELECT step = 'two' AND error_code = 'exit_1' AND attempts = 3 AND error ->> 'class' = 'permanent' FROM stepd.runs WHERE id = a), 'the failed step');
    PERFORM t.ok((SELECT array_agg(key || ':' || state ORDER BY seq) = '{one:completed,two:failed}' FROM stepd.steps WHERE run = a), 'the last step is shown once');
    PERFORM t.ok((SELECT array_agg(key || attempt || coalesce(error_code, '') ORDER BY key, attempt) = '{one1,two1http_503,two3exit_1}' FROM stepd.attempts WHERE run = a), 'attempts');
    PERFORM t.ok((SELECT retry_in = '250 ms' AND duration IS NOT NULL FROM stepd.attempts WHERE run = a AND key = 'two' AND attempt = 1), 'its pause');
    SELECT string_agg(concat_ws(' ', event, key), ', ' ORDER BY seq) INTO h FROM stepd.history WHERE run = a;
    PERFORM t.like(h, '^run enqueued, run started, .*step started one, step completed one, .*attempt failed two.*, run failed$', 'history');
    PERFORM t.ok((SELECT count(*) = count(DISTINCT seq) AND max(seq) = count(*) FROM stepd.history WHERE run = a), 'numbered');
    a := t.run(); PERFORM stepd.cancel(a);
    PERFORM t.same((SELECT string_agg(event, ', ' ORDER BY seq) FROM stepd.history WHERE run = a), 'run enqueued, cancelled, run cancelled', 'history of a cancel');
    a := t.run(); PERFORM t.claim(a);
    PERFORM t.ok((SELECT alive AND running = 1 AND runs = ARRAY[a] FROM stepd.workers), 'workers');
    PERFORM t.ok((SELECT running = 1 AND oldest_ready_age IS NULL FROM stepd.queues WHERE name = 'default'), 'queues');
    PERFORM t.ok((SELECT count(*) = 2 FROM stepd.workflows WHERE active AND hash = 'h'), 'workflows');
END $$;
-- The insert trigger looks nothing up in the caller's search_path.
CREATE SCHEMA evil;
CREATE FUNCTION evil.boom() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.boom()::text::timestamptz $$;
CREATE FUNCTION evil.gen_random_uuid() RETURNS uuid LANGUAGE sql AS $$ SELECT evil.boom()::text::uuid $$;
CREATE FUNCTION evil.to_hex(bigint) RETURNS text LANGUAGE sql AS $$ SELECT evil.boom()::text $$;
CREATE FUNCTION evil.substr(text, integer) RETURNS text LANGUAGE sql AS $$ SELECT evil.boom()::text $$;
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.boom() $$;
CREATE FUNCTION evil.ne(stepd.run_state, stepd.run_state) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.boom() $$;
CREATE FUNCTION evil.ne(integer, integer) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.boom() $$;
CREATE FUNCTION evil.ne(smallint, integer) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.boom() $$;
CREATE FUNCTION evil.gt(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS $$ SELECT evil.boom() $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE OPERATOR evil.<> (LEFTARG = stepd.run_state, RIGHTARG = stepd.run_state, FUNCTION = evil.ne);
CREATE OPERATOR evil.<> (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.ne);
CREATE OPERATOR evil.<> (LEFTARG = smallint, RIGHTARG = integer, FUNCTION = evil.ne);
CREATE OPERATOR evil.> (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.gt);
CREATE DOMAIN evil.text AS pg_catalog.text CHECK (VALUE = 'never');
\c
SET search_path = evil, pg_catalog;
INSERT INTO stepd.jobs (workflow, run_at) VALUES ('order', '2100-01-01'), ('order', NULL);
COPY stepd.jobs (workflow, input) FROM STDIN;
order	{"from": "copy"}
\.
RESET search_path;
SELECT t.ok((SELECT count(*) = 3 AND bool_and(id::text ~ '^0.{7}-.{4}-7.{3}-[89ab]') AND bool_and(abs(extract(epoch FROM stepd_engine.uuid_time(id) - clock_timestamp())) < 5)
    FROM stepd.jobs WHERE run_at IS NOT NULL OR input <> '{}' OR queue = 'default' AND state = 'queued'), 'a hostile search_path changes nothing');
