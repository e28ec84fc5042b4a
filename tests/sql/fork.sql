-- What a fork keeps, row by row; what it takes along, and what it does not.
\ir helpers.inc

DO $$
DECLARE
    a uuid := stepd.enqueue('order', '{"n": 1}', unique_key => 'k', concurrency_key => 'c', labels => '{"l": "1"}', traceparent => 'tp', priority => 3);
    f uuid;
    g uuid;
BEGIN
    PERFORM t.claim(a);
    PERFORM t.step(a, 1, 'first', 'run', 'completed', output => '{"x": "\u0000"}');
    PERFORM t.step(a, 2, 'undone', 'http', 'completed', output => '2');
    PERFORM t.step(a, 3, 'skipped', 'run', 'skipped');
    PERFORM t.step(a, 4, 'docs', 'map', 'running', decision => '[1,2]');
    PERFORM t.step(a, 5, 'docs[0].text', 'run', 'completed', output => '5');
    PERFORM t.step(a, 6, 'wait', 'wait', 'waiting', event => 'paid');
    PERFORM t.step(a, 7, 'other', 'map', 'running', decision => '[3]');
    PERFORM t.step(a, 8, 'broken', 'run', 'failed', error => '{"class":"permanent","code":"x","message":"y"}');
    PERFORM t.step(a, 9, 'last', 'run', 'completed', output => '9');
    PERFORM t.step(a, 10, 'undone.undo', 'http', 'completed', output => 'null');

    f := stepd.fork(a, 'last');
    PERFORM t.same((SELECT string_agg(key || ' ' || state || ' ' || checkpoint, ', ' ORDER BY seq) FROM stepd_engine.checkpoints WHERE run = f),
        'first completed true, skipped skipped true, docs running false, docs[0].text completed true',
        'what had ended, and the open map whose item is kept; nothing undone, waiting, or failed');
    PERFORM t.same((SELECT output FROM stepd_engine.checkpoints WHERE run = f AND key = 'first'), '{"x": "\u0000"}', 'byte for byte');
    PERFORM t.same((SELECT decision FROM stepd_engine.checkpoints WHERE run = f AND key = 'docs'), '[1,2]', 'the items stand');
    PERFORM t.ok((SELECT bool_and(attempts = 0 AND epoch = 1) FROM stepd_engine.checkpoints WHERE run = f), 'nothing of it was done here');
    PERFORM t.ok((SELECT j.unique_key IS NULL AND j.concurrency_key = 'c' AND j.labels = '{"l": "1"}' AND j.traceparent = 'tp' AND j.priority = 3
        AND j.input = '{"n": 1}' AND j.definition = 1 AND j.epoch = 1 AND j.state = 'queued' FROM stepd.jobs j WHERE j.id = f), 'the row');
    PERFORM t.same((SELECT forked_from::text FROM stepd.runs WHERE id = f), a::text, 'where it comes from');

    -- Another input: the key of another run is not its own.
    g := stepd.fork(a, 'first', '{"n": 2}');
    PERFORM t.ok((SELECT j.concurrency_key IS NULL AND j.input = '{"n": 2}' FROM stepd.jobs j WHERE j.id = g), 'another input');
    PERFORM t.same((SELECT count(*)::text FROM stepd_engine.checkpoints WHERE run = g), '0', 'from the first step');
    g := stepd.fork(f, 'docs[0].text');
    PERFORM t.ok((SELECT forked_from = f FROM stepd.runs WHERE id = g), 'a fork of a fork');

    -- The workflow's present definition.
    INSERT INTO stepd_engine.definitions (hash, workflow) VALUES ('h2', 'order');
    UPDATE stepd_engine.workflows SET definition = 2 WHERE name = 'order';
    f := stepd.fork(a, 'last');
    g := stepd.fork(a, 'last', latest => true);
    PERFORM t.same((SELECT definition::text FROM stepd.runs WHERE id = f), '1', 'as it began');
    PERFORM t.same((SELECT definition::text FROM stepd.runs WHERE id = g), '2', 'as it is now');

    PERFORM t.like(t.fails(format('SELECT stepd.fork(%L, ''lst'')', a), 'SD017'), 'has not begun a step "lst"', 'no such step');
    PERFORM t.fails(format('SELECT stepd.fork(%L, NULL)', a), 'SD016');
    PERFORM t.fails('SELECT stepd.fork(gen_random_uuid(), ''x'')', 'SD010');
    UPDATE stepd_engine.workflows SET retired_at = now() WHERE name = 'order';
    PERFORM t.fails(format('SELECT stepd.fork(%L, ''last'')', a), 'SD001');
    UPDATE stepd_engine.workflows SET retired_at = NULL WHERE name = 'order';

    -- A run that ended with its last step riding along.
    PERFORM t.finish(a, 'completed', '9', NULL, 'last', '9');
    f := stepd.fork(a, 'broken');
    PERFORM t.same((SELECT string_agg(key, ', ' ORDER BY seq) FROM stepd_engine.checkpoints WHERE run = f), 'first, skipped, docs, docs[0].text', 'of an ended run');

    -- Retried with the present definition, failed and resuming.
    a := t.run(); PERFORM t.claim(a);
    PERFORM t.finish(a, 'failed', NULL, '{"class":"permanent","code":"x","message":"y"}', 'one', NULL);
    PERFORM stepd.retry(a);
    PERFORM t.same((SELECT definition::text FROM stepd.runs WHERE id = a), '1', 'a retry keeps the definition');
    PERFORM t.claim(a);
    UPDATE stepd.jobs SET state = 'resuming', lane = 3, due_at = now() + interval '1 hour' WHERE id = a;
    PERFORM stepd.retry(a, latest => true);
    PERFORM t.same((SELECT definition::text FROM stepd.runs WHERE id = a), '2', 'a resuming run moves on');
END
$$;
