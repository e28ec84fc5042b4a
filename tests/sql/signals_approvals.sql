\ir helpers.inc
DO $$
DECLARE a uuid; b uuid; c uuid; o json;
BEGIN
    -- emit
    a := t.run(); PERFORM t.claim(a); PERFORM t.step(a, 1, 'w1', 'wait', 'waiting', 'packed', '{"o": 1}'); PERFORM t.step(a, 2, 'w2', 'wait', 'waiting', 'packed', '{}'); PERFORM t.suspend(a);
    b := t.run(); PERFORM t.claim(b); PERFORM t.step(b, 1, 'w1', 'wait', 'waiting', 'packed', '{"o": 2}'); PERFORM t.suspend(b);
    c := t.run(); PERFORM t.claim(c); PERFORM t.step(c, 1, 'w1', 'wait', 'waiting', 'packed'); PERFORM t.suspend(c);
    PERFORM t.ok(stepd.emit('other') = 0, 'nobody waits for it');
    PERFORM t.ok(stepd.emit('packed', '{"o": 1, "x": 2}') = 2, 'runs, not steps, are counted');
    PERFORM t.ok((SELECT count(*) = 2 FROM stepd.steps WHERE run = a AND state = 'completed' AND output::text = '{"o": 1, "x": 2}'), 'both steps answered');
    PERFORM t.ok((SELECT state = 'queued' AND lane = 1 FROM stepd.jobs WHERE id = a), 'the run is back');
    PERFORM t.same(t.state(b), 'waiting', 'no match');
    PERFORM t.ok((SELECT expires_at > now() + interval '59 min' FROM stepd_engine.signals WHERE run IS NULL AND name = 'packed'), 'kept');
    -- A late waiter.
    c := t.run(); PERFORM t.claim(c); PERFORM t.step(c, 1, 'w1', 'wait', 'waiting', 'packed', '{"x": 2}'); PERFORM t.suspend(c);
    PERFORM t.ok(stepd_engine.settle_wait(c, 'w1'), 'finds the kept event');
    PERFORM t.same(t.state(c), 'queued', 'and is back');
    PERFORM t.ok(stepd.emit('n', '5') = 0, 'a scalar payload');
    c := t.run(); PERFORM t.claim(c); PERFORM t.step(c, 1, 'w', 'wait', 'waiting', 'n', '{}'); PERFORM t.suspend(c);
    PERFORM t.ok(stepd_engine.settle_wait(c, 'w'), 'an empty match fits a scalar');
    PERFORM t.fails('SELECT stepd.emit(NULL)', 'SD016');
    -- signal
    PERFORM t.same(stepd.signal(b, 'packed', '{"o": 3}'), 'kept', 'does not fit');
    PERFORM t.same(stepd.signal(b, 'packed', '{"o": 2}'), 'delivered', 'fits');
    PERFORM t.ok((SELECT count(*) = 1 FROM stepd_engine.signals WHERE run = b AND taken_by = 'w1'), 'taken once');
    PERFORM t.same(t.state(b), 'queued', 'woken');
    PERFORM t.fails('SELECT stepd.signal(gen_random_uuid(), ''x'')', 'SD010');
    PERFORM t.claim(b); PERFORM t.step(b, 2, 'w2', 'wait', 'waiting', 'packed', '{"o": 3}');
    PERFORM t.ok(stepd_engine.settle_wait(b, 'w2'), 'the kept signal');
    PERFORM t.same(t.state(b), 'running', 'a running run stays with its worker');
    PERFORM t.finish(b, 'completed', 'null', NULL, NULL, NULL);
    PERFORM t.fails(format('SELECT stepd.signal(%L, ''x'')', b), 'SD011');
    -- Answered between wait and suspend: settling brings the run back, though another step still waits.
    c := t.run(); PERFORM t.claim(c); PERFORM t.step(c, 1, 'x', 'wait', 'waiting', 'sx'); PERFORM t.step(c, 2, 'y', 'wait', 'waiting', 'sy');
    PERFORM t.same(stepd.signal(c, 'sx'), 'delivered', 'while running'); PERFORM t.suspend(c);
    PERFORM t.ok(NOT stepd_engine.settle_wait(c, 'y'), 'y waits on'); PERFORM t.same(t.state(c), 'waiting', 'still');
    PERFORM t.ok(stepd_engine.settle_wait(c, 'x'), 'x is answered'); PERFORM t.same(t.state(c), 'queued', 'so the run is back');

    -- approve, reject
    a := t.run(); PERFORM t.claim(a); PERFORM t.fails(format('SELECT stepd.approve(%L)', a), 'SD014');
    PERFORM t.step(a, 1, 'ok1', 'approve', 'waiting', decision => '{"prompt":"Ship it?"}'); PERFORM t.step(a, 2, 'ok2', 'approve', 'waiting'); PERFORM t.suspend(a);
    PERFORM t.ok((SELECT prompt = 'Ship it?' AND waits_for = 'approval' FROM stepd.waiting WHERE run = a AND key = 'ok1'), 'stepd.waiting');
    PERFORM t.fails(format('SELECT stepd.approve(%L)', a), 'SD015');
    PERFORM t.fails(format('SELECT stepd.approve(%L, %L)', a, 'nope'), 'SD014');
    PERFORM t.same(stepd.approve(a, 'ok1', 'fine'), 'ok1', 'approve');
    SELECT output INTO o FROM stepd.steps WHERE run = a AND key = 'ok1';
    PERFORM t.ok(o ->> 'approved' = 'true' AND o ->> 'by' = session_user AND o ->> 'note' = 'fine' AND (o ->> 'at')::timestamptz IS NOT NULL, 'its output');
    PERFORM t.like(t.fails(format('SELECT stepd.approve(%L, %L)', a, 'ok1'), 'SD014'), 'it is completed', 'twice');
    PERFORM t.same(t.state(a), 'queued', 'woken');
    PERFORM t.same(stepd.reject(a, note => 'too dear'), 'ok2', 'the only one');
    PERFORM t.ok((SELECT state = 'failed' AND NOT checkpoint AND error_code = 'rejected' AND error ->> 'class' = 'permanent' AND error_message LIKE '%too dear' FROM stepd.steps WHERE run = a AND key = 'ok2'), 'reject fails the step');
    PERFORM t.ok((SELECT array_agg(event ORDER BY seq) @> '{approved,rejected}' FROM stepd.history WHERE run = a), 'audited');
    -- One that needs an answer.
    a := t.run(); PERFORM t.claim(a);
    PERFORM t.step(a, 1, 'in', 'approve', 'waiting', decision => '{"wait":"approval","prompt":"Who?","schema":{"required":["n"],"properties":{"n":{"type":"integer"},"c":{"enum":["x","y"]}}}}');
    PERFORM t.suspend(a);
    PERFORM t.ok((SELECT schema -> 'required' ->> 0 = 'n' FROM stepd.waiting WHERE run = a), 'stepd.waiting');
    PERFORM t.like(stepd.why(a), 'an answer at in "Who\?" \(stepd approve .* --answer JSON', 'why');
    PERFORM t.like(t.fails(format('SELECT stepd.approve(%L)', a), 'SD018'), 'needs an answer', 'none');
    PERFORM t.like(t.fails(format('SELECT stepd.approve(%L, answer => ''[]'')', a), 'SD018'), 'a JSON object', 'no object');
    PERFORM t.like(t.fails(format('SELECT stepd.approve(%L, answer => ''{"c": "z"}'')', a), 'SD018'), '"c" must be one of .*; "n" is missing', 'two mistakes');
    PERFORM t.like(t.fails(format('SELECT stepd.approve(%L, answer => ''{"n": 1.5}'')', a), 'SD018'), '"n" must be of type integer', 'a wrong type');
    PERFORM t.same(stepd.approve(a, answer => '{"n": 1.0, "c": "y", "more": null}'), 'in', 'it fits');
    PERFORM t.ok((SELECT output -> 'answer' ->> 'c' = 'y' FROM stepd.steps WHERE run = a AND key = 'in'), 'its output');
    a := t.run(); PERFORM t.claim(a); PERFORM t.step(a, 1, 'ok', 'approve', 'waiting', decision => '{"wait":"approval","prompt":",\"schema\":"}'); PERFORM t.suspend(a);
    PERFORM t.like(t.fails(format('SELECT stepd.approve(%L, answer => ''{}'')', a), 'SD018'), 'asks for a yes or a no', 'no answer is asked for');
    PERFORM t.same(stepd.approve(a), 'ok', 'a yes will do');
    -- A wait for a server that does not answer.
    b := t.run(); PERFORM t.claim(b); PERFORM t.step(b, 1, 'ask', 'mcp', 'waiting', due => '5 s', decision => '{"wait":"retry","attempt":1,"of":5,"why":"it sleeps"}'); PERFORM t.suspend(b);
    PERFORM t.like(stepd.why(b), 'step ask, which goes on in [0-9]+ s: it sleeps', 'why');
    -- The pause before another attempt is told as what it is.
    b := t.run(); PERFORM t.claim(b); PERFORM t.step(b, 1, 'pay', 'http', 'waiting', decision => '{"wait":"retry","attempt":2,"of":5}'); PERFORM t.suspend(b);
    PERFORM t.like(stepd.why(b), 'attempt 2 of 5 of step pay', 'why');
    b := t.run(); PERFORM t.claim(b); PERFORM t.step(b, 1, 'w', 'wait', 'waiting', 'e'); PERFORM t.fails(format('SELECT stepd.approve(%L)', b), 'SD014');

    -- queues
    a := stepd.enqueue('order', queue => 'q1');
    PERFORM stepd.pause_queue('q1', 'ann');
    PERFORM t.same(t.state(stepd.enqueue('order', queue => 'q1')), 'held', 'a paused queue holds new runs');
    PERFORM t.ok((SELECT paused AND paused_by = session_user || ' for ann' AND held = 1 AND queued = 1 FROM stepd.queues WHERE name = 'q1'), 'stepd.queues');
    PERFORM stepd_engine.admit(100); PERFORM t.same(t.state(a), 'held', 'admission moves the queued');
    PERFORM stepd.unpause_queue('q1'); PERFORM stepd_engine.admit(100); PERFORM t.same(t.state(a), 'queued', 'and lets them go');
    PERFORM stepd.limit_queue('q1', 1);
    PERFORM t.ok((SELECT NOT open FROM stepd_engine.queues WHERE name = 'q1'), 'closed until counted');
    FOR i IN 1..3 LOOP PERFORM stepd_engine.admit(100); END LOOP;
    PERFORM t.ok((SELECT queued = 1 AND held = 1 AND max_running = 1 FROM stepd.queues WHERE name = 'q1'), 'the limit holds');
    PERFORM t.ok((SELECT open FROM stepd_engine.queues WHERE name = 'q1'), 'open again');
    PERFORM stepd.limit_queue('q1', NULL); PERFORM stepd_engine.admit(100);
    PERFORM t.ok((SELECT queued = 2 AND held = 0 FROM stepd.queues WHERE name = 'q1'), 'no limit');
    PERFORM t.fails('SELECT stepd.limit_queue(''q1'', 0)', '23514');
END $$;
