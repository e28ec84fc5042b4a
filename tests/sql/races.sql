-- Two sessions at once, by dblink (contrib). Skipped where the extension is not installed.
\ir helpers.inc
SELECT count(*) = 0 AS skip FROM pg_available_extensions WHERE name = 'dblink' \gset
\if :skip
\echo dblink is not installed: skipped
\quit
\endif
CREATE EXTENSION dblink SCHEMA public;
CREATE FUNCTION t.open(name text) RETURNS void LANGUAGE sql AS $$
    SELECT public.dblink_connect(name, format('dbname=%s host=%s port=%s user=%s', current_database(),
        split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), session_user)) $$;
CREATE FUNCTION t.send(name text, statement text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN PERFORM public.dblink_send_query(name, statement); PERFORM pg_sleep(0.15); END $$;
CREATE FUNCTION t.get(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE got text;
BEGIN
    SELECT r INTO got FROM public.dblink_get_result(name) AS x(r text);
    PERFORM FROM public.dblink_get_result(name) AS x(r text);
    RETURN got;
END $$;
SELECT t.open('a'), t.open('b');

-- enqueue: both ask for one key; the second waits for the first, and gets its id.
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r AS first FROM public.dblink('a', $$SELECT stepd.enqueue('order', unique_key => 'k')::text$$) AS x(r text) \gset
SELECT t.send('b', $$SELECT stepd.enqueue('order', unique_key => 'k')::text$$);
SELECT t.ok(public.dblink_is_busy('b') = 1, 'the second waits');
SELECT public.dblink_exec('a', 'COMMIT');
SELECT t.same(t.get('b'), :'first', 'one run for one key');
-- The first rolls back: the second inserts.
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r AS first FROM public.dblink('a', $$SELECT stepd.enqueue('order', unique_key => 'k2')::text$$) AS x(r text) \gset
SELECT t.send('b', $$SELECT stepd.enqueue('order', unique_key => 'k2')::text$$);
SELECT public.dblink_exec('a', 'ROLLBACK');
SELECT t.get('b') AS second \gset
SELECT t.ok(:'first' <> :'second' AND t.state(:'second'::uuid) = 'queued', 'the second inserts');
-- The run of the key ends under way: a new run.
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r FROM public.dblink('a', format('SELECT stepd.cancel(%L)', :'second')) AS x(r text);
SELECT t.send('b', $$SELECT stepd.enqueue('order', unique_key => 'k2')::text$$);
SELECT public.dblink_exec('a', 'COMMIT');
SELECT t.get('b') AS third \gset
SELECT t.ok(:'third' <> :'second' AND t.state(:'third'::uuid) = 'queued', 'a new run');

-- cancel meets a claim: it waits for the claim, then asks the worker.
SELECT t.run() AS r \gset
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r FROM public.dblink('a', format('SELECT t.claim(%L)::text', :'r')) AS x(r text);
SELECT t.send('b', format('SELECT stepd.cancel(%L)', :'r'));
SELECT public.dblink_exec('a', 'COMMIT');
SELECT t.same(t.get('b'), 'requested', 'the claim came first');
-- An operator's open transaction does not hold up a running run.
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r FROM public.dblink('a', format('SELECT stepd.cancel(%L)', :'r')) AS x(r text);
SET lock_timeout = '1s';
UPDATE stepd.jobs SET started = true WHERE id = :'r';
RESET lock_timeout;
SELECT public.dblink_exec('a', 'COMMIT');

-- approve and cancel of one waiting run: no deadlock, one of them wins.
SELECT t.run() AS r \gset
SELECT t.claim(:'r'), t.step(:'r', 1, 'ok', 'approve', 'waiting'), t.suspend(:'r');
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r FROM public.dblink('a', format('SELECT stepd.approve(%L)', :'r')) AS x(r text);
SELECT t.send('b', format('SELECT stepd.cancel(%L)', :'r'));
SELECT public.dblink_exec('a', 'COMMIT');
SELECT t.same(t.get('b'), 'cancelled', 'approved, then cancelled');
SELECT t.run() AS r \gset
SELECT t.claim(:'r'), t.step(:'r', 1, 'ok', 'approve', 'waiting'), t.suspend(:'r');
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r FROM public.dblink('a', format('SELECT stepd.cancel(%L)', :'r')) AS x(r text);
SELECT t.send('b', format($$SELECT t.fails('SELECT stepd.approve(''%s'')', 'SD011')$$, :'r'));
SELECT public.dblink_exec('a', 'COMMIT');
SELECT t.ok(t.get('b') LIKE '%already ended as cancelled', 'cancelled first');

-- An emit that is not yet committed: a late waiter's look does not wait for it, but says so, and sees it later.
SELECT t.run() AS r \gset
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r FROM public.dblink('a', $$SELECT stepd.emit('late', '{"n": 1}')::text$$) AS x(r text);
SELECT t.claim(:'r'), t.step(:'r', 1, 'w', 'wait', 'waiting', 'late', '{"n": 1}'), t.suspend(:'r');
SELECT t.ok(stepd_engine.settle_wait(:'r', 'w') IS NULL, 'somebody is emitting: ask again');
SELECT t.ok(NOT stepd_engine.settle(:'r', '{w}'), 'not settled yet');
SELECT public.dblink_exec('a', 'COMMIT');
SELECT t.ok(stepd_engine.settle(:'r', '{w}'), 'and finds the event');
SELECT t.same(t.state(:'r'), 'queued', 'nothing is lost');

-- Two retries of one run: one does it, the other says so.
SELECT t.run() AS r \gset
SELECT t.claim(:'r'), t.finish(:'r', 'failed', NULL, '{"code":"x"}', 's', NULL);
SELECT public.dblink_exec('a', 'BEGIN');
SELECT r FROM public.dblink('a', format('SELECT stepd.retry(%L)', :'r')) AS x(r text);
SELECT t.send('b', format($$SELECT t.fails('SELECT stepd.retry(''%s'')', 'SD012')$$, :'r'));
SELECT public.dblink_exec('a', 'COMMIT');
SELECT t.ok(t.get('b') LIKE '%is queued%', 'the second retry');
SELECT t.ok((SELECT count(*) = 1 FROM stepd.runs WHERE id = :'r'), 'one run');
SELECT public.dblink_disconnect('a'), public.dblink_disconnect('b');
