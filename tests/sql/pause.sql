\ir helpers.inc
CREATE FUNCTION t.job(run uuid) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s lane %s due %s worker %s', state, lane, due_at IS NOT NULL, worker IS NOT NULL) FROM stepd.jobs WHERE id = run $$;
DO $$
DECLARE a uuid; b uuid; s text; at_ timestamptz; w uuid := '00000000-0000-0000-0000-00000000000a';
BEGIN
    -- At once, and back to where it was.
    a := t.run();
    PERFORM t.same(stepd.pause(a, 'wait for ann'), 'paused', 'a queued run');
    PERFORM t.same(t.job(a), 'paused lane 3 due f worker f', 'it stands still');
    PERFORM t.same(stepd.pause(a), 'paused', 'again is no error');
    PERFORM t.ok((SELECT count(*) = 1 FROM stepd_engine.signals WHERE run = a), 'and one pause');
    PERFORM t.same(stepd.unpause(a), 'queued', 'and goes on');
    PERFORM t.same(t.job(a), 'queued lane 1 due f worker f', 'as one that came back');
    PERFORM t.ok(NOT EXISTS (SELECT FROM stepd_engine.signals WHERE run = a), 'nothing of the pause is left');
    PERFORM t.same((SELECT string_agg(event, ', ' ORDER BY seq) FROM stepd.history WHERE run = a), 'run enqueued, paused, unpaused', 'the trail');
    PERFORM t.ok((SELECT bool_and(by_whom = session_user) FROM stepd.history WHERE run = a), 'says who');

    at_ := date_trunc('second', now()) + interval '1 h';
    a := stepd.enqueue('order', run_at => at_); PERFORM stepd.pause(a);
    PERFORM t.same(stepd.unpause(a), 'scheduled', 'a scheduled run');
    PERFORM t.ok((SELECT due_at = at_ AND lane = 3 FROM stepd.jobs WHERE id = a), 'keeps its time');
    a := t.run(); PERFORM t.claim(a);
    UPDATE stepd.jobs SET state = 'resuming', lane = 3, due_at = at_, worker = NULL, error = '{"code":"x"}' WHERE id = a;
    PERFORM stepd.pause(a);
    PERFORM t.same(stepd.unpause(a), 'resuming', 'a resuming run');
    PERFORM t.ok((SELECT due_at = at_ AND error IS NOT NULL FROM stepd.jobs WHERE id = a), 'keeps its time and its failure');
    -- What has become due meanwhile is due.
    PERFORM stepd.pause(a);
    UPDATE stepd_engine.signals SET payload = payload || jsonb_build_object('due_at', now() - interval '1 s') WHERE run = a;
    PERFORM stepd.unpause(a); PERFORM stepd_engine.stage(100);
    PERFORM t.same(t.state(a), 'queued', 'its time has passed meanwhile');

    PERFORM stepd.pause_queue('p'); a := stepd.enqueue('order', queue => 'p'); b := stepd.enqueue('order', queue => 'p');
    PERFORM stepd.pause(a); PERFORM t.same(stepd.unpause(a), 'held', 'a held run');
    PERFORM stepd.pause(b); PERFORM stepd.unpause_queue('p'); PERFORM t.same(stepd.unpause(b), 'held', 'is held until the admitter has looked');
    PERFORM stepd_engine.admit(100); PERFORM t.same(t.state(b), 'queued', 'which lets it go');
    a := t.run(); PERFORM stepd.pause(a); PERFORM stepd.pause_queue('default');
    PERFORM t.same(stepd.unpause(a), 'held', 'a queue that was paused meanwhile holds it'); PERFORM stepd.unpause_queue('default'); PERFORM stepd_engine.admit(100);

    -- Waiting: what comes meanwhile is kept.
    a := t.run(); PERFORM t.claim(a); PERFORM t.step(a, 1, 'paid', 'wait', 'waiting', 'paid', due => '1 h'); PERFORM t.suspend(a);
    SELECT due_at INTO at_ FROM stepd.jobs WHERE id = a;
    PERFORM stepd.pause(a);
    PERFORM t.same(stepd.unpause(a), 'waiting', 'a waiting run');
    PERFORM t.ok((SELECT due_at = at_ FROM stepd.jobs WHERE id = a), 'waits as long as it would have');
    UPDATE stepd.jobs SET streak = 3, crashes = 3 WHERE id = a; PERFORM stepd.pause(a);
    PERFORM t.same(stepd.signal(a, 'paid', '{"n": 1}'), 'delivered', 'a signal comes');
    PERFORM t.same(t.state(a), 'paused', 'it stays paused');
    PERFORM t.ok((SELECT streak = 0 FROM stepd.jobs WHERE id = a), 'the answer is progress');
    PERFORM t.same(stepd.signal(a, 'other'), 'kept', 'another is kept');
    PERFORM stepd_engine.repair(1000); PERFORM t.same(t.state(a), 'paused', 'the sweep leaves it alone');
    PERFORM t.same(stepd.unpause(a), 'queued', 'and the answer brings it to a worker');
    PERFORM t.ok((SELECT state = 'completed' AND output::text = '{"n": 1}' FROM stepd.steps WHERE run = a), 'with it');
    a := t.run(); PERFORM t.claim(a); PERFORM t.step(a, 1, 'ok', 'approve', 'waiting'); PERFORM t.suspend(a); PERFORM stepd.pause(a);
    PERFORM stepd.reject(a); PERFORM t.same(stepd.unpause(a), 'queued', 'a rejection, too');
    a := t.run(); PERFORM t.claim(a); PERFORM t.step(a, 1, 'e', 'wait', 'waiting', 'e'); PERFORM t.suspend(a); PERFORM stepd.pause(a);
    PERFORM t.ok(stepd.emit('e') = 1, 'an event'); PERFORM t.same(stepd.unpause(a), 'queued', 'too');

    -- A run at work is asked; its row is neither locked nor changed.
    a := t.run(); PERFORM t.claim(a);
    SELECT x.xmax::text || x.ctid::text INTO s FROM stepd.jobs x WHERE x.id = a;
    PERFORM t.same(stepd.pause(a, 'slow'), 'requested', 'a running run');
    PERFORM t.same(stepd.pause(a), 'requested', 'twice');
    PERFORM t.ok((SELECT x.xmax::text || x.ctid::text = s FROM stepd.jobs x WHERE x.id = a), 'is left alone');
    PERFORM t.ok((SELECT count(*) = 1 FROM stepd_engine.events WHERE run = a AND kind = 'pause_requested'), 'asked once');
    PERFORM t.same(stepd.unpause(a), 'running', 'the request is withdrawn');
    PERFORM t.like(t.fails(format('SELECT stepd.unpause(%L)', a), 'SD012'), 'is running; only a paused run can be unpaused', 'nothing left to withdraw');
    -- It is let go without having heard: the look that follows a suspend pauses it, and so does the sweep.
    PERFORM stepd.pause(a, 'slow'); PERFORM t.step(a, 1, 'nap', 'sleep', 'waiting', due => '1 h'); PERFORM t.suspend(a);
    PERFORM stepd_engine.settle(a, '{nap}'); PERFORM t.same(t.state(a), 'paused', 'settled');
    PERFORM t.like(stepd.why(a), '"slow"', 'the reason survives'); PERFORM t.same(stepd.unpause(a), 'waiting', 'and it knows where it was');
    a := t.run(); PERFORM t.claim(a); PERFORM stepd.pause(a);
    UPDATE stepd.jobs SET state = 'queued', lane = 1, worker = NULL WHERE id = a; PERFORM stepd_engine.repair(1000);
    PERFORM t.same(t.state(a), 'paused', 'by the sweep');
    -- Withdrawn while the worker paused it: it goes on.
    a := t.run(); PERFORM t.claim(a); PERFORM stepd.pause(a); PERFORM stepd.unpause(a);
    UPDATE stepd.jobs SET state = 'paused', lane = 3, worker = NULL WHERE id = a;
    PERFORM stepd_engine.settle(a, '{}'); PERFORM t.same(t.state(a), 'queued', 'settled'); PERFORM t.claim(a);
    UPDATE stepd.jobs SET state = 'paused', lane = 3, worker = NULL WHERE id = a;
    PERFORM stepd_engine.repair(1000); PERFORM t.same(t.state(a), 'queued', 'by the sweep');

    -- The workflow's timeout stands still.
    a := t.run(); PERFORM t.claim(a); UPDATE stepd.jobs SET state = 'queued', lane = 1, worker = NULL, started_at = now() - interval '10 min' WHERE id = a;
    PERFORM stepd.pause(a); UPDATE stepd_engine.events SET at = now() - interval '9 min' WHERE run = a; PERFORM stepd.unpause(a);
    PERFORM t.ok((SELECT started_at BETWEEN now() - interval '62 s' AND now() - interval '58 s' FROM stepd.jobs WHERE id = a), 'a minute is used');
    PERFORM t.ok((SELECT started_at = now() - interval '10 min' FROM stepd.runs WHERE id = a), 'the start that is shown stays');

    -- Cancel, retry, the end.
    a := t.run(); PERFORM stepd.pause(a);
    PERFORM t.like(t.fails(format('SELECT stepd.retry(%L)', a), 'SD012'), 'is paused; only a failed', 'retry of a paused run');
    PERFORM t.same(stepd.cancel(a), 'cancelled', 'cancel');
    PERFORM t.ok(NOT EXISTS (SELECT FROM stepd_engine.signals WHERE run = a), 'takes the pause along');
    PERFORM t.like(t.fails(format('SELECT stepd.pause(%L)', a), 'SD011'), 'already ended as cancelled', 'pause of an ended run');
    PERFORM t.like(t.fails(format('SELECT stepd.unpause(%L)', a), 'SD011'), 'already ended as cancelled', 'unpause of an ended run');
    PERFORM t.fails('SELECT stepd.pause(gen_random_uuid())', 'SD010'); PERFORM t.fails('SELECT stepd.unpause(NULL)', 'SD010');
    a := t.run(); PERFORM t.like(t.fails(format('SELECT stepd.unpause(%L)', a), 'SD012'), 'is queued', 'unpause of a queued run');
    PERFORM t.claim(a); PERFORM stepd.pause(a); PERFORM t.finish(a, 'failed', NULL, '{"code":"x"}', NULL, NULL);
    PERFORM t.same(stepd.retry(a), 'queued', 'a pause that came too late'); PERFORM stepd_engine.repair(1000);
    PERFORM t.same(t.state(a), 'queued', 'does not meet the retry');
END $$;
