\ir helpers.inc
DO $$
DECLARE a uuid; b uuid; c uuid; n integer; s text;
BEGIN
    -- enqueue
    a := stepd.enqueue('order', '{"x": 1}', unique_key => 'k', priority => 2, labels => '{"team": "a"}');
    PERFORM t.ok(stepd.enqueue('order', unique_key => 'k') = a, 'the live run''s id on a conflict');
    PERFORM t.ok(stepd.enqueue('bill', unique_key => 'k') <> a, 'the key is per workflow');
    PERFORM t.ok(stepd.enqueue('order') <> stepd.enqueue('order'), 'no key, no conflict');
    PERFORM t.like(t.fails($q$SELECT stepd.enqueue('ordr')$q$, 'SD001'), 'unknown workflow "ordr"', 'unknown workflow');
    PERFORM t.ok((SELECT priority = 2 AND state = 'queued' AND input = '{"x": 1}' AND created_by = session_user FROM stepd.runs WHERE id = a), 'the columns arrive');
    PERFORM t.same(t.state(stepd.enqueue('order', run_at => now() + interval '1 hour')), 'scheduled', 'run_at');
    PERFORM t.same(t.state(stepd.enqueue('order', NULL, labels => NULL)), 'queued', 'NULL input and labels');

    -- cancel
    PERFORM t.same(stepd.cancel(a, 'no longer wanted'), 'cancelled', 'a queued run');
    PERFORM t.same(t.state(a), 'cancelled', 'it has moved');
    PERFORM t.ok(NOT EXISTS (SELECT FROM stepd.jobs WHERE id = a), 'it has left jobs');
    PERFORM t.ok(stepd.enqueue('order', unique_key => 'k') <> a, 'its key is free');
    PERFORM t.like(t.fails(format('SELECT stepd.cancel(%L)', a), 'SD011'), 'already ended as cancelled', 'cancel twice');
    PERFORM t.fails('SELECT stepd.cancel(gen_random_uuid())', 'SD010');
    PERFORM t.fails('SELECT stepd.cancel(NULL)', 'SD010');
    b := t.run(); PERFORM t.claim(b); PERFORM t.step(b, 1, 'nap', 'sleep', 'waiting', due => '1 h'); PERFORM t.suspend(b);
    PERFORM t.same(stepd.cancel(b), 'cancelled', 'a waiting run');
    PERFORM t.ok((SELECT state = 'cancelled' AND ended_at IS NOT NULL AND due_at IS NULL FROM stepd.steps WHERE run = b), 'its step is cancelled');
    c := t.run(); PERFORM t.claim(c);
    SELECT x.xmax::text || x.ctid::text INTO s FROM stepd.jobs x WHERE x.id = c;
    PERFORM t.same(stepd.cancel(c, 'stop it'), 'requested', 'a running run');
    PERFORM t.ok((SELECT x.xmax::text || x.ctid::text = s FROM stepd.jobs x WHERE x.id = c), 'a running run''s row is neither locked nor changed');
    PERFORM t.ok((SELECT count(*) = 1 FROM stepd_engine.signals WHERE run = c AND kind = 'cancel' AND payload ->> 'reason' = 'stop it'), 'its request');
    -- The worker lets it go without having heard: the sweep ends it.
    PERFORM t.step(c, 1, 'nap', 'sleep', 'waiting', due => '1 h'); PERFORM t.suspend(c);
    PERFORM stepd_engine.repair(100);
    PERFORM t.same(t.state(c), 'cancelled', 'settled by the sweep');
    PERFORM t.like(stepd.why(c), '^cancelled .* by .*: stop it$', 'the reason survives');

    -- retry
    a := stepd.enqueue('order', '{"n": 7}', unique_key => 'r', queue => 'fast', traceparent => '00-x'); PERFORM t.claim(a);
    PERFORM t.step(a, 1, 'one', 'run', 'completed', output => '{"z":"\u0000"}');
    PERFORM t.step(a, 2, 'two', 'run', 'failed', error => '{"class":"transient","code":"http_503","message":"busy"}');
    INSERT INTO stepd_engine.signals (run, kind, name) VALUES (a, 'cancel', 'cancel');
    UPDATE stepd.jobs SET resumes = 3, streak = 1, crashes = 2 WHERE id = a;
    PERFORM t.like(t.fails(format('SELECT stepd.retry(%L)', a), 'SD012'), 'is running', 'retry of a running run');
    PERFORM t.finish(a, 'failed', NULL, '{"class":"transient","code":"exit_1","message":"gone"}', 'three', NULL);
    b := stepd.enqueue('order', unique_key => 'r');
    PERFORM t.like(t.fails(format('SELECT stepd.retry(%L)', a), 'SD013'), b::text, 'the key is taken');
    PERFORM t.same(t.state(a), 'failed', 'and nothing has changed');
    PERFORM stepd.cancel(b);
    PERFORM t.same(stepd.retry(a), 'queued', 'retry');
    PERFORM t.ok((SELECT state = 'queued' AND lane = 1 AND epoch = 1 AND definition = 1 AND resumes = 0 AND streak = 0 AND crashes = 2 AND worker IS NULL
        AND started_at IS NULL AND first_started_at IS NOT NULL AND input = '{"n": 7}' AND queue = 'fast' AND unique_key = 'r' AND traceparent = '00-x' AND error IS NULL
        FROM stepd.jobs WHERE id = a), 'the row is as it was');
    PERFORM t.ok((SELECT started_at IS NOT NULL FROM stepd.runs WHERE id = a), 'the run''s start is its first');
    PERFORM t.ok(NOT EXISTS (SELECT FROM stepd_engine.ended WHERE id = a) AND (SELECT count(*) = 1 FROM stepd.runs WHERE id = a), 'it is in one place');
    PERFORM t.ok((SELECT array_agg(key || ':' || state || ':' || attempts || ':' || checkpoint ORDER BY seq) =
        '{one:completed:1:true,two:failed:0:false,three:failed:0:false}' FROM stepd.steps WHERE run = a), 'checkpoints kept, attempts fresh');
    PERFORM t.ok((SELECT count(*) = 2 FROM stepd.attempts WHERE run = a AND state = 'failed'), 'the old attempts are history');
    PERFORM t.ok(NOT EXISTS (SELECT FROM stepd_engine.signals WHERE run = a AND kind = 'cancel'), 'a stale cancel does not end it');
    PERFORM t.fails('SELECT stepd.retry(gen_random_uuid())', 'SD010');
    PERFORM t.claim(a);
    PERFORM t.finish(a, 'completed', '1', NULL, 'four', '1');
    PERFORM t.like(t.fails(format('SELECT stepd.retry(%L)', a), 'SD012'), 'is completed', 'retry of a completed run');
    -- The last step was a checkpoint, the run failed after it.
    a := t.run(); PERFORM t.claim(a);
    PERFORM t.finish(a, 'failed', NULL, '{"class":"permanent","code":"expression","message":"x"}', 'last', '{"ok":1}');
    PERFORM stepd.retry(a);
    PERFORM t.ok((SELECT checkpoint AND state = 'completed' AND output::text = '{"ok":1}' AND seq = 9 FROM stepd.steps WHERE run = a), 'it is a row again');
    -- A limited queue holds it.
    a := stepd.enqueue('order', queue => 'slow'); PERFORM t.claim(a); PERFORM t.finish(a, 'failed', NULL, '{"code":"x"}', NULL, NULL);
    PERFORM stepd.pause_queue('slow');
    PERFORM t.same(stepd.retry(a), 'held', 'retry into a paused queue');
    PERFORM t.ok((SELECT lane = 5 FROM stepd.jobs WHERE id = a), 'lane 5');
    -- resuming: at once.
    a := t.run(); PERFORM t.claim(a);
    UPDATE stepd.jobs SET state = 'resuming', lane = 3, due_at = now() + interval '1 h', worker = NULL, error = '{"code":"x"}' WHERE id = a;
    PERFORM t.same(stepd.retry(a), 'queued', 'a resuming run');
    PERFORM t.ok((SELECT lane = 1 AND due_at IS NULL AND resumes = 1 FROM stepd.jobs WHERE id = a), 'is queued at once');
    PERFORM t.ok((SELECT count(*) = 1 FROM stepd_engine.events WHERE run = a AND kind = 'retried' AND by_whom = session_user), 'audited');
END $$;
