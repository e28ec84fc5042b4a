-- The plans at a million ended runs.
\ir helpers.inc
INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels, output, error,
        last_seq, last_attempts, last_started_at, last_key, last_kind, last_output)
    SELECT (lpad(to_hex(1700000000000 + i), 12, '0') || '70008000' || lpad(to_hex(i), 12, '0'))::uuid,
        CASE WHEN i % 50 = 0 THEN 'failed' ELSE 'completed' END::stepd.run_state, 1, 1, 5, 0, 0, now(), now(), now(), 'order', 'default', '{}', '{}',
        CASE WHEN i % 50 <> 0 THEN '1' END, CASE WHEN i % 50 = 0 THEN '{"class":"transient","code":"http_503","message":"busy"}' END,
        2, 1, now(), 'b', 'set', CASE WHEN i % 50 <> 0 THEN '1' END
    FROM generate_series(1, 1000000) i;
INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
    SELECT e.id, 1, 1, now(), now(), 1, true, 'completed', 'a', 'set', '1' FROM stepd_engine.ended e LIMIT 200000;
INSERT INTO stepd.jobs (workflow) SELECT 'order' FROM generate_series(1, 1000);
ANALYZE stepd.jobs; ANALYZE stepd_engine.ended; ANALYZE stepd_engine.checkpoints; ANALYZE stepd_engine.events;
-- Pages that a statement touches: hundreds, whatever the table holds (it has tens of thousands).
CREATE FUNCTION t.cheap(statement text, most numeric) RETURNS void LANGUAGE plpgsql AS $$
DECLARE p json; n jsonb; worst numeric;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, TIMING OFF, BUFFERS, FORMAT json) ' || statement INTO p;
    n := p::jsonb;
    SELECT (n #>> '{0,Plan,Shared Hit Blocks}')::numeric + (n #>> '{0,Plan,Shared Read Blocks}')::numeric INTO worst;
    RAISE NOTICE '% pages, % ms: %', worst, n #>> '{0,Execution Time}', statement;
    IF worst > most THEN RAISE EXCEPTION '% pages, wanted at most %: % %', worst, most, statement, jsonb_pretty(n); END IF;
END $$;
SELECT t.cheap('SELECT * FROM stepd.runs LIMIT 5', 100);
SELECT t.cheap('SELECT * FROM stepd.runs ORDER BY id DESC LIMIT 20', 400);
SELECT t.cheap('SELECT * FROM stepd.runs WHERE id = ''' || (SELECT id FROM stepd_engine.ended LIMIT 1) || '''', 30);
SELECT t.cheap('SELECT * FROM stepd.runs WHERE state = ''failed'' ORDER BY id DESC LIMIT 20', 800);
-- However rare the state.
UPDATE stepd_engine.ended SET state = 'cancelled' WHERE id = (SELECT id FROM stepd_engine.ended ORDER BY id LIMIT 1);
SELECT t.cheap('SELECT id, workflow FROM stepd.runs WHERE state = ''cancelled'' ORDER BY id DESC LIMIT 50', 200);
SELECT t.cheap('SELECT id, error_code, step FROM stepd.runs WHERE state IN (''failed'', ''cancelled'') ORDER BY id DESC LIMIT 50', 1000);
SELECT t.cheap('SELECT * FROM stepd.daily', 500);
SELECT t.cheap('SELECT * FROM stepd.stats(current_date - 30, current_date)', 500);
SELECT t.cheap('SELECT * FROM stepd.states', 400);
-- A state that no ended run has, as ls and the bulk actions write it: the ended half is not read.
SELECT t.cheap('SELECT id FROM stepd.runs r WHERE true AND r.state IN (''paused'', ''waiting'') ORDER BY r.id', 200);
-- What watch asks every second: what is newer than the last, and where the known ones stand.
SELECT t.cheap('SELECT r.id, r.state, r.step FROM stepd.runs r WHERE true AND (r.id > ''' || (SELECT id FROM stepd.jobs ORDER BY id DESC LIMIT 1)
    || ''' OR r.id = ANY (''' || (SELECT array_agg(id)::text FROM (SELECT id FROM stepd.jobs LIMIT 5) x) || ''')) ORDER BY r.id LIMIT 4000', 100);
SELECT t.cheap('SELECT * FROM stepd.steps LIMIT 5', 100);
SELECT t.cheap('SELECT * FROM stepd.steps WHERE run = ''' || (SELECT id FROM stepd_engine.ended LIMIT 1) || '''', 30);
SELECT t.cheap('SELECT * FROM stepd.attempts LIMIT 5', 100);
SELECT t.cheap('SELECT * FROM stepd.attempts WHERE run = ''' || (SELECT id FROM stepd_engine.ended LIMIT 1) || '''', 40);
SELECT t.cheap('SELECT * FROM stepd.history LIMIT 5', 200);
SELECT t.cheap('SELECT * FROM stepd.history WHERE run = ''' || (SELECT id FROM stepd_engine.ended LIMIT 1) || ''' ORDER BY seq', 80);
SELECT t.cheap('SELECT * FROM stepd.waiting LIMIT 5', 30);
SELECT t.cheap('SELECT * FROM stepd.queues', 200);
SELECT t.cheap('SELECT * FROM stepd.workers', 200);
SELECT t.cheap('SELECT stepd.why(''' || (SELECT id FROM stepd_engine.ended LIMIT 1) || ''')', 2000);
