-- Why: the statements that must see several snapshots, or must run inside the application's own
-- transaction, live in the database: the insert trigger, admission, staging, waits, take-over.
-- Every function pins its search_path and names every object in full.

CREATE FUNCTION stepd_engine.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- 48 bits of Unix milliseconds over a random UUIDv4, with the version set to 7 (RFC 9562).
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
$$;
COMMENT ON FUNCTION stepd_engine.uuid7() IS 'A UUIDv7 by the database''s clock.';

-- A body that is parsed here and now (RETURN): no search_path to pin, and the planner still inlines it into the views.
CREATE FUNCTION stepd_engine.uuid_time(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN to_timestamp(('x' || substr(id::text, 1, 8) || substr(id::text, 10, 4))::bit(48)::bigint / 1000.0);
COMMENT ON FUNCTION stepd_engine.uuid_time(uuid) IS 'The time inside a UUIDv7: when the job was inserted, to the millisecond.';

-- The login, and behind it the name that it gives to whom it acts for: whatever somebody sets, the login stands before it, so that
-- nobody can pass for another one. Parsed here (RETURN), for it is called with its owner's rights under the path of whoever inserts:
-- no operator or type of theirs is found.
CREATE FUNCTION stepd_engine.actor() RETURNS text LANGUAGE sql STABLE
    RETURN session_user::text || coalesce('/' || nullif(left(current_setting('stepd.actor', true), 200), ''), '');
COMMENT ON FUNCTION stepd_engine.actor() IS 'Who acts: the login; with the setting stepd.actor, the login and that name: stepd/ops.';

CREATE FUNCTION stepd_engine.first_id(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT (lpad(to_hex(greatest(0, (extract(epoch FROM at) * 1000)::bigint)), 12, '0') || repeat('0', 20))::uuid $$;
COMMENT ON FUNCTION stepd_engine.first_id(timestamptz) IS 'The smallest UUIDv7 of an instant: what was inserted before it has a smaller id.';

-- Postgres 15 has no infinite interval: 1000 years stand for it.
CREATE FUNCTION stepd_engine.key_ends(keep interval) RETURNS timestamptz LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT CASE WHEN keep < interval '200 years' THEN clock_timestamp() + keep END $$;
COMMENT ON FUNCTION stepd_engine.key_ends(interval) IS 'Until when a unique key is kept whose run ends now; NULL: for ever.';

CREATE FUNCTION stepd_engine.refuse_workflow(wanted text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    near text;
    known bigint;
BEGIN
    SELECT w.name INTO near FROM stepd_engine.workflows w
        WHERE w.retired_at IS NULL AND stepd_engine.distance(lower(w.name), lower(wanted)) <= greatest(1, length(wanted) / 3)
        ORDER BY stepd_engine.distance(lower(w.name), lower(wanted)), w.name LIMIT 1;
    SELECT count(*) INTO known FROM stepd_engine.workflows w WHERE w.retired_at IS NULL;
    RAISE EXCEPTION USING
        ERRCODE = 'SD001',
        MESSAGE = format('stepd SD001: unknown workflow %s', coalesce('"' || wanted || '"', 'NULL')),
        DETAIL = CASE known WHEN 0 THEN 'No workflow has been loaded into this database yet.'
            WHEN 1 THEN '1 workflow is loaded; SELECT name FROM stepd.workflows shows it.'
            ELSE format('%s workflows are loaded; SELECT name FROM stepd.workflows lists them.', known) END,
        HINT = CASE WHEN near IS NOT NULL THEN format('Did you mean "%s"?', near)
            WHEN known = 0 THEN 'Start a daemon with the folder of your workflow files: stepd serve --workflows DIR.'
            ELSE 'Load its file with stepd serve --workflows DIR, or correct the name.' END || ' (stepd explain SD001)';
END
$$;
COMMENT ON FUNCTION stepd_engine.refuse_workflow(text) IS 'Raises SD001 with the nearest known name.';

CREATE FUNCTION stepd_engine.distance(a text, b text) RETURNS integer LANGUAGE plpgsql IMMUTABLE STRICT
    SET search_path = pg_catalog, pg_temp
AS $$
-- Levenshtein by two rows (Wagner and Fischer, 1974); only ever called while an error is being written.
DECLARE
    before integer[];
    now integer[];
    i integer;
    j integer;
BEGIN
    IF length(a) > 200 OR length(b) > 200 THEN RETURN 1000; END IF;
    before := ARRAY(SELECT generate_series(0, length(b)));
    FOR i IN 1..length(a) LOOP
        now := ARRAY[i];
        FOR j IN 1..length(b) LOOP
            now[j + 1] := least(before[j + 1] + 1, now[j] + 1,
                before[j] + CASE WHEN substr(a, i, 1) = substr(b, j, 1) THEN 0 ELSE 1 END);
        END LOOP;
        before := now;
    END LOOP;
    RETURN before[length(b) + 1];
END
$$;
COMMENT ON FUNCTION stepd_engine.distance(text, text) IS 'Edit distance, for "did you mean".';

-- What must be read whole by every worker that claims it is bounded before it is stored. The text counts, which may be ten thousand
-- times larger than what Postgres keeps: a number of 131072 digits takes it twelve bytes.
CREATE FUNCTION stepd_engine.refuse_large(value jsonb, what text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n bigint;
    most integer;
BEGIN
    -- 1000 bytes are 83 such numbers, or 6000 characters of escapes.
    IF value IS NULL OR pg_column_size(value) <= 1000 AND pg_column_compression(value) IS NULL THEN RETURN; END IF;
    SELECT s.max_input_bytes INTO most FROM stepd_engine.settings s;
    BEGIN
        n := octet_length(value::text);
    EXCEPTION WHEN program_limit_exceeded OR out_of_memory OR internal_error THEN
        -- Postgres makes no text of more than a gigabyte.
    END;
    IF n IS NULL OR n > most THEN
        RAISE EXCEPTION USING ERRCODE = 'SD002',
            MESSAGE = format('stepd SD002: the %s has %s bytes as JSON text, and at most %s are allowed', what, coalesce(n::text, 'more than 1073741823'), most),
            HINT = 'Store the data elsewhere and say where it is; or an administrator raises max_input_bytes in stepd_engine.settings. (stepd explain SD002)';
    END IF;
END
$$;
COMMENT ON FUNCTION stepd_engine.refuse_large(jsonb, text) IS 'Raises SD002 when the JSON text is longer than settings.max_input_bytes.';

CREATE FUNCTION stepd_engine.reset_job(job stepd.jobs) RETURNS stepd.jobs LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    job.state := 'queued';
    job.lane := 0;
    job.epoch := 0;
    job.definition := NULL;
    job.resumes := 0;
    job.crashes := 0;
    job.streak := 0;
    job.started := false;
    job.taken := false;
    job.worker := NULL;
    job.started_at := NULL;
    job.first_started_at := NULL;
    job.due_at := NULL;
    job.error := NULL;
    job.unique_keep := NULL;
    job.rate_key := NULL;
    job.target := NULL;
    job.parent := NULL;
    job.input := coalesce(job.input, '{}');
    job.labels := coalesce(job.labels, '{}');
    RETURN job;
END
$$;
COMMENT ON FUNCTION stepd_engine.reset_job(stepd.jobs) IS 'Sets what only the engine writes to its first values.';

CREATE FUNCTION stepd_engine.unknown_workflow(wanted text, queue text) RETURNS text LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF wanted IS NULL OR (SELECT s.on_unknown_workflow FROM stepd_engine.settings s) = 'refuse' THEN
        PERFORM stepd_engine.refuse_workflow(wanted);
    END IF;
    RETURN coalesce(queue, 'default');
END
$$;
COMMENT ON FUNCTION stepd_engine.unknown_workflow(text, text) IS 'Refuses an unknown workflow, or says in which queue its job is parked.';

-- A key's text: of one path the value there, a text as it is; of several their list. A value that is not there is null.
CREATE FUNCTION stepd_engine.key_of(paths jsonb, input jsonb) RETURNS text LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN paths IS NULL THEN '*'
        WHEN jsonb_array_length(paths) = 1 THEN coalesce(input #>> ARRAY(SELECT jsonb_array_elements_text(paths -> 0)), 'null')
        ELSE (SELECT jsonb_agg(input #> ARRAY(SELECT jsonb_array_elements_text(p.path)) ORDER BY p.n) FROM jsonb_array_elements(paths) WITH ORDINALITY AS p(path, n))::text
    END
$$;
COMMENT ON FUNCTION stepd_engine.key_of(jsonb, jsonb) IS 'The key that paths into an input make; * where a setting has no key.';

-- Without a value anywhere on its paths there is nothing to be unique.
CREATE FUNCTION stepd_engine.unique_key_of(flow jsonb, input jsonb) RETURNS text LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT stepd_engine.key_of(flow #> '{unique,key}', input) WHERE EXISTS (SELECT FROM jsonb_array_elements(flow #> '{unique,key}') AS p(path)
        WHERE input #>> ARRAY(SELECT jsonb_array_elements_text(p.path)) IS NOT NULL)
$$;
COMMENT ON FUNCTION stepd_engine.unique_key_of(jsonb, jsonb) IS 'The unique key of a job with this input; NULL where the input has none of its parts.';

-- What an explicit key says stands.
CREATE FUNCTION stepd_engine.key_job(job stepd.jobs, flow jsonb) RETURNS stepd.jobs LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF flow ? 'unique' THEN
        job.unique_key := coalesce(job.unique_key, stepd_engine.unique_key_of(flow, job.input));
        IF job.unique_key IS NOT NULL THEN job.unique_keep := (flow #>> '{unique,keep}')::interval; END IF;
    END IF;
    IF flow ? 'concurrency' THEN
        job.concurrency_key := coalesce(nullif(job.concurrency_key, ''), stepd_engine.key_of(flow #> '{concurrency,key}', job.input));
    END IF;
    IF flow ? 'rate' THEN job.rate_key := stepd_engine.key_of(flow #> '{rate,key}', job.input); END IF;
    RETURN job;
END
$$;
COMMENT ON FUNCTION stepd_engine.key_job(stepd.jobs, jsonb) IS 'Gives a new job the keys that its workflow''s settings make of its input.';

-- Makes a plain INSERT complete. SECURITY DEFINER, because an enqueuer has no rights on the private tables.
-- Its search_path is not pinned by a SET clause, which would cost every row a change of it and back (about 2 µs);
-- so every function, operator and type is named with its schema, and nothing is looked up in the caller's path.
CREATE FUNCTION stepd_engine.jobs_before_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    queue_ pg_catalog.text;
    priority_ pg_catalog.int2;
    limited pg_catalog.bool;
    flow_ pg_catalog.jsonb;
    now_ pg_catalog.timestamptz := pg_catalog.clock_timestamp();
BEGIN
    SELECT coalesce(NEW.queue, d.queue), d.priority, q.paused OR NOT q.open OR q.max_running IS NOT NULL, d.flow
        INTO queue_, priority_, limited, flow_
        FROM stepd_engine.workflows d LEFT JOIN stepd_engine.queues q ON q.name OPERATOR(pg_catalog.=) coalesce(NEW.queue, d.queue)
        WHERE d.name OPERATOR(pg_catalog.=) NEW.workflow AND d.retired_at IS NULL;
    IF NOT FOUND THEN
        queue_ := stepd_engine.unknown_workflow(NEW.workflow, NEW.queue);
        priority_ := 5;
        limited := true;
    END IF;
    -- Only what an INSERT may have brought along is reset; each assignment costs.
    IF NEW.epoch OPERATOR(pg_catalog.<>) 0 OR NEW.definition IS NOT NULL OR NEW.resumes OPERATOR(pg_catalog.<>) 0
            OR NEW.crashes OPERATOR(pg_catalog.<>) 0 OR NEW.streak OPERATOR(pg_catalog.<>) 0 OR NEW.started OR NEW.taken
            OR NEW.worker IS NOT NULL OR NEW.started_at IS NOT NULL OR NEW.first_started_at IS NOT NULL OR NEW.error IS NOT NULL OR NEW.due_at IS NOT NULL OR NEW.parent IS NOT NULL
            OR NEW.state OPERATOR(pg_catalog.<>) 'queued'::stepd.run_state OR NEW.lane OPERATOR(pg_catalog.<>) 0
            OR NEW.unique_keep IS NOT NULL OR NEW.rate_key IS NOT NULL OR NEW.target IS NOT NULL OR NEW.input IS NULL OR NEW.labels IS NULL THEN
        NEW := stepd_engine.reset_job(NEW);
    END IF;
    IF flow_ IS NOT NULL THEN
        NEW := stepd_engine.key_job(NEW, flow_);
        IF flow_ OPERATOR(pg_catalog.?|) '{concurrency,rate}'::pg_catalog.text[] THEN
            limited := true;
            PERFORM stepd_engine.wake();
        END IF;
    END IF;
    -- A UUIDv7 (RFC 9562), as in stepd_engine.uuid7(), by way of text, which is the fewest calls:
    -- 48 bits of milliseconds (12 digits until the year 2527 with the leading zero), the version, the rest of a UUIDv4.
    NEW.id := pg_catalog.concat('0', pg_catalog.to_hex((pg_catalog.date_part('epoch', now_) OPERATOR(pg_catalog.*) 1000::pg_catalog.float8)::pg_catalog.int8),
        '7', pg_catalog.substr(pg_catalog.gen_random_uuid()::pg_catalog.text, 16))::pg_catalog.uuid;
    -- As refuse_large would find out: the call costs more.
    IF pg_catalog.pg_column_size(NEW.input) OPERATOR(pg_catalog.>) 1000 OR pg_catalog.pg_column_compression(NEW.input) IS NOT NULL THEN
        PERFORM stepd_engine.refuse_large(NEW.input, 'input');
    END IF;
    NEW.queue := queue_;
    NEW.created_by := stepd_engine.actor();
    NEW.ready_at := now_;
    IF NEW.priority IS NULL THEN
        NEW.priority := priority_;
    END IF;
    IF NEW.run_at OPERATOR(pg_catalog.>) now_ THEN
        NEW.state := 'scheduled';
        NEW.lane := 3;
        NEW.due_at := NEW.run_at;
        -- Before the next look comes by; what is due later is found by it.
        IF NEW.run_at OPERATOR(pg_catalog.<) (now_ OPERATOR(pg_catalog.+) '5 s'::pg_catalog.interval) THEN
            PERFORM stepd_engine.wake();
        END IF;
    ELSIF limited THEN
        NEW.state := 'held';
        NEW.lane := 4;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION stepd_engine.jobs_before_insert() IS 'Completes a plain INSERT: refuses an unknown workflow, makes the id, fills the workflow''s defaults, sets the first state.';
CREATE TRIGGER jobs_before_insert BEFORE INSERT ON stepd.jobs
    FOR EACH ROW EXECUTE FUNCTION stepd_engine.jobs_before_insert();
COMMENT ON TRIGGER jobs_before_insert ON stepd.jobs IS 'Makes a plain INSERT complete: refuses an unknown workflow, makes the id, fills the workflow''s defaults, sets the first state.';

-- NOTIFY takes a database-wide lock at commit: once per statement, never per row. `job` says that a claim is enough; anything else,
-- that every service should look. Where something has a limit, the new rows may have to be admitted first.
CREATE FUNCTION stepd_engine.jobs_after_insert() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('stepd', CASE WHEN s.on_unknown_workflow = 'park'
            OR EXISTS (SELECT FROM stepd_engine.queues q WHERE q.paused OR NOT q.open OR q.max_running IS NOT NULL) THEN '' ELSE 'job' END)
        FROM stepd_engine.settings s WHERE s.notify;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION stepd_engine.jobs_after_insert() IS 'Wakes the workers: a hint where to look, never what is there; they look for themselves.';
CREATE TRIGGER jobs_after_insert AFTER INSERT ON stepd.jobs
    FOR EACH STATEMENT EXECUTE FUNCTION stepd_engine.jobs_after_insert();
COMMENT ON TRIGGER jobs_after_insert ON stepd.jobs IS 'Wakes the workers, once per statement.';

CREATE FUNCTION stepd_engine.wake() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT s.notify FROM stepd_engine.settings s) THEN
        PERFORM pg_notify('stepd', '');
    END IF;
END
$$;
COMMENT ON FUNCTION stepd_engine.wake() IS 'Tells the workers to look.';

CREATE FUNCTION stepd_engine.lock_class() RETURNS integer LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ('x' || lpad(to_hex('stepd_engine.workers'::regclass::oid::bigint), 8, '0'))::bit(32)::integer
$$;
COMMENT ON FUNCTION stepd_engine.lock_class() IS 'The first half of the workers'' advisory lock keys: the oid of their table.';

-- Is the queue closed to claims, and does a returning run of it need admission?
CREATE FUNCTION stepd_engine.queue_limited(queue text) RETURNS boolean LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT q.paused OR NOT q.open OR q.max_running IS NOT NULL FROM stepd_engine.queues q WHERE q.name = queue), false)
$$;
COMMENT ON FUNCTION stepd_engine.queue_limited(text) IS 'Must rows of this queue be admitted before they may be claimed?';

-- Must a run that comes back (from a wait, a pause, a failure) be admitted before it may be claimed? What was running and goes
-- straight back to the claims keeps its place.
CREATE FUNCTION stepd_engine.limited(queue text, workflow text, concurrency_key text) RETURNS boolean LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT stepd_engine.queue_limited(queue) OR concurrency_key IS NOT NULL AND EXISTS (SELECT FROM stepd_engine.workflows w
        WHERE w.name = workflow AND w.flow ? 'concurrency')
$$;
COMMENT ON FUNCTION stepd_engine.limited(text, text, text) IS 'Must a run of this queue, workflow and key be admitted before it may be claimed?';

CREATE TYPE stepd_engine.held_group AS (n integer, queue text, workflow text, key text, rate_key text, open boolean, room integer,
    most integer, when_full text, active integer, starts_most integer, starts integer, next_at timestamptz);
COMMENT ON TYPE stepd_engine.held_group IS 'Held runs that have queue, workflow, concurrency key and rate key in common, with what limits them and what counts already.';
COMMENT ON COLUMN stepd_engine.held_group.n IS 'Its place in the order of the pass, from 1.';
COMMENT ON COLUMN stepd_engine.held_group.queue IS 'The queue.';
COMMENT ON COLUMN stepd_engine.held_group.workflow IS 'The workflow.';
COMMENT ON COLUMN stepd_engine.held_group.key IS 'The concurrency key; empty: none.';
COMMENT ON COLUMN stepd_engine.held_group.rate_key IS 'The rate key; empty: none.';
COMMENT ON COLUMN stepd_engine.held_group.open IS 'May anything of it go? Not while its queue is paused or its workflow is not known.';
COMMENT ON COLUMN stepd_engine.held_group.room IS 'How many more its queue lets run; NULL: any number.';
COMMENT ON COLUMN stepd_engine.held_group.most IS 'The limit of its concurrency key; NULL: none.';
COMMENT ON COLUMN stepd_engine.held_group.when_full IS 'What becomes of new runs when the key is full: queue, skip, cancel_running.';
COMMENT ON COLUMN stepd_engine.held_group.active IS 'How many of the key are under way, counted up to the limit.';
COMMENT ON COLUMN stepd_engine.held_group.starts_most IS 'How many starts its rate allows in its time; NULL: any number.';
COMMENT ON COLUMN stepd_engine.held_group.starts IS 'How many there were in that time, counted up to the limit.';
COMMENT ON COLUMN stepd_engine.held_group.next_at IS 'When a rate that is used up has a place again; NULL: it has one.';

-- From group to group along jobs_held, so that a key costs the same whether one run of it is held or a hundred thousand.
-- A key is counted as far as its limit and no further; one without a limit up to 100, which is enough to be fair by.
CREATE FUNCTION stepd_engine.held_groups(after text[], most_ integer) RETURNS SETOF stepd_engine.held_group LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    -- A plan that is made while the table is small must serve when it is not.
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
BEGIN
    -- Not LANGUAGE sql: that is planned anew at each call, which takes ten times as long as the rest.
    RETURN QUERY WITH RECURSIVE step AS (
        (SELECT 1 AS n, j.queue, j.workflow, coalesce(j.concurrency_key, '') AS key, coalesce(j.rate_key, '') AS rate_key FROM stepd.jobs j
            WHERE j.lane >= 4 AND (j.queue, j.workflow, coalesce(j.concurrency_key, ''), coalesce(j.rate_key, '')) > (after[1], after[2], after[3], after[4])
            ORDER BY j.queue, j.workflow, coalesce(j.concurrency_key, ''), coalesce(j.rate_key, '') LIMIT 1)
        UNION ALL
        SELECT s.n + 1, x.queue, x.workflow, x.key, x.rate_key FROM step s, LATERAL (
            SELECT j.queue, j.workflow, coalesce(j.concurrency_key, '') AS key, coalesce(j.rate_key, '') AS rate_key FROM stepd.jobs j
            WHERE j.lane >= 4 AND (j.queue, j.workflow, coalesce(j.concurrency_key, ''), coalesce(j.rate_key, '')) > (s.queue, s.workflow, s.key, s.rate_key)
            ORDER BY j.queue, j.workflow, coalesce(j.concurrency_key, ''), coalesce(j.rate_key, '') LIMIT 1) x
        WHERE s.n < most_
    ), room AS MATERIALIZED (
        SELECT q.name, q.open AND NOT q.paused AS open, greatest(0, q.max_running - (SELECT count(*) FROM stepd.jobs j WHERE j.lane = 0 AND j.queue = q.name)
            - (SELECT count(*) FROM stepd.jobs j WHERE j.lane IN (1, 2) AND j.queue = q.name))::integer AS room
        FROM stepd_engine.queues q WHERE q.paused OR NOT q.open OR q.max_running IS NOT NULL
    )
    SELECT s.n, s.queue, s.workflow, s.key, s.rate_key, l.known AND coalesce(r.open, true), r.room, l.most, l.when_full, a.active::integer,
        l.starts_most, t.starts::integer, CASE WHEN t.starts >= l.starts_most THEN
            (SELECT x.at + l.per FROM stepd_engine.starts x WHERE x.workflow = s.workflow AND x.key = s.rate_key
                ORDER BY x.at DESC OFFSET l.starts_most - 1 LIMIT 1) END
    FROM step s LEFT JOIN room r ON r.name = s.queue
    CROSS JOIN LATERAL (SELECT count(*) > 0 AS known, min(CASE WHEN s.key <> '' THEN (w.flow #>> '{concurrency,limit}')::integer END) AS most,
            min(w.flow #>> '{concurrency,when_full}') AS when_full,
            min(CASE WHEN s.rate_key <> '' THEN (w.flow #>> '{rate,limit}')::integer END) AS starts_most,
            min((w.flow #>> '{rate,per}')::interval) AS per
        FROM stepd_engine.workflows w WHERE w.name = s.workflow AND w.retired_at IS NULL) l
    CROSS JOIN LATERAL (SELECT count(*) AS active FROM (SELECT FROM stepd.jobs j WHERE s.key <> '' AND j.workflow = s.workflow AND j.concurrency_key = s.key
            AND j.concurrency_key IS NOT NULL AND (j.lane <= 2 OR j.lane = 3 AND j.error IS NOT NULL) AND j.state IN ('queued', 'running', 'resuming')
            LIMIT coalesce(l.most, 100)) x) a
    CROSS JOIN LATERAL (SELECT count(*) AS starts FROM (SELECT FROM stepd_engine.starts x WHERE l.starts_most IS NOT NULL
            AND x.workflow = s.workflow AND x.key = s.rate_key AND x.at > clock_timestamp() - l.per LIMIT l.starts_most) x) t;
END
$$;
COMMENT ON FUNCTION stepd_engine.held_groups(text[], integer) IS 'The next groups of held runs after a place, with their limits and what counts towards them already.';

-- Lets go what the limits allow, of the groups given. Who came back goes first, then by priority, then whose key has the fewest
-- under way: so a tenant with a hundred thousand runs takes no place from one with ten.
CREATE FUNCTION stepd_engine.admit_groups(groups stepd_engine.held_group[], batch integer) RETURNS integer LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    moved integer;
BEGIN
    WITH candidate AS (
        SELECT g.queue, g.room, g.most, g.starts_most, j.place, j.lane, j.priority, j.ready_at, j.id,
            CASE g.key WHEN '' THEN 1 ELSE g.active + row_number() OVER (PARTITION BY g.workflow, g.key ORDER BY j.lane DESC, j.priority, j.ready_at, j.id) END AS nth,
            g.starts + row_number() OVER (PARTITION BY g.workflow, g.rate_key, j.lane ORDER BY j.priority, j.ready_at, j.id) AS nth_start
        FROM unnest(groups) g CROSS JOIN LATERAL (
            (SELECT j.ctid AS place, j.lane, j.priority, j.ready_at, j.id FROM stepd.jobs j
                WHERE j.queue = g.queue AND j.workflow = g.workflow AND coalesce(j.concurrency_key, '') = g.key AND coalesce(j.rate_key, '') = g.rate_key
                    AND j.lane >= 4 AND j.lane = 5 AND j.state = 'held'
                ORDER BY j.priority, j.ready_at, j.id LIMIT greatest(0, least(batch, g.room, g.most - g.active)))
            UNION ALL
            (SELECT j.ctid, j.lane, j.priority, j.ready_at, j.id FROM stepd.jobs j
                WHERE j.queue = g.queue AND j.workflow = g.workflow AND coalesce(j.concurrency_key, '') = g.key AND coalesce(j.rate_key, '') = g.rate_key
                    AND j.lane >= 4 AND j.lane = 4 AND j.state = 'held'
                ORDER BY j.priority, j.ready_at, j.id LIMIT greatest(0, least(batch, g.room, g.most - g.active, g.starts_most - g.starts)))) j
        WHERE g.open
    ), fit AS (
        SELECT c.place, c.room, row_number() OVER (PARTITION BY c.queue ORDER BY c.lane DESC, c.priority, c.nth, c.ready_at, c.id) AS nth
        FROM candidate c WHERE (c.most IS NULL OR c.nth <= c.most) AND (c.starts_most IS NULL OR c.lane = 5 OR c.nth_start <= c.starts_most)
    ), freed AS (
        UPDATE stepd.jobs j SET state = 'queued', lane = CASE j.lane WHEN 4 THEN 0 ELSE 1 END,
                ready_at = CASE j.lane WHEN 4 THEN clock_timestamp() ELSE j.ready_at END
            WHERE j.ctid = ANY (ARRAY(SELECT k.ctid FROM stepd.jobs k WHERE k.ctid = ANY (ARRAY(SELECT f.place FROM fit f WHERE f.nth <= least(f.room, batch)))
                AND k.state = 'held' FOR UPDATE SKIP LOCKED)) AND j.state = 'held'
            RETURNING j.id, j.workflow, j.rate_key, j.lane
    ), log AS (
        INSERT INTO stepd_engine.starts (workflow, key, at, run)
            SELECT f.workflow, f.rate_key, clock_timestamp(), f.id FROM freed f WHERE f.lane = 0 AND f.rate_key IS NOT NULL
    )
    SELECT count(*) INTO moved FROM freed;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION stepd_engine.admit_groups(stepd_engine.held_group[], integer) IS 'Moves held runs of these groups to queued, as far as their limits allow.';

-- when_full: skip ends what is new, cancel_running what is older than the newest as many as the limit allows.
CREATE FUNCTION stepd_engine.turn_away(g stepd_engine.held_group, batch integer) RETURNS integer LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET enable_bitmapscan = off
AS $$
DECLARE
    r record;
    n integer := 0;
    reason text := format('key %s of workflow %s is limited to %s at once', g.key, g.workflow, g.most);
BEGIN
    FOR r IN WITH mine AS (
            SELECT j.id, j.state, true AS new FROM stepd.jobs j WHERE j.queue = g.queue AND j.workflow = g.workflow AND coalesce(j.concurrency_key, '') = g.key
                AND coalesce(j.rate_key, '') = g.rate_key AND j.lane >= 4 AND j.lane = 4 AND j.state = 'held' LIMIT batch
        ), active AS (
            SELECT j.id, j.state, false AS new FROM stepd.jobs j WHERE j.workflow = g.workflow AND j.concurrency_key = g.key AND j.concurrency_key IS NOT NULL
                AND (j.lane <= 2 OR j.lane = 3 AND j.error IS NOT NULL) AND j.state IN ('queued', 'running', 'resuming') LIMIT batch
        )
        SELECT m.id, m.state FROM mine m WHERE g.when_full = 'skip' AND (SELECT count(*) FROM active) >= g.most
        UNION ALL
        (SELECT b.id, b.state FROM (SELECT * FROM mine UNION ALL SELECT * FROM active) b
            WHERE g.when_full = 'cancel_running' AND EXISTS (SELECT FROM mine) ORDER BY b.id DESC OFFSET g.most)
    LOOP
        IF r.state = 'running' THEN
            -- As stepd.cancel does, but never behind anybody: the next pass looks again.
            CONTINUE WHEN EXISTS (SELECT FROM stepd_engine.signals x WHERE x.run = r.id AND x.kind = 'cancel')
                OR NOT pg_try_advisory_xact_lock_shared(stepd_engine.run_lock(r.id));
            INSERT INTO stepd_engine.signals (run, kind, name, payload)
                VALUES (r.id, 'cancel', 'cancel', jsonb_build_object('reason', 'a newer run takes its place: ' || reason));
            INSERT INTO stepd_engine.events (run, kind, data)
                VALUES (r.id, 'cancel_requested', json_build_object('reason', 'a newer run takes its place: ' || reason)::text);
            PERFORM stepd_engine.wake();
        ELSE
            PERFORM FROM stepd.jobs j WHERE j.id = r.id AND j.state = r.state FOR UPDATE SKIP LOCKED;
            CONTINUE WHEN NOT FOUND;
            PERFORM stepd_engine.end_cancelled(r.id, CASE g.when_full WHEN 'skip' THEN 'skipped: ' ELSE 'a newer run takes its place: ' END || reason, NULL);
        END IF;
        n := n + 1;
    END LOOP;
    RETURN n;
END
$$;
COMMENT ON FUNCTION stepd_engine.turn_away(stepd_engine.held_group, integer) IS 'Cancels what a full key turns away, or what has to make room in it.';

-- Admission. One caller at a time does the work: lock, then count.
-- A pass looks at the next `most` groups after a place, so that its cost is bounded however many keys there are. `last` is where the
-- next pass goes on; NULL: the end was reached, begin anew. next_ms: when a rate that is used up has a place again.
-- admitted is NULL where somebody else is at it: nothing was looked at, and the place stays where it is.
CREATE FUNCTION stepd_engine.admit(batch integer, after text[] DEFAULT NULL, most integer DEFAULT 2000,
    OUT admitted integer, OUT next_ms bigint, OUT last text[]) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    q record;
    g stepd_engine.held_group;
    moved integer;
    groups stepd_engine.held_group[];
    counted text[] := '{}';
BEGIN
    IF NOT pg_try_advisory_xact_lock(stepd_engine.lock_class(), -1) THEN
        -- Who is at it may have counted before a place became free that the caller knows of.
        next_ms := 10;
        last := after;
        RETURN;
    END IF;
    admitted := 0;
    FOR q IN SELECT name, paused FROM stepd_engine.queues WHERE NOT open ORDER BY name LOOP
        -- Newly paused or limited: what is queued and unclaimed goes back to held, in batches.
        UPDATE stepd.jobs SET state = 'held', lane = CASE lane WHEN 0 THEN 4 ELSE 5 END
            WHERE ctid = ANY (ARRAY(SELECT j.ctid FROM stepd.jobs j
                -- In the order of the ready index, so that it is the index that is read and not the table.
                WHERE j.lane = 0 AND j.queue = q.name AND j.state = 'queued'
                ORDER BY j.queue, j.priority, j.ready_at, j.id LIMIT batch FOR UPDATE SKIP LOCKED)
                || ARRAY(SELECT j.ctid FROM stepd.jobs j WHERE j.lane = 1 AND j.queue = q.name AND j.state = 'queued'
                ORDER BY j.lane, j.queue, (j.streak >= 4), j.priority, j.ready_at, j.id LIMIT batch FOR UPDATE SKIP LOCKED))
            AND state = 'queued';
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF moved = 0 THEN counted := counted || q.name; END IF;
    END LOOP;
    groups := ARRAY(SELECT x FROM stepd_engine.held_groups(coalesce(after, '{"","","",""}'), most) x ORDER BY x.n);
    IF cardinality(groups) = most THEN
        last := ARRAY[groups[most].queue, groups[most].workflow, groups[most].key, groups[most].rate_key];
    END IF;
    admitted := stepd_engine.admit_groups(groups, batch);
    FOREACH g IN ARRAY groups LOOP
        IF g.open AND g.most IS NOT NULL AND g.when_full <> 'queue' THEN
            admitted := admitted + stepd_engine.turn_away(g, batch);
        END IF;
    END LOOP;
    SELECT greatest(0, ceil(extract(epoch FROM min(x.next_at) - clock_timestamp()) * 1000))::bigint INTO next_ms
        FROM unnest(groups) x WHERE x.open AND x.next_at IS NOT NULL HAVING count(*) > 0;
    -- All that stood in them is counted: they are open for the next pass.
    UPDATE stepd_engine.queues x SET open = true WHERE x.name = ANY (counted) AND NOT x.paused;
    IF FOUND THEN
        PERFORM stepd_engine.wake();
    ELSIF admitted > 0 THEN
        -- A claim is enough: passes of all the other workers would find nothing, and delay the next that is of use.
        PERFORM pg_notify('stepd', 'job') FROM stepd_engine.settings s WHERE s.notify;
        -- What has been let go now may have used a rate up.
        IF EXISTS (SELECT FROM unnest(groups) x WHERE x.starts_most IS NOT NULL) THEN next_ms := 0; END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION stepd_engine.admit(integer, text[], integer) IS 'Admission: one caller at a time counts from rows and moves held rows to queued, as far as the limits of queues, keys and rates allow.';

-- The circuit breaker of automatic resumes. What fails is a step of a workflow: its target, one name for the rows, the trail and the
-- people, whatever the step calls. When many runs wait to be resumed after a failure there, one probes and the others stay; when its
-- step completes, all go on. `due` are the rows that the caller has locked: those that must stay get a later time.
CREATE FUNCTION stepd_engine.heed_breaker(workflow_ text, target_ text, due tid[]) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b stepd_engine.breakers%ROWTYPE;
    s stepd_engine.settings%ROWTYPE;
    p record;
    again timestamptz;
    -- A probe is out.
    soon boolean := false;
    looks tid;
    now_ timestamptz := clock_timestamp();
    failing bigint;
    moved integer;
    most CONSTANT integer := 2000;
BEGIN
    SELECT * INTO s FROM stepd_engine.settings;
    SELECT * INTO b FROM stepd_engine.breakers x WHERE x.workflow = workflow_ AND x.target = target_ FOR UPDATE SKIP LOCKED;
    IF NOT FOUND AND EXISTS (SELECT FROM stepd_engine.breakers x WHERE x.workflow = workflow_ AND x.target = target_) THEN
        -- Another stager is at it, and has closed it perhaps.
        again := now_ + interval '1 s';
    ELSIF b.workflow IS NULL OR b.closed_at IS NOT NULL THEN
        SELECT count(*) INTO failing FROM (SELECT FROM stepd.jobs j WHERE j.workflow = workflow_ AND j.target = target_ AND j.target IS NOT NULL AND j.state = 'resuming'
            AND (b.closed_at IS NULL OR EXISTS (SELECT FROM stepd_engine.events e WHERE e.run = j.id AND e.kind = 'resume_scheduled' AND e.at > b.closed_at))
            LIMIT s.breaker_after) x;
        IF failing < s.breaker_after THEN RETURN; END IF;
        again := now_ + s.breaker_probe;
        INSERT INTO stepd_engine.breakers AS x (workflow, target, next_at) VALUES (workflow_, target_, again)
            ON CONFLICT (workflow, target) DO UPDATE SET opened_at = now_, closed_at = NULL, probe = NULL, next_at = excluded.next_at;
    ELSE
        IF b.probe IS NOT NULL THEN
            SELECT stepd_engine.state_of(b.probe) AS state,
                EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = b.probe AND c.checkpoint AND c.state = 'completed' AND c.ended_at >= b.probe_at - interval '1 s'
                    AND stepd_engine.target_of(c.key) = target_) AS done INTO p;
            IF p.state = 'completed' OR p.done THEN
                -- Some at a time: those that are due now bring the next pass, which brings the others. Behind nobody: what somebody's
                -- open transaction has locked goes on when its own time comes.
                UPDATE stepd.jobs j SET due_at = now_ WHERE j.ctid = ANY (ARRAY(SELECT k.ctid FROM stepd.jobs k
                    WHERE k.workflow = workflow_ AND k.target = target_ AND k.target IS NOT NULL AND k.state = 'resuming' AND k.due_at > now_
                    LIMIT most FOR UPDATE SKIP LOCKED)) AND j.state = 'resuming';
                GET DIAGNOSTICS moved = ROW_COUNT;
                IF moved < most THEN
                    UPDATE stepd_engine.breakers x SET closed_at = now_, probe = NULL WHERE x.workflow = workflow_ AND x.target = target_;
                END IF;
                RETURN;
            ELSIF p.state IN ('queued', 'held', 'running') THEN
                soon := true;
            ELSE
                -- It has failed again; or somebody has stopped it, which says nothing.
                again := now_ + CASE WHEN p.state IN ('resuming', 'failed') THEN s.breaker_probe ELSE '0' END;
                UPDATE stepd_engine.breakers x SET probe = NULL, next_at = again WHERE x.workflow = workflow_ AND x.target = target_;
            END IF;
        ELSE
            again := b.next_at;
        END IF;
        IF NOT soon AND again <= now_ THEN
            SELECT j.id INTO b.probe FROM stepd.jobs j WHERE j.ctid = ANY (due) AND j.workflow = workflow_ AND j.target = target_ AND j.state = 'resuming'
                ORDER BY j.due_at, j.id LIMIT 1;
            soon := true;
            UPDATE stepd_engine.breakers x SET probe = b.probe, probe_at = now_ WHERE x.workflow = workflow_ AND x.target = target_;
        ELSE
            b.probe := NULL;
        END IF;
    END IF;
    IF soon THEN
        -- One comes back in a second, to see what has become of the probe. All of them every second would be a hundred thousand rows
        -- written again and again, for as long as a service is away.
        SELECT j.ctid INTO looks FROM stepd.jobs j WHERE j.ctid = ANY (due) AND j.workflow = workflow_ AND j.target = target_ AND j.state = 'resuming'
            AND j.id IS DISTINCT FROM b.probe ORDER BY j.due_at, j.id LIMIT 1;
        UPDATE stepd.jobs j SET due_at = now_ + interval '1 s' WHERE j.ctid = looks AND j.state = 'resuming';
        due := array_remove(due, looks);
        again := now_ + s.breaker_probe;
    END IF;
    UPDATE stepd.jobs j SET due_at = again
        WHERE j.ctid = ANY (due) AND j.workflow = workflow_ AND j.target = target_ AND j.state = 'resuming' AND j.id IS DISTINCT FROM b.probe;
END
$$;
COMMENT ON FUNCTION stepd_engine.heed_breaker(text, text, tid[]) IS 'Keeps resumes from a step that keeps failing, but for one that probes.';

CREATE FUNCTION stepd_engine.target_of(key text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN regexp_replace(key, '\[[0-9]+\]', '[]', 'g');
COMMENT ON FUNCTION stepd_engine.target_of(text) IS 'A step''s key without the numbers of items: docs[12].text is docs[].text.';

-- Moves what is due: scheduled to ready, waiting and resuming back to a worker. A tombstone whose time is over goes.
CREATE FUNCTION stepd_engine.stage(batch integer, OUT staged integer, OUT next_ms bigint) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- A variable, for clock_timestamp() in the condition would keep the index from being used.
    now_ timestamptz := clock_timestamp();
    due tid[];
    r record;
BEGIN
    due := ARRAY(SELECT d.ctid FROM stepd.jobs d WHERE d.due_at <= now_ ORDER BY d.due_at LIMIT batch FOR UPDATE SKIP LOCKED);
    staged := 0;
    IF cardinality(due) > 0 THEN
        DELETE FROM stepd.jobs j WHERE j.ctid = ANY (due) AND j.state IN ('completed', 'failed', 'cancelled');
        FOR r IN SELECT DISTINCT j.workflow, j.target FROM stepd.jobs j WHERE j.ctid = ANY (due) AND j.state = 'resuming' AND j.target IS NOT NULL ORDER BY 1, 2 LOOP
            PERFORM stepd_engine.heed_breaker(r.workflow, r.target, due);
        END LOOP;
        UPDATE stepd.jobs j SET
                state = CASE WHEN l.limited THEN 'held' ELSE 'queued' END::stepd.run_state,
                lane = CASE WHEN j.state = 'scheduled' THEN 0 ELSE 1 END + CASE WHEN l.limited THEN 4 ELSE 0 END,
                ready_at = CASE WHEN j.state = 'scheduled' THEN clock_timestamp() ELSE j.ready_at END,
                resumes = least(j.resumes + CASE WHEN j.state = 'resuming' THEN 1 ELSE 0 END, 32767),
                due_at = NULL, target = NULL
            FROM (SELECT d.ctid AS place, stepd_engine.limited(d.queue, d.workflow, d.concurrency_key) OR d.state = 'scheduled' AND d.rate_key IS NOT NULL AS limited
                FROM stepd.jobs d WHERE d.ctid = ANY (due) OFFSET 0) l
            WHERE j.ctid = l.place AND j.state IN ('scheduled', 'waiting', 'resuming');
        GET DIAGNOSTICS staged = ROW_COUNT;
    END IF;
    IF staged > 0 THEN PERFORM stepd_engine.wake(); END IF;
    -- greatest() passes over NULLs: without the CASE a table where nothing waits would say "at once".
    SELECT CASE WHEN min(d.due_at) IS NOT NULL
            THEN greatest(0, ceil(extract(epoch FROM min(d.due_at) - clock_timestamp()) * 1000)) END::bigint INTO next_ms
        FROM stepd.jobs d WHERE d.due_at IS NOT NULL;
END
$$;
COMMENT ON FUNCTION stepd_engine.stage(integer) IS 'Stages what is due, and says in how many milliseconds the next is (NULL: nothing waits for time).';

-- Completes one waiting step and, when its run is suspended, brings the run back. True when the step was waiting.
CREATE FUNCTION stepd_engine.answer(run_ uuid, key_ text, output_ text, error_ text) RETURNS boolean LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind_ text;
BEGIN
    -- The job's row first, as a cancel does: the other way round they could wait for each other. A running run's row is left alone.
    PERFORM FROM stepd.jobs j WHERE j.id = run_ AND j.state IN ('waiting', 'paused') FOR UPDATE;
    UPDATE stepd_engine.checkpoints c SET
            state = CASE WHEN error_ IS NULL THEN 'completed' ELSE 'failed' END::stepd.step_state,
            checkpoint = error_ IS NULL, output = output_, error = error_, ended_at = clock_timestamp(), due_at = NULL
        WHERE c.run = run_ AND c.key = key_ AND c.state = 'waiting' RETURNING c.kind INTO kind_;
    IF NOT FOUND THEN RETURN false; END IF;
    -- Its child is not wanted any more: its time is up.
    IF kind_ = 'workflow' THEN PERFORM stepd_engine.let_children_go(run_, key_, 'its parent does not wait for it any more'); END IF;
    PERFORM stepd_engine.bring_back(run_, error_ IS NULL);
    RETURN true;
END
$$;
COMMENT ON FUNCTION stepd_engine.answer(uuid, text, text, text) IS 'Answers a waiting step, and wakes its run in the same transaction.';

-- answered: with a new checkpoint, so that no crash before it and none after it are in a row. (An answer to a run that is still
-- running is not counted: its worker goes on from it, and the next checkpoint is.)
-- A paused run stays paused; what it waited for has come, so that an unpause brings it to a worker.
-- rest: not at once, but within this time.
CREATE FUNCTION stepd_engine.bring_back(run_ uuid, answered boolean DEFAULT false, rest interval DEFAULT NULL) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    state_ stepd.run_state;
BEGIN
    IF rest IS NOT NULL THEN
        UPDATE stepd.jobs j SET due_at = least(j.due_at, clock_timestamp() + rest), streak = CASE WHEN answered THEN 0 ELSE j.streak END
            WHERE j.id = run_ AND j.state = 'waiting';
        IF FOUND THEN
            PERFORM stepd_engine.wake();
            RETURN;
        END IF;
    END IF;
    UPDATE stepd.jobs j SET due_at = NULL, streak = CASE WHEN answered THEN 0 ELSE j.streak END,
            state = CASE WHEN j.state = 'paused' THEN 'paused' WHEN l.limited THEN 'held' ELSE 'queued' END::stepd.run_state,
            lane = CASE WHEN j.state = 'paused' THEN 3 WHEN l.limited THEN 5 ELSE 1 END
        FROM (SELECT d.id, stepd_engine.limited(d.queue, d.workflow, d.concurrency_key) AS limited FROM stepd.jobs d WHERE d.id = run_) l
        WHERE j.id = l.id AND j.state IN ('waiting', 'paused') RETURNING j.state INTO state_;
    IF state_ = 'paused' THEN
        UPDATE stepd_engine.signals g SET payload = g.payload - 'from' - 'due_at'
            WHERE g.run = run_ AND g.kind = 'pause' AND g.payload ->> 'from' = 'waiting';
        RETURN;
    END IF;
    -- A run that is still running hears of the answer from its worker's own look.
    PERFORM stepd_engine.wake();
END
$$;
COMMENT ON FUNCTION stepd_engine.bring_back(uuid, boolean, interval) IS 'A waiting run becomes ready again; a paused one will be when its pause ends.';

-- Each time that it comes back, a run's whole journal is loaded. Woken for each of a thousand children it would load a million records:
-- while others are at work it is woken for several together. The last one wakes it at once.
CREATE FUNCTION stepd_engine.rest_of_parent(run_ uuid) RETURNS interval LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
    -- Those at work are asked for by themselves: among the first thousand of many there may be none.
    SELECT CASE WHEN count(*) >= 50 AND EXISTS (SELECT FROM stepd_engine.children c WHERE c.parent = run_ AND c.attached AND NOT c.settled)
            THEN count(*) * interval '0.5 milliseconds' END
        FROM (SELECT FROM stepd_engine.children c WHERE c.parent = run_ AND c.attached LIMIT 1000) k
$$;
COMMENT ON FUNCTION stepd_engine.rest_of_parent(uuid) IS 'How long a run with many children may be left alone after the end of one; NULL: not at all.';

CREATE FUNCTION stepd_engine.fits(payload jsonb, match jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    -- Containment alone would keep a wait without conditions from a payload that is no object.
    SELECT match IS NULL OR match OPERATOR(pg_catalog.=) '{}'::pg_catalog.jsonb OR payload OPERATOR(pg_catalog.@>) match
$$;
COMMENT ON FUNCTION stepd_engine.fits(jsonb, jsonb) IS 'Does a payload meet a wait''s match? No match, or {}, is met by everything.';

-- NULL where there are too many to be looked up one by one.
CREATE FUNCTION stepd_engine.match_keys(payload jsonb) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE found (path, value, depth) AS (
        SELECT '', payload, 0
        UNION ALL
        SELECT f.path || e.key || '/', e.value, f.depth + 1
            FROM found f, jsonb_each(CASE jsonb_typeof(f.value) WHEN 'object' THEN f.value ELSE '{}' END) e WHERE f.depth < 16
    ), few AS MATERIALIZED (SELECT f.path, f.value FROM found f LIMIT 1001)
    SELECT CASE WHEN count(*) <= 1000 THEN coalesce(array_agg(stepd_engine.place_key(f.path, f.value)) FILTER (WHERE jsonb_typeof(f.value) NOT IN ('object', 'array')), '{}') || 0::bigint END
        FROM few f
$$;
COMMENT ON FUNCTION stepd_engine.match_keys(jsonb) IS 'Every match_key of a match that this payload fits.';

-- One statement for both would walk all waits of the name.
CREATE FUNCTION stepd_engine.waits_for(event_ text, payload jsonb) RETURNS TABLE (run uuid, key text) LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
DECLARE
    keys_ bigint[];
BEGIN
    IF NOT EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.state = 'waiting' AND c.event = event_) THEN RETURN; END IF;
    keys_ := stepd_engine.match_keys(payload);
    IF keys_ IS NULL THEN
        RETURN QUERY SELECT c.run, c.key FROM stepd_engine.checkpoints c
            WHERE c.state = 'waiting' AND c.event = event_ AND stepd_engine.fits(payload, c.match) ORDER BY c.run, c.key;
    ELSE
        RETURN QUERY SELECT c.run, c.key FROM stepd_engine.checkpoints c
            WHERE c.state = 'waiting' AND c.event = event_ AND stepd_engine.match_key(c.match) = ANY (keys_) AND stepd_engine.fits(payload, c.match)
            ORDER BY c.run, c.key;
    END IF;
END
$$;
COMMENT ON FUNCTION stepd_engine.waits_for(text, jsonb) IS 'The steps that wait for this event with this payload.';

-- By signals_events where everything fits, by signals_matched where not: one statement for both would walk all events of the name.
CREATE FUNCTION stepd_engine.kept_event(run_ uuid, event_ text, match_ jsonb) RETURNS bigint LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
AS $$
DECLARE
    found_ bigint;
BEGIN
    IF match_ IS NULL OR match_ = '{}' THEN
        SELECT g.id INTO found_ FROM stepd_engine.signals g
            WHERE g.run IS NULL AND g.name = event_ AND g.expires_at > clock_timestamp()
              AND NOT EXISTS (SELECT FROM stepd_engine.events e WHERE e.run = run_ AND e.kind = 'event_received' AND e.data = g.id::text)
            ORDER BY g.id LIMIT 1;
    ELSE
        SELECT min(g.id) INTO found_
            FROM (SELECT x.id, x.name, x.payload, x.expires_at FROM stepd_engine.signals x
                WHERE x.run IS NULL AND jsonb_set('{}', ARRAY[x.name], x.payload) @> jsonb_set('{}', ARRAY[event_], match_) OFFSET 0) g
            WHERE g.name = event_ AND g.expires_at > clock_timestamp() AND stepd_engine.fits(g.payload, match_)
              AND NOT EXISTS (SELECT FROM stepd_engine.events e WHERE e.run = run_ AND e.kind = 'event_received' AND e.data = g.id::text);
    END IF;
    RETURN found_;
END
$$;
COMMENT ON FUNCTION stepd_engine.kept_event(uuid, text, jsonb) IS 'The oldest kept event that meets a wait and that its run has not received yet.';

CREATE FUNCTION stepd_engine.event_lock(name text) RETURNS bigint LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT hashtextextended('stepd event ' || name, 0)
$$;
COMMENT ON FUNCTION stepd_engine.event_lock(text) IS 'The advisory lock of an event''s name: emitters share it, a late waiter takes it alone.';

CREATE FUNCTION stepd_engine.run_lock(run uuid) RETURNS bigint LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT hashtextextended('stepd run ' || run::text, 0)
$$;
COMMENT ON FUNCTION stepd_engine.run_lock(uuid) IS 'The advisory lock of what people ask of a run: approvals, cancels and pauses share it, the look after a suspend takes it alone.';

-- Called after a wait has been committed, on a connection of its own: an emit that was under way while
-- the wait was recorded holds the name's lock; once it is let go, a new snapshot sees what it kept.
CREATE FUNCTION stepd_engine.settle_wait(run_ uuid, key_ text) RETURNS boolean LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c record;
    s record;
BEGIN
    SELECT event, match INTO c FROM stepd_engine.checkpoints WHERE run = run_ AND key = key_ AND state = 'waiting';
    IF NOT FOUND THEN
        -- Answered between the wait and the suspend, when there was no waiting run to bring back.
        PERFORM stepd_engine.bring_back(run_);
        RETURN true;
    END IF;
    IF c.event IS NULL THEN RETURN false; END IF;
    -- Never waits: an emitter may keep its transaction open for long, and holds rows that an answer needs. NULL: ask again.
    IF NOT pg_try_advisory_xact_lock(stepd_engine.event_lock(c.event)) THEN RETURN NULL; END IF;
    SELECT g.id, g.run, g.payload INTO s FROM stepd_engine.signals g
        WHERE g.id = least(stepd_engine.kept_event(run_, c.event, c.match),
            (SELECT min(x.id) FROM stepd_engine.signals x WHERE x.run = run_ AND x.name = c.event AND x.kind = 'signal'
                AND x.taken_by IS NULL AND stepd_engine.fits(x.payload, c.match)));
    IF NOT FOUND THEN RETURN false; END IF;
    RETURN stepd_engine.deliver(s.id, run_, key_, s.payload, s.run IS NOT NULL);
END
$$;
COMMENT ON FUNCTION stepd_engine.settle_wait(uuid, text) IS 'Looks for a kept signal or event that a new wait has missed; NULL when an open transaction holds the event''s name.';

-- Called after a suspend has been committed: an answer that came between the wait and the suspend found the
-- run still running and could not wake it.
CREATE FUNCTION stepd_engine.settle(run_ uuid, keys text[]) RETURNS boolean LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    -- A plan that was made while the tables were small is kept until somebody has analyzed them: with a walk of two of them in it, the
    -- end of each of thousands of children would cost as much as all of them.
    SET enable_seqscan = off
AS $$
DECLARE
    r record;
    locked uuid[];
    settled boolean := true;
    parent_ boolean := false;
BEGIN
    -- Approvals, cancels and pauses that are under way hold this shared; with it, a new snapshot sees what they did.
    IF NOT pg_try_advisory_xact_lock(stepd_engine.run_lock(run_)) THEN RETURN false; END IF;
    -- Nor behind a signal or an event whose sender has not committed yet, and who has answered one of several waits.
    PERFORM FROM stepd.jobs j WHERE j.id = run_ AND j.state <> 'running' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND AND EXISTS (SELECT FROM stepd.jobs j WHERE j.id = run_ AND j.state <> 'running') THEN RETURN false; END IF;
    FOR r IN SELECT k.key, c.kind FROM unnest(keys) AS k(key) LEFT JOIN stepd_engine.checkpoints c ON c.run = run_ AND c.key = k.key LOOP
        IF r.kind = 'workflow' THEN
            parent_ := true;
        ELSE
            settled := (stepd_engine.settle_wait(run_, r.key) IS NOT NULL) AND settled;
        END IF;
    END LOOP;
    -- There may be thousands: not one by one.
    IF parent_ THEN
        SELECT x.again INTO locked FROM stepd_engine.tell_parents(ARRAY(SELECT k.child FROM stepd_engine.children k
            WHERE k.parent = run_ AND k.key = ANY (keys) AND k.attached AND NOT k.settled)) x;
        settled := cardinality(locked) = 0 AND settled;
    END IF;
    IF EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = run_ AND c.key = ANY (keys) AND c.state <> 'waiting') THEN
        PERFORM stepd_engine.bring_back(run_, false, CASE WHEN parent_ THEN stepd_engine.rest_of_parent(run_) END);
    END IF;
    PERFORM stepd_engine.cancel_now(run_, g.payload ->> 'reason', g.by_whom) FROM stepd_engine.signals g
        WHERE g.run = run_ AND g.kind = 'cancel' ORDER BY g.id LIMIT 1;
    PERFORM stepd_engine.settle_pause(run_);
    RETURN settled;
END
$$;
COMMENT ON FUNCTION stepd_engine.settle(uuid, text[]) IS 'Closes the gap between a wait and the suspend that follows it; false when an open transaction is in the way, and it must be called again.';

CREATE FUNCTION stepd_engine.deliver(signal_ bigint, run_ uuid, key_ text, payload_ jsonb, taken_ boolean) RETURNS boolean LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT stepd_engine.answer(run_, key_, payload_::text, NULL) THEN RETURN false; END IF;
    IF taken_ THEN UPDATE stepd_engine.signals SET taken_by = key_ WHERE id = signal_; END IF;
    INSERT INTO stepd_engine.events (run, kind, key, data) VALUES (run_, 'event_received', key_, signal_::text);
    RETURN true;
END
$$;
COMMENT ON FUNCTION stepd_engine.deliver(bigint, uuid, text, jsonb, boolean) IS 'Gives one signal or event to one waiting step.';

-- The second half of a sql step in stepd's own database: the checkpoint in the transaction of the effect.
CREATE FUNCTION stepd_engine.commit_step(run_ uuid, worker_ uuid, epoch_ integer, key_ text, kind_ text, seq_ integer,
    attempts_ integer, started_at_ timestamptz, output_ text, label_ text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM stepd_engine.workers w WHERE w.id = worker_ FOR KEY SHARE;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM FROM stepd.jobs j WHERE j.id = run_ AND j.epoch = epoch_ AND j.worker = worker_ AND j.state = 'running';
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output, label)
        VALUES (run_, seq_, epoch_, started_at_, clock_timestamp(), attempts_, true, 'completed', key_, kind_, output_, label_)
        ON CONFLICT (run, key) DO UPDATE SET epoch = excluded.epoch, ended_at = excluded.ended_at, attempts = excluded.attempts,
            checkpoint = true, state = 'completed', output = excluded.output, error = NULL
            WHERE NOT checkpoints.checkpoint;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION stepd_engine.commit_step(uuid, uuid, integer, text, text, integer, integer, timestamptz, text, text) IS
    'Records a finished sql step under its lease; false when the lease is lost or the step is done already, and the caller must roll back. The one thing of this schema that the role of sql steps may use.';

-- The one way in which a run changes hands. First the worker's row goes, then, in a second statement with
-- a new snapshot, its runs: a write batch of the worker either committed before, or finds its row gone.
-- The heartbeat counter must still be the one that the caller has watched: a worker that has come back meanwhile has beaten, and
-- may have lost its session once more just now.
-- by_lock: only while the marker stands under this start of Postgres, and the lock is free now. Otherwise by lease.
-- Returns NULL when this worker was not to be taken (alive, busy, or taken by another); else what became of its runs, and the evidence.
CREATE FUNCTION stepd_engine.take_over(victim uuid, by_lock boolean, seen_beat bigint, sweeper uuid, solo_after integer, crash_limit integer,
    OUT requeued integer, OUT quarantined integer, OUT locked integer, OUT evidence jsonb) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    w record;
BEGIN
    SELECT * INTO w FROM stepd_engine.workers k WHERE k.id = victim FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR w.beat IS DISTINCT FROM seen_beat THEN RETURN; END IF;
    IF by_lock THEN
        IF NOT EXISTS (SELECT FROM stepd_engine.worker_sessions s WHERE s.worker = victim AND s.started = pg_postmaster_start_time()) THEN RETURN; END IF;
        IF NOT pg_try_advisory_xact_lock(stepd_engine.lock_class(), w.number) THEN RETURN; END IF;
    END IF;
    evidence := jsonb_build_object('worker', w.id, 'host', w.host, 'pid', w.pid, 'version', w.version,
        'found_by', CASE WHEN by_lock THEN 'lock' ELSE 'lease' END, 'sweeper', sweeper,
        'last_beat_at', w.beat_at, 'facts', w.facts);
    DELETE FROM stepd_engine.workers k WHERE k.id = victim;
    DELETE FROM stepd_engine.worker_sessions s WHERE s.worker = victim;
    -- A new statement, a new snapshot: everything that the victim committed before its row went is seen.
    SELECT r.requeued, r.quarantined, r.locked, r.told INTO requeued, quarantined, locked, evidence
        FROM stepd_engine.requeue(victim, evidence, solo_after, crash_limit) r;
END
$$;
COMMENT ON FUNCTION stepd_engine.take_over(uuid, boolean, bigint, uuid, integer, integer) IS
    'Ends a dead worker''s registration and brings its runs back; runs that keep killing their workers end as crash_loop.';

-- Brings back the runs of a worker whose row is gone. Waits for nobody: a row that somebody's open transaction has locked stays
-- behind (locked says how many), harmless, for no write of its worker fits any more. It follows when this is called again, with the
-- evidence that came back (told): by the sweeper that began, or by the repair.
-- A run that was alone with its dead worker is twice as suspect as one in company: where workers die for other reasons, the
-- many that were there must not each end up waiting to be run alone.
-- least: a count that somebody has written by hand must not keep the other runs of a dead worker from coming back.
CREATE FUNCTION stepd_engine.requeue(victim uuid, evidence jsonb, solo_after integer, crash_limit integer,
    OUT requeued integer, OUT quarantined integer, OUT locked integer, OUT told jsonb) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids uuid[];
    mine uuid[];
BEGIN
    -- By lane, so that the two claim indexes lead to the running rows past a million scheduled or waiting ones.
    mine := ARRAY(SELECT a.id FROM stepd.jobs a WHERE a.lane = 0 AND a.worker = victim AND a.state = 'running'
        UNION ALL SELECT b.id FROM stepd.jobs b WHERE b.lane = 2 AND b.worker = victim AND b.state = 'running');
    WITH held AS (
        SELECT j.id, j.started OR EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = j.id AND c.epoch = j.epoch) AS begun,
            EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = j.id AND c.epoch = j.epoch AND c.checkpoint) AS progressed,
            stepd_engine.queue_limited(j.queue) AS limited
        FROM stepd.jobs j WHERE j.id = ANY (mine) AND j.worker = victim AND j.state = 'running'
    ), company AS (
        SELECT coalesce((evidence ->> 'alone')::boolean, count(*) FILTER (WHERE h.begun) = 1) AS alone, count(*)::integer AS n FROM held h
    ), back AS (
        UPDATE stepd.jobs j SET epoch = least(j.epoch, 2147483646) + 1, worker = NULL, started = false, taken = true,
                crashes = least(j.crashes + h.begun::integer, 32767),
                streak = least(CASE WHEN h.progressed THEN 0 ELSE j.streak END + CASE WHEN NOT h.begun THEN 0 WHEN y.alone THEN 2 ELSE 1 END, 32767),
                state = CASE WHEN h.limited THEN 'held' ELSE 'queued' END::stepd.run_state,
                lane = CASE WHEN h.limited THEN 5 ELSE 1 END
            FROM held h, company y
            WHERE j.id = h.id AND j.worker = victim AND j.state = 'running'
                AND j.ctid = ANY (ARRAY(SELECT f.ctid FROM stepd.jobs f WHERE f.id = ANY (mine) AND f.worker = victim AND f.state = 'running'
                    FOR UPDATE SKIP LOCKED))
            RETURNING j.id, j.epoch, h.begun, j.streak
    ), told AS (
        INSERT INTO stepd_engine.events (run, epoch, kind, data)
            SELECT b.id, b.epoch - 1, CASE WHEN b.begun THEN 'crashed' ELSE 'taken_over' END, (evidence || jsonb_build_object('steps',
                (SELECT coalesce(jsonb_agg(c.key ORDER BY c.seq), '[]') FROM stepd_engine.checkpoints c WHERE c.run = b.id AND c.state = 'running')))::text
            FROM back b
    )
    SELECT count(b.id), array_agg(b.id) FILTER (WHERE b.streak >= solo_after + crash_limit), y.n - count(b.id),
            evidence || jsonb_build_object('alone', y.alone)
        INTO requeued, ids, locked, told FROM company y LEFT JOIN back b ON true GROUP BY y.n, y.alone;
    quarantined := 0;
    IF ids IS NOT NULL THEN
        quarantined := stepd_engine.quarantine(ids, evidence);
        requeued := requeued - quarantined;
    END IF;
    IF requeued > 0 THEN PERFORM stepd_engine.wake(); END IF;
END
$$;
COMMENT ON FUNCTION stepd_engine.requeue(uuid, jsonb, integer, integer) IS
    'Brings back the runs of a worker whose registration is gone; what somebody else has locked stays behind and is counted.';

-- What steps said may hold what no jsonb can (a NUL, a number beyond numeric): then as text. A cast that fails here would keep every
-- run of a dead worker from coming back.
CREATE FUNCTION stepd_engine.as_jsonb(data text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN data::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded OR statement_too_complex THEN
    RETURN to_jsonb(data);
END
$$;
COMMENT ON FUNCTION stepd_engine.as_jsonb(text) IS 'JSON text as jsonb; what no jsonb can hold, as a string.';

-- The caller has locked the rows, and written their `ended` rows.
CREATE FUNCTION stepd_engine.bury(ids uuid[]) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM stepd.jobs j WHERE j.id = ANY (ids) AND j.unique_keep IS NULL;
    -- As write_batch.sql does.
    UPDATE stepd.jobs j SET state = e.state, lane = 3, due_at = stepd_engine.key_ends(j.unique_keep), worker = NULL, started = false, taken = false,
            streak = 0, definition = NULL, input = '{}', labels = '{}', traceparent = NULL, session_id = NULL, error = NULL, target = NULL
        FROM stepd_engine.ended e WHERE j.id = ANY (ids) AND j.unique_keep IS NOT NULL AND e.id = j.id;
END
$$;
COMMENT ON FUNCTION stepd_engine.bury(uuid[]) IS 'Removes the rows of runs that have ended; one whose unique key outlives it becomes a tombstone.';
CREATE FUNCTION stepd_engine.crash_loop(run_ uuid, crashes smallint, evidence jsonb) RETURNS text LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('class', 'permanent', 'code', 'crash_loop',
        'message', format('the run was quarantined: %s workers died while they ran it, the last of them while it ran alone and without a new checkpoint between them%s', crashes,
            CASE WHEN (evidence #>> '{facts,seen,oom_kills}')::bigint > 0 THEN '; the kernel killed in that worker''s memory group, for want of memory' ELSE '' END),
        'details', evidence || jsonb_build_object('deaths',
            (SELECT jsonb_agg(stepd_engine.as_jsonb(e.data) ORDER BY e.id) FROM stepd_engine.events e WHERE e.run = run_ AND e.kind = 'crashed'),
            'last_failure', (SELECT stepd_engine.as_jsonb(e.data) FROM stepd_engine.events e WHERE e.run = run_ AND e.kind = 'attempt_failed' ORDER BY e.id DESC LIMIT 1)))::text
$$;
COMMENT ON FUNCTION stepd_engine.crash_loop(uuid, smallint, jsonb) IS 'The failure of a run that keeps killing its workers.';

CREATE FUNCTION stepd_engine.quarantine(ids uuid[], evidence jsonb) RETURNS integer LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    n integer;
    over uuid[];
    r record;
BEGIN
    -- What is to be done at its end is tried once more, alone: it may be something else that kills.
    FOR r IN SELECT j.id, j.crashes FROM stepd.jobs j JOIN stepd_engine.definitions d ON d.id = j.definition
            WHERE j.id = ANY (ids) AND d.handlers AND NOT EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = j.id AND c.key = '(end)')
    LOOP
        IF stepd_engine.begin_end(r.id, 'failed', stepd_engine.crash_loop(r.id, r.crashes, evidence)) THEN
            ids := array_remove(ids, r.id);
            UPDATE stepd.jobs j SET streak = 4 WHERE j.id = r.id;
        END IF;
    END LOOP;
    WITH kept AS (
        INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, run_at, started_at, ended_at,
                worker, workflow, queue, input, labels, unique_key, concurrency_key, traceparent, session_id, created_by, error)
            SELECT g.id, 'failed', g.epoch, g.definition, g.priority, g.resumes, g.crashes, g.ready_at, g.run_at, coalesce(g.first_started_at, g.started_at), clock_timestamp(),
                (evidence ->> 'worker')::uuid, g.workflow, g.queue, g.input, g.labels, g.unique_key, g.concurrency_key, g.traceparent, g.session_id, g.created_by,
                stepd_engine.crash_loop(g.id, g.crashes, evidence)
            FROM stepd.jobs g WHERE g.id = ANY (ids) AND g.state IN ('queued', 'held') RETURNING id
    )
    SELECT count(*), array_agg(k.id) INTO n, over FROM kept k;
    PERFORM stepd_engine.bury(over);
    -- A step that somebody is about to answer, in a transaction that is still open, keeps that answer: the other runs of the dead
    -- worker do not wait for it.
    UPDATE stepd_engine.checkpoints c SET state = CASE c.state WHEN 'running' THEN 'failed' ELSE 'cancelled' END::stepd.step_state,
            ended_at = clock_timestamp(), due_at = NULL
        WHERE c.ctid = ANY (ARRAY(SELECT x.ctid FROM stepd_engine.checkpoints x
            WHERE x.run = ANY (ids) AND x.state IN ('running', 'waiting') FOR UPDATE SKIP LOCKED));
    PERFORM stepd_engine.let_children_go(x.id, NULL, 'its parent was quarantined') FROM unnest(ids) AS x(id);
    PERFORM stepd_engine.tell_parents(ids);
    RETURN n;
END
$$;
COMMENT ON FUNCTION stepd_engine.quarantine(uuid[], jsonb) IS 'Ends runs that keep killing their workers as failed, code crash_loop, with the evidence.';

-- What a lost wake-up or a hole between two statements may have left behind; counts what it mended.
-- A pass looks at the next `batch` unfinished runs after an id, so that its cost is bounded however many wait. `last` is where
-- the next pass goes on; NULL: the end was reached, begin anew. One caller at a time.
-- Without solo_after and crash_limit no stranded run is counted as one that kills its workers.
CREATE FUNCTION stepd_engine.repair(batch integer, after_ uuid DEFAULT NULL, solo_after integer DEFAULT NULL, crash_limit integer DEFAULT NULL,
    OUT mended integer, OUT last uuid) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
    ids uuid[];
BEGIN
    mended := 0;
    IF NOT pg_try_advisory_xact_lock(stepd_engine.lock_class(), -2) THEN RETURN; END IF;
    ids := ARRAY(SELECT j.id FROM stepd.jobs j WHERE j.id > coalesce(after_, '00000000-0000-0000-0000-000000000000') ORDER BY j.id LIMIT batch);
    IF cardinality(ids) = batch THEN last := ids[batch]; END IF;
    -- Running, though its worker is gone: somebody had locked the row when the worker was taken over, and the sweeper died before
    -- it was let go. How many were in company is not known any more.
    FOR r IN SELECT DISTINCT j.worker FROM stepd.jobs j WHERE j.id = ANY (ids) AND j.state = 'running'
            AND NOT EXISTS (SELECT FROM stepd_engine.workers w WHERE w.id = j.worker)
    LOOP
        SELECT mended + q.requeued + q.quarantined INTO mended
            FROM stepd_engine.requeue(r.worker, jsonb_build_object('worker', r.worker, 'found_by', 'repair', 'alone', false), solo_after, crash_limit) q;
    END LOOP;
    -- Suspended, though nothing waits any more: answered between the wait and the suspend.
    FOR r IN SELECT j.id FROM stepd.jobs j WHERE j.id = ANY (ids) AND j.state = 'waiting'
            AND (NOT EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = j.id AND c.state = 'waiting')
                -- Or one of several waits was answered under the very claim that then suspended, and its worker died before it
                -- could settle. At most one wake-up too many for a suspended run: the next claim has another epoch.
                OR EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = j.id AND c.epoch = j.epoch AND c.state IN ('completed', 'failed')
                    AND (c.decision LIKE '{"wait":"event"%' OR c.decision LIKE '{"wait":"approval"%' OR c.decision LIKE '{"wait":"child"%')))
            ORDER BY j.id FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM stepd_engine.bring_back(r.id);
        mended := mended + 1;
    END LOOP;
    -- Waiting for what is already there. By name, so that the names' locks are taken in one order; where somebody's
    -- open transaction holds one, the next pass looks again.
    FOR r IN SELECT c.run, c.key, c.event FROM stepd_engine.checkpoints c
            WHERE c.run = ANY (ids) AND c.state = 'waiting' AND c.event IS NOT NULL
              AND (EXISTS (SELECT FROM stepd_engine.signals g WHERE g.run = c.run AND g.name = c.event AND g.kind = 'signal'
                        AND g.taken_by IS NULL AND stepd_engine.fits(g.payload, c.match))
                OR EXISTS (SELECT FROM stepd_engine.signals g WHERE g.run IS NULL AND g.name = c.event)
                    AND stepd_engine.kept_event(c.run, c.event, c.match) IS NOT NULL)
            ORDER BY c.event, c.run, c.key
    LOOP
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(stepd_engine.event_lock(r.event));
        -- An answer locks the run's row: never behind an operator who has not committed yet.
        PERFORM FROM stepd.jobs j WHERE j.id = r.run AND j.state IN ('waiting', 'paused') FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND AND EXISTS (SELECT FROM stepd.jobs j WHERE j.id = r.run AND j.state IN ('waiting', 'paused'));
        mended := mended + coalesce(stepd_engine.settle_wait(r.run, r.key), false)::integer;
    END LOOP;
    -- Waiting for a child that has ended without telling, or is not there any more.
    SELECT mended + x.told INTO mended FROM stepd_engine.tell_parents(ARRAY(SELECT k.child
        FROM stepd_engine.checkpoints c JOIN stepd_engine.children k ON k.parent = c.run AND k.key = c.key
        WHERE c.run = ANY (ids) AND c.state = 'waiting' AND c.kind = 'workflow' AND k.attached AND NOT k.settled
          AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.id = k.child AND j.state NOT IN ('completed', 'failed', 'cancelled')))) x;
    -- Children for which nobody waits any more, and which nobody has told.
    FOR r IN SELECT k.parent, k.key FROM stepd_engine.children k
            WHERE k.child = ANY (ids) AND k.attached AND NOT k.settled AND (NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.id = k.parent AND j.state NOT IN ('completed', 'failed', 'cancelled'))
                OR EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = k.parent AND c.key = k.key AND c.state = 'cancelled'))
            ORDER BY k.child
    LOOP
        PERFORM stepd_engine.let_children_go(r.parent, r.key, 'its parent has ended without it');
        mended := mended + 1;
    END LOOP;
    mended := mended + stepd_engine.settle_cancels(batch);
    FOR r IN SELECT j.id FROM stepd.jobs j LEFT JOIN stepd_engine.signals g ON g.run = j.id AND g.kind = 'pause'
            WHERE j.id = ANY (ids) AND j.state <> 'running' AND j.state NOT IN ('completed', 'failed', 'cancelled') AND (j.state = 'paused') <> (g.id IS NOT NULL)
            ORDER BY j.id FOR UPDATE OF j SKIP LOCKED
    LOOP
        PERFORM stepd_engine.settle_pause(r.id);
        mended := mended + 1;
    END LOOP;
    DELETE FROM stepd_engine.signals g WHERE g.id IN (
        SELECT x.id FROM stepd_engine.signals x WHERE x.expires_at < clock_timestamp() ORDER BY x.expires_at LIMIT batch FOR UPDATE SKIP LOCKED);
    DELETE FROM stepd_engine.signals g WHERE g.id IN (
        -- In the stretch of this pass: those of runs that live stay, and may be a million.
        SELECT x.id FROM stepd_engine.signals x WHERE x.run IS NOT NULL AND x.at < clock_timestamp() - interval '1 minute'
            AND x.run > coalesce(after_, '00000000-0000-0000-0000-000000000000') AND (last IS NULL OR x.run <= last)
            AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.id = x.run AND j.state NOT IN ('completed', 'failed', 'cancelled'))
            ORDER BY x.run LIMIT batch FOR UPDATE SKIP LOCKED);
    -- No sender tries for so long.
    DELETE FROM stepd_engine.deliveries d WHERE d.ctid = ANY (ARRAY(SELECT x.ctid FROM stepd_engine.deliveries x
        WHERE x.at < clock_timestamp() - interval '7 days' ORDER BY x.at LIMIT batch * 10));
    -- Starts that no window reaches any more, and circuits at which nobody waits.
    FOR r IN SELECT w.name, coalesce((w.flow #>> '{rate,per}')::interval, '0') AS per FROM stepd_engine.workflows w
            WHERE EXISTS (SELECT FROM stepd_engine.starts s WHERE s.workflow = w.name) LOOP
        DELETE FROM stepd_engine.starts s WHERE s.ctid = ANY (ARRAY(SELECT x.ctid FROM stepd_engine.starts x
            WHERE x.workflow = r.name AND x.at < clock_timestamp() - r.per LIMIT batch * 10));
    END LOOP;
    DELETE FROM stepd_engine.breakers b WHERE NOT EXISTS (SELECT FROM stepd.jobs j
        WHERE j.workflow = b.workflow AND j.target = b.target AND j.target IS NOT NULL AND j.state = 'resuming');
END
$$;
COMMENT ON FUNCTION stepd_engine.repair(integer, uuid, integer, integer) IS 'Mends lost wake-ups and removes signals that nobody can receive any more; one bounded pass.';

-- Children -------------------------------------------------------------------------------------------
-- A step and its child are one row of stepd_engine.children, written in the transaction that inserts the job. Locks: no function here
-- waits for another run's row; what is locked is left to the repair.

-- Called by the step's attempt, under its lease. However often, it is one child: until the step has been told of its failure and is
-- tried anew. Then there is another one; but where an operator has taken the failed one up again, that one counts.
CREATE FUNCTION stepd_engine.spawn(run_ uuid, worker_ uuid, epoch_ integer, key_ text, workflow_ text, input_ jsonb, attached_ boolean, most integer,
    OUT spawned uuid, OUT depth_ integer) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    -- A unique key that is in somebody's open transaction: the children of other runs have their turn meanwhile.
    SET lock_timeout = '200ms'
AS $$
DECLARE
    own record;
    was record;
BEGIN
    PERFORM FROM stepd_engine.workers w WHERE w.id = worker_ FOR KEY SHARE;
    IF NOT FOUND THEN RETURN; END IF;
    SELECT j.queue, j.traceparent, j.session_id INTO own FROM stepd.jobs j WHERE j.id = run_ AND j.epoch = epoch_ AND j.worker = worker_ AND j.state = 'running';
    IF NOT FOUND THEN RETURN; END IF;
    SELECT k.child, k.n, k.depth, k.settled, stepd_engine.state_of(k.child) AS state INTO was FROM stepd_engine.children k
        WHERE k.parent = run_ AND k.key = key_ ORDER BY k.n DESC LIMIT 1;
    depth_ := coalesce(was.depth, (SELECT k.depth + 1 FROM stepd_engine.children k WHERE k.child = run_), 1);
    IF was.child IS NOT NULL AND (NOT was.settled OR was.state NOT IN ('failed', 'cancelled')) THEN
        UPDATE stepd_engine.children k SET settled = false WHERE k.child = was.child AND k.settled;
        spawned := was.child;
        RETURN;
    END IF;
    IF depth_ > most THEN RETURN; END IF;
    -- What is tried out on a queue that only its own `stepd run` serves stays there.
    INSERT INTO stepd.jobs AS j (workflow, input, traceparent, session_id, queue)
        VALUES (workflow_, input_, own.traceparent, own.session_id, CASE WHEN own.queue ~ '^run-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN own.queue END)
        RETURNING j.id INTO spawned;
    IF attached_ THEN UPDATE stepd.jobs j SET parent = run_ WHERE j.id = spawned; END IF;
    INSERT INTO stepd_engine.children (parent, key, n, child, depth, attached) VALUES (run_, key_, coalesce(was.n, 0) + 1, spawned, depth_, attached_);
END
$$;
COMMENT ON FUNCTION stepd_engine.spawn(uuid, uuid, integer, text, text, jsonb, boolean, integer) IS
    'The child run of a step, inserted if it is not there. Without a run: the lease is lost; with a depth beyond the most, it stands too deep.';

-- Called after the ends of children have been committed, after a parent has begun to wait, and by the repair: whoever of the two comes
-- second finds the other. Of a parent of thousands the row is written once for all that have ended together, and it is woken once.
-- again: those whose end cannot be told yet, for somebody holds the step or its run.
CREATE FUNCTION stepd_engine.tell_parents(children_ uuid[], OUT told integer, OUT again uuid[]) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    -- See settle.
    SET enable_seqscan = off
AS $$
DECLARE
    ours uuid[];
    held uuid[];
    places tid[];
    answered uuid[];
    parents uuid[];
    well boolean[];
BEGIN
    told := 0;
    again := '{}';
    -- The run's row before its steps', as everywhere. A running run's row is left alone.
    ours := ARRAY(SELECT j.id FROM stepd.jobs j WHERE j.state IN ('waiting', 'paused')
        AND j.id = ANY (ARRAY(SELECT k.parent FROM stepd_engine.children k WHERE k.child = ANY (children_) AND k.attached AND NOT k.settled))
        ORDER BY j.id FOR UPDATE SKIP LOCKED);
    held := ARRAY(SELECT j.id FROM stepd.jobs j WHERE j.state IN ('waiting', 'paused') AND j.id <> ALL (ours)
        AND j.id = ANY (ARRAY(SELECT k.parent FROM stepd_engine.children k WHERE k.child = ANY (children_) AND k.attached AND NOT k.settled)));
    places := ARRAY(SELECT c.ctid FROM stepd_engine.children k JOIN stepd_engine.checkpoints c ON c.run = k.parent AND c.key = k.key
        WHERE k.child = ANY (children_) AND k.attached AND NOT k.settled AND k.parent <> ALL (held) AND c.state = 'waiting' AND c.kind = 'workflow'
          AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.id = k.child AND j.state NOT IN ('completed', 'failed', 'cancelled'))
        FOR UPDATE OF c SKIP LOCKED);
    -- One statement, one snapshot: a run that moves between the tables is seen in exactly one.
    WITH ends AS (
        SELECT k.child, k.parent, k.key, x.state, x.output,
            CASE WHEN x.state = 'completed' THEN NULL ELSE json_build_object('class', 'permanent', 'code', 'child_failed',
                'message', CASE WHEN x.id IS NULL THEN format('child run %s is not there any more', k.child)
                    ELSE format('child run %s of workflow %s %s%s', k.child, x.workflow, CASE x.state WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END,
                        coalesce(': ' || stepd_engine.failure_text(x.error), '')) END,
                'details', json_build_object('run', k.child, 'workflow', x.workflow, 'state', x.state, 'error', x.error::json))::text END AS failure
        FROM stepd_engine.children k
        LEFT JOIN stepd.jobs j ON j.id = k.child AND j.state NOT IN ('completed', 'failed', 'cancelled')
        LEFT JOIN stepd_engine.ended x ON x.id = k.child
        WHERE k.child = ANY (children_) AND k.attached AND NOT k.settled AND j.id IS NULL
    ), told AS (
        UPDATE stepd_engine.checkpoints c SET
                state = CASE WHEN e.failure IS NULL THEN 'completed' ELSE 'failed' END::stepd.step_state, checkpoint = e.failure IS NULL,
                output = CASE WHEN e.failure IS NULL THEN coalesce(e.output, 'null') END, error = e.failure, ended_at = clock_timestamp(), due_at = NULL
            FROM ends e WHERE c.run = e.parent AND c.key = e.key AND c.ctid = ANY (places) AND c.state = 'waiting'
            RETURNING e.child, e.parent, e.failure IS NULL AS well
    )
    SELECT count(*), array_agg(t.child), array_agg(t.parent), array_agg(t.well) INTO told, answered, parents, well FROM told t;
    IF told > 0 THEN
        UPDATE stepd_engine.children k SET settled = true WHERE k.child = ANY (answered);
        -- What else a step has started is not wanted any more.
        PERFORM stepd_engine.let_children_go(o.parent, o.key, 'its parent does not wait for it any more')
            FROM (SELECT DISTINCT o.parent, o.key FROM stepd_engine.children k JOIN stepd_engine.children o ON o.parent = k.parent AND o.key = k.key
                WHERE k.child = ANY (answered) AND o.attached AND NOT o.settled) o;
        PERFORM stepd_engine.bring_back(p.parent, p.well, stepd_engine.rest_of_parent(p.parent))
            FROM (SELECT t.parent, bool_or(t.well) AS well FROM unnest(parents, well) AS t(parent, well) GROUP BY t.parent ORDER BY t.parent) p;
    END IF;
    IF told < cardinality(children_) THEN
        again := ARRAY(SELECT k.child FROM stepd_engine.children k JOIN stepd_engine.checkpoints c ON c.run = k.parent AND c.key = k.key
            WHERE k.child = ANY (children_) AND k.attached AND NOT k.settled AND c.state = 'waiting' AND c.kind = 'workflow'
              AND NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.id = k.child AND j.state NOT IN ('completed', 'failed', 'cancelled')));
    END IF;
END
$$;
COMMENT ON FUNCTION stepd_engine.tell_parents(uuid[]) IS 'Answers the steps that wait for runs that have ended; again: those that somebody else holds.';

-- Nobody waits for these children any more: what has not ended is cancelled. The request is durable, so that what is locked now, or at
-- work, hears of it.
CREATE FUNCTION stepd_engine.let_children_go(run_ uuid, key_ text, reason text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
BEGIN
    FOR r IN UPDATE stepd_engine.children k SET settled = true
        WHERE k.parent = run_ AND k.attached AND NOT k.settled AND (key_ IS NULL OR k.key = key_) RETURNING k.child
    LOOP
        CONTINUE WHEN NOT EXISTS (SELECT FROM stepd.jobs j WHERE j.id = r.child AND j.state NOT IN ('completed', 'failed', 'cancelled'));
        PERFORM pg_advisory_xact_lock_shared(stepd_engine.run_lock(r.child));
        PERFORM FROM stepd.jobs j WHERE j.id = r.child AND j.state <> 'running' AND j.state NOT IN ('completed', 'failed', 'cancelled') FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN FOUND AND stepd_engine.cancel_now(r.child, reason, NULL) IS NOT NULL;
        CONTINUE WHEN EXISTS (SELECT FROM stepd_engine.signals g WHERE g.run = r.child AND g.kind = 'cancel');
        INSERT INTO stepd_engine.signals (run, kind, name, payload) VALUES (r.child, 'cancel', 'cancel', jsonb_build_object('reason', reason));
        INSERT INTO stepd_engine.events (run, kind, data) VALUES (r.child, 'cancel_requested', json_build_object('reason', reason)::text);
        PERFORM stepd_engine.wake();
    END LOOP;
END
$$;
COMMENT ON FUNCTION stepd_engine.let_children_go(uuid, text, text) IS 'Cancels the children of a run, or of one of its steps, for which nobody waits any more.';

-- The end --------------------------------------------------------------------------------------------

-- Records how a run ends that no worker has, and hands it to one for what is to be done then: as engine::ending does for a run at work.
-- False: there is nothing to be done (the definition says so, or no step has begun), and the run can end at once.
CREATE FUNCTION stepd_engine.begin_end(run_ uuid, state_ text, failure text) RETURNS boolean LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM stepd.jobs j JOIN stepd_engine.definitions d ON d.id = j.definition
        WHERE j.id = run_ AND j.state NOT IN ('running', 'scheduled') AND d.handlers AND EXISTS (SELECT FROM stepd_engine.checkpoints c WHERE c.run = run_) FOR UPDATE OF j;
    IF NOT FOUND THEN RETURN false; END IF;
    UPDATE stepd_engine.checkpoints c SET state = 'cancelled', checkpoint = false, ended_at = clock_timestamp(), due_at = NULL
        WHERE c.run = run_ AND c.state IN ('running', 'waiting');
    INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, decision)
        SELECT run_, max(c.seq) + 1, max(c.epoch), clock_timestamp(), clock_timestamp(), 1, true, 'completed', '(end)', 'end',
            json_build_object('state', state_, 'error', failure::json)::text
        FROM stepd_engine.checkpoints c WHERE c.run = run_;
    DELETE FROM stepd_engine.signals g WHERE g.run = run_ AND g.kind = 'pause';
    UPDATE stepd.jobs j SET due_at = NULL, error = NULL, worker = NULL,
            state = CASE WHEN l.limited THEN 'held' ELSE 'queued' END::stepd.run_state, lane = CASE WHEN l.limited THEN 5 ELSE 1 END
        -- What is queued or resuming has its place already; what waits, is paused or held comes back as any other does.
        FROM (SELECT d.id, CASE WHEN d.state IN ('queued', 'resuming') THEN stepd_engine.queue_limited(d.queue)
                ELSE stepd_engine.limited(d.queue, d.workflow, d.concurrency_key) END AS limited FROM stepd.jobs d WHERE d.id = run_) l
        WHERE j.id = l.id;
    PERFORM stepd_engine.let_children_go(run_, NULL, 'its parent has ended without it');
    PERFORM stepd_engine.wake();
    RETURN true;
END
$$;
COMMENT ON FUNCTION stepd_engine.begin_end(uuid, text, text) IS 'Records how a run ends that no worker has, and hands it to one for its undo, on_failure and finally; false where there is none of it.';

CREATE FUNCTION stepd_engine.ending(run_ uuid) RETURNS text LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.decision::json ->> 'state' FROM stepd_engine.checkpoints c WHERE c.run = run_ AND c.key = '(end)'
$$;
COMMENT ON FUNCTION stepd_engine.ending(uuid) IS 'How the run ends, where that has been decided and there is something left to be done; NULL: it is still open.';
