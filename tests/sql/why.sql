\ir helpers.inc
DO $$
DECLARE a uuid; b uuid; w uuid := '00000000-0000-0000-0000-00000000000a';
BEGIN
    PERFORM t.like(stepd.why(gen_random_uuid()), '^there is no run ', 'unknown');
    PERFORM t.like(stepd.why(NULL), '^there is no run NULL', 'null');
    a := stepd.enqueue('order', run_at => now() + interval '1 hour');
    PERFORM t.like(stepd.why(a), '^scheduled until 20.* \(in 59 min\)$|\(in 60 min\)$', 'scheduled');
    a := t.run(); b := t.run();
    PERFORM t.like(stepd.why(a), 'queue default, next to be claimed$', 'first');
    PERFORM t.like(stepd.why(b), 'queue default, 1 ahead of it$', 'second');
    UPDATE stepd.jobs SET lane = 1 WHERE id = b;
    PERFORM t.like(stepd.why(b), 'came back and is claimed before new runs$', 'came back');
    UPDATE stepd.jobs SET streak = 4, crashes = 2 WHERE id = b;
    PERFORM t.like(stepd.why(b), '^queued: needs to run alone because of 2 crashes; waits for a worker', 'solo');
    UPDATE stepd.jobs SET worker = w WHERE id = b;
    PERFORM t.like(stepd.why(b), 'worker host1:4711 empties itself for it$', 'solo, chosen');
    UPDATE stepd_engine.workers SET queues = '{default}' WHERE id = w;
    a := stepd.enqueue('order', queue => 'gpu'); PERFORM t.same(stepd.why(a), 'queued: no live worker serves queue gpu', 'no worker');
    UPDATE stepd_engine.workers SET queues = NULL WHERE id = w;
    INSERT INTO stepd_engine.queues (name, exclusive) VALUES ('own', true);
    a := stepd.enqueue('order', queue => 'own'); PERFORM t.same(stepd.why(a), 'queued: no live worker serves queue own, which only those serve that name it: stepd serve --queue own', 'exclusive');
    PERFORM stepd.pause_queue('p', 'ann');
    a := stepd.enqueue('order', queue => 'p'); PERFORM t.like(stepd.why(a), '^held: queue p is paused by \w+ for ann since .*unpause_queue\(''p''\)', 'paused queue');
    PERFORM stepd.limit_queue('l', 1); PERFORM stepd_engine.admit(10);
    a := stepd.enqueue('order', queue => 'l'); PERFORM stepd_engine.admit(10); b := stepd.enqueue('order', queue => 'l');
    PERFORM t.same(stepd.why(b), 'held: queue l is limited to 1 at once, and 1 are queued or running', 'limit');
    PERFORM stepd.limit_queue('l', NULL);
    PERFORM t.like(stepd.why(b), '^held: nothing keeps it any more', 'limit gone');
    UPDATE stepd_engine.settings SET on_unknown_workflow = 'park';
    a := stepd.enqueue('nova'); PERFORM t.same(stepd.why(a), 'held: workflow nova is not known; it is parked until a worker has loaded it', 'parked');

    a := t.run(); PERFORM t.claim(a);
    PERFORM t.like(stepd.why(a), '^running since \d+ ms on host1, worker 00000000 \(pid 4711\)$', 'running');
    PERFORM t.step(a, 1, 'charge', 'http', 'running'); PERFORM t.step(a, 2, 'ok', 'approve', 'waiting');
    PERFORM t.like(stepd.why(a), '^running charge for \d+ ms; ok waits on host1', 'running a step');
    PERFORM stepd.cancel(a);
    PERFORM t.like(stepd.why(a), 'its cancel has been requested$', 'cancel asked');
    UPDATE stepd_engine.workers SET beat_at = now() - interval '1 min' WHERE id = w;
    PERFORM t.like(stepd.why(a), 'last heartbeat is 60 s old: a take-over is due', 'stale');
    UPDATE stepd_engine.workers SET beat_at = clock_timestamp() WHERE id = w;

    a := t.run(); PERFORM t.claim(a); PERFORM t.step(a, 1, 'ship', 'wait', 'waiting', 'packed', '{"o": 1}', '1 h'); PERFORM t.suspend(a);
    PERFORM t.like(stepd.why(a), '^waiting for event packed matching {"o": 1} at ship since \d+ ms, times out in (59|60) min$', 'event');
    a := t.run(); PERFORM t.claim(a); PERFORM t.step(a, 1, 'ok', 'approve', 'waiting', decision => '{"prompt":"Ship it?"}'); PERFORM t.step(a, 2, 'nap', 'sleep', 'waiting', due => '10 s'); PERFORM t.suspend(a);
    PERFORM t.like(stepd.why(a), '^waiting for approval at ok "Ship it\?" since \d+ ms; sleep at nap until 20.* \(in 10 s\)$', 'several');
    UPDATE stepd_engine.checkpoints SET state = 'completed', checkpoint = true WHERE run = a;
    PERFORM t.like(stepd.why(a), '^waiting for nothing any more', 'lost wake-up');

    a := t.run(); PERFORM t.claim(a);
    INSERT INTO stepd_engine.events (run, kind, key, data) VALUES (a, 'resume_scheduled', 'charge', '{"step":"charge","resume":3,"of":10,"failure":{"class":"transient","code":"http_503","message":"busy \u0000"}}');
    UPDATE stepd.jobs SET state = 'resuming', lane = 3, worker = NULL, due_at = clock_timestamp() + interval '40 s', error = '{"class":"transient","code":"http_503","message":"busy \u0000"}' WHERE id = a;
    PERFORM t.like(stepd.why(a), '^failed at charge, resume 3 of 10 in 40 s: http_503: busy ', 'resuming');
    a := t.run(); PERFORM stepd.pause(a);
    PERFORM t.like(stepd.why(a), format('^paused by %s since \d+ ms; SELECT stepd.unpause\(''%s''\) lets it go on$', session_user, a), 'paused');
    a := t.run(); PERFORM stepd.pause(a, 'the bank is down');
    PERFORM t.like(stepd.why(a), '^paused by .+ since \d+ ms "the bank is down"; SELECT', 'paused, with a reason');
    a := t.run(); PERFORM t.claim(a); PERFORM stepd.pause(a);
    PERFORM t.like(stepd.why(a), '^running since .*; a pause has been requested by .+$', 'pause asked');

    a := t.run(); PERFORM t.claim(a); PERFORM t.finish(a, 'completed', '1', NULL, 's', '1');
    PERFORM t.like(stepd.why(a), '^completed \d+ ms ago, \d+ ms after its start$', 'completed');
    a := t.run(); PERFORM t.claim(a); PERFORM t.finish(a, 'failed', NULL, '{"code":"exit_1","message":"no"}', 'charge', NULL);
    PERFORM t.like(stepd.why(a), '^failed at charge \d+ ms ago: exit_1: no; SELECT stepd.retry\(''[0-9a-f-]+''\) takes it up again$', 'failed');
    a := t.run(); PERFORM stepd.cancel(a, 'typo');
    PERFORM t.like(stepd.why(a), '^cancelled \d+ ms ago by .+: typo$', 'cancelled');
END $$;
