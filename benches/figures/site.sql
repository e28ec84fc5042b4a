-- A database as it is after a month of work: 1 million ended runs, 100,000 live ones, of 50 workflows over 20 queues, one run of 10,000
-- steps that has ended and one that waits, and one of 100,000 that has ended. Times are spread over the last 30 days; nothing is due soon, so a daemon that serves none of
-- these queues changes nothing of it.
SET synchronous_commit = off;
ALTER TABLE stepd.jobs DISABLE TRIGGER USER;

INSERT INTO stepd_engine.definitions (hash, workflow, body)
SELECT 'seed ' || i, 'wf_' || lpad(i::text, 2, '0'), format(E'name: wf_%s\nsteps:\n  - {id: a, set: 1}\n', lpad(i::text, 2, '0')) FROM generate_series(0, 49) i;
INSERT INTO stepd_engine.workflows (name, definition, queue)
SELECT d.workflow, d.id, 'q' || d.id % 20 FROM stepd_engine.definitions d WHERE d.hash LIKE 'seed %';

-- Half of all are of one workflow, a fifth of another; of wf_48 there are 20, of wf_49 none.
CREATE TEMP TABLE seed AS
SELECT i, (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint - 2592000000 + i * 2592::bigint), 12, '0') || '7' || substr(md5(i::text), 1, 3) || '8' || substr(md5(i::text), 4, 15))::uuid AS id,
    clock_timestamp() - interval '30 days' + i * interval '2.592 s' AS at,
    CASE WHEN i % 50000 = 7 THEN 'wf_48' WHEN i % 10 < 5 THEN 'wf_00' WHEN i % 10 < 7 THEN 'wf_01' ELSE 'wf_' || lpad((2 + i % 46)::text, 2, '0') END AS workflow,
    CASE WHEN i % 10 = 3 THEN jsonb_build_object('customer', 'c' || i % 5000, 'region', CASE i % 3 WHEN 0 THEN 'eu' ELSE 'us' END) ELSE '{}' END AS labels,
    CASE WHEN i % 100 < 4 THEN 'failed' WHEN i % 100 = 4 THEN 'cancelled' ELSE 'completed' END::stepd.run_state AS state
FROM generate_series(1, 1000000) i;
INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, started_at, ended_at, worker, workflow, queue, input, labels,
    created_by, output, error, last_seq, last_attempts, last_started_at, last_key, last_kind, last_output)
SELECT s.id, s.state, 1, w.definition, 5, 0, 0, s.at, s.at + interval '20 ms', s.at + interval '20 ms' + (1 + s.i % 97) * interval '37 ms', gen_random_uuid(), s.workflow, w.queue,
    jsonb_build_object('order', s.i, 'note', 'an order of the shop'), s.labels, 'app', CASE WHEN s.state = 'completed' THEN '{"ok":true,"items":[1,2,3]}' END,
    CASE WHEN s.state = 'failed' THEN '{"class":"transient","code":"http_503","message":"the server answered 503"}' END,
    3, 1, s.at + interval '30 ms', 'charge', 'http', CASE WHEN s.state = 'completed' THEN '{"ok":true}' END
FROM seed s JOIN stepd_engine.workflows w ON w.name = s.workflow ORDER BY s.id;
-- A tenth of them had two steps before, and a third try.
INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
SELECT s.id, n, 1, s.at + n * interval '5 ms', s.at + n * interval '9 ms', 1, true, 'completed', CASE n WHEN 1 THEN 'look' ELSE 'reserve' END, 'http', '{"found":[1,2,3,4,5],"status":"ok"}'
FROM seed s, generate_series(1, 2) n WHERE s.i % 10 = 0 ORDER BY s.id, n;
INSERT INTO stepd_engine.events (run, at, epoch, attempt, n, kind, key, data)
SELECT s.id, s.at + interval '7 ms', 1, 1, 1, 'attempt_failed', 'look', '{"failure":{"class":"transient","code":"timeout","message":"no answer"},"retry_in_ms":1}'
FROM seed s WHERE s.i % 10 = 0 ORDER BY s.id;

-- Live ones, over the last hour.
CREATE TEMP TABLE living AS
SELECT i, (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint - 3600000 + i * 36::bigint), 12, '0') || '7' || substr(md5('l' || i), 1, 3) || '8' || substr(md5('l' || i), 4, 15))::uuid AS id,
    clock_timestamp() - interval '1 hour' + i * interval '36 ms' AS at, 'wf_' || lpad((i % 47)::text, 2, '0') AS workflow,
    (ARRAY['queued','queued','queued','held','held','scheduled','waiting','waiting','waiting','paused','resuming'])[1 + i % 11]::stepd.run_state AS state
FROM generate_series(1, 100000) i;
INSERT INTO stepd.jobs (id, state, epoch, definition, priority, lane, resumes, ready_at, due_at, started_at, workflow, queue, input, labels, created_by, error, target)
SELECT l.id, l.state, 1, w.definition, 5, CASE l.state WHEN 'queued' THEN 0 WHEN 'held' THEN 4 ELSE 3 END, CASE l.state WHEN 'resuming' THEN 2 ELSE 0 END, l.at,
    CASE WHEN l.state IN ('scheduled', 'resuming') OR l.state = 'waiting' AND l.i % 3 = 0 THEN clock_timestamp() + interval '9 days' END,
    CASE WHEN l.state IN ('waiting', 'paused', 'resuming') THEN l.at END, l.workflow, w.queue, jsonb_build_object('order', l.i), '{}', 'app',
    CASE WHEN l.state = 'resuming' THEN '{"class":"transient","code":"http_503","message":"the server answered 503"}' END, CASE WHEN l.state = 'resuming' THEN 'charge' END
FROM living l JOIN stepd_engine.workflows w ON w.name = l.workflow ORDER BY l.id;
INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, due_at, attempts, checkpoint, state, key, kind, event, decision)
SELECT l.id, 1, 1, l.at, CASE WHEN l.i % 3 = 0 THEN clock_timestamp() + interval '9 days' END, 1, false, 'waiting', 'step',
    (ARRAY['sleep', 'approve', 'wait'])[1 + l.i % 3], CASE WHEN l.i % 3 = 2 THEN 'paid' END,
    CASE WHEN l.i % 3 = 1 THEN CASE WHEN l.i % 10 = 0 THEN '{"prompt":"HOLD state triggered - workflow paused pending human review"}' ELSE '{"prompt":"Pay?"}' END END
FROM living l WHERE l.state = 'waiting' ORDER BY l.id;
INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, error)
SELECT l.id, 1, 1, l.at, l.at, 1, false, 'failed', 'charge', 'http', '{"class":"transient","code":"http_503","message":"the server answered 503"}' FROM living l WHERE l.state = 'resuming' ORDER BY l.id;
INSERT INTO stepd_engine.signals (run, kind, name, payload) SELECT l.id, 'pause', 'pause', '{"from":"queued","reason":"lunch"}' FROM living l WHERE l.state = 'paused' ORDER BY l.id;
INSERT INTO stepd_engine.events (run, at, kind, by_whom, data) SELECT l.id, l.at, 'paused', 'app', '{"reason":"lunch","from":"queued"}' FROM living l WHERE l.state = 'paused' ORDER BY l.id;

-- Large ones: a run that has ended, and one that waits.
INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels, created_by, output)
SELECT '0199ffff-0000-7000-8000-000000000001', 'completed', 1, definition, 5, 0, 0, now() - interval '1 day', now() - interval '1 day', now() - interval '20 h', name, queue, '{}', '{"size":"large"}', 'app', '{"done":10000}'
FROM stepd_engine.workflows WHERE name = 'wf_05';
INSERT INTO stepd.jobs (id, state, epoch, definition, priority, lane, ready_at, started_at, workflow, queue, input, labels, created_by)
SELECT '0199ffff-0000-7000-8000-000000000002', 'waiting', 1, definition, 5, 3, now() - interval '1 day', now() - interval '1 day', name, queue, '{}', '{"size":"large"}', 'app'
FROM stepd_engine.workflows WHERE name = 'wf_06';
INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
SELECT r.id, n, 1, now() - interval '1 day' + n * interval '1 s', now() - interval '1 day' + n * interval '1.2 s', 1, true, 'completed', format('docs[%s].text', n), 'http',
    json_build_object('pages', n % 30, 'title', 'Document number ' || n, 'ok', true)::text
FROM (VALUES ('0199ffff-0000-7000-8000-000000000001'::uuid), ('0199ffff-0000-7000-8000-000000000002'::uuid)) r(id), generate_series(1, 10000) n;
INSERT INTO stepd_engine.ended (id, state, epoch, definition, priority, resumes, crashes, ready_at, started_at, ended_at, workflow, queue, input, labels, created_by, output)
SELECT '0199ffff-0000-7000-8000-000000000003', 'completed', 1, definition, 5, 0, 0, now() - interval '1 day', now() - interval '1 day', now() - interval '20 h', name, queue, '{}', '{"size":"large"}', 'app', '{"done":100000}'
FROM stepd_engine.workflows WHERE name = 'wf_05';
INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, ended_at, attempts, checkpoint, state, key, kind, output)
SELECT '0199ffff-0000-7000-8000-000000000003', n, 1, now() - interval '1 day' + n * interval '0.1 s', now() - interval '1 day' + n * interval '0.12 s', 1, true, 'completed', format('docs[%s].text', n), 'http',
    json_build_object('pages', n % 30, 'title', 'Document number ' || n, 'ok', true)::text
FROM generate_series(1, 100000) n;
INSERT INTO stepd_engine.checkpoints (run, seq, epoch, started_at, attempts, checkpoint, state, key, kind, decision)
VALUES ('0199ffff-0000-7000-8000-000000000002', 10001, 1, now(), 1, false, 'waiting', 'ok', 'approve', '{"prompt":"Go on?"}');

ALTER TABLE stepd.jobs ENABLE TRIGGER USER;
