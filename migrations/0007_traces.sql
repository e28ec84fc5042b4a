-- Why: what is still to be exported as a trace, and to whom. Rules of this file
--   * The statement that ends a run notes it for each target, in its own transaction: whoever dies, nothing that has ended is left out, and
--     there is no watermark that a late commit could fall behind. The spans themselves are made from the run's rows when they are sent.
--   * Each target has notes of its own: one that is slow, or away, holds none of the others back.
--   * A daemon that sends takes a note by a lease (due_at) and removes it when the target has it: at least once, and no transaction stands
--     open while somebody else is waited for.
--   * Where no target is known, or none has been named by a daemon for a day, nothing is noted.
--   * What is older, or more, than the target's bounds is dropped, counted, and told (stepd_engine.trim_traces).

CREATE TABLE stepd_engine.trace_targets (
    name text NOT NULL CONSTRAINT trace_targets_name_check CHECK (length(name) BETWEEN 1 AND 200),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    keep interval NOT NULL,
    most bigint NOT NULL,
    CONSTRAINT trace_targets_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE stepd_engine.trace_targets IS 'Where daemons send traces.';
COMMENT ON COLUMN stepd_engine.trace_targets.name IS 'As the configuration calls it.';
COMMENT ON COLUMN stepd_engine.trace_targets.seen_at IS 'When a daemon last said that it sends there.';
COMMENT ON COLUMN stepd_engine.trace_targets.keep IS 'How old a note may become.';
COMMENT ON COLUMN stepd_engine.trace_targets.most IS 'How many runs may be noted.';
COMMENT ON INDEX stepd_engine.trace_targets_pkey IS 'One row for each target.';

CREATE TABLE stepd_engine.trace_notes (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT '-infinity',
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,
    target text NOT NULL,
    runs uuid[] NOT NULL,
    CONSTRAINT trace_notes_pkey PRIMARY KEY (target, id),
    CONSTRAINT trace_notes_times_are_near CHECK (least(at, from_at, to_at) >= '1970-01-01' AND greatest(at, from_at, to_at) < '2300-01-01')
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE stepd_engine.trace_notes IS 'Runs whose traces a target does not have yet.';
COMMENT ON COLUMN stepd_engine.trace_notes.id IS 'The order of the notes.';
COMMENT ON COLUMN stepd_engine.trace_notes.at IS 'When it was noted.';
COMMENT ON COLUMN stepd_engine.trace_notes.due_at IS 'Until then a daemon is at it.';
COMMENT ON COLUMN stepd_engine.trace_notes.from_at IS 'The parts of the runs that ended from then …';
COMMENT ON COLUMN stepd_engine.trace_notes.to_at IS '… until then are meant: a run that is taken up again ends more than once.';
COMMENT ON COLUMN stepd_engine.trace_notes.target IS 'Which target.';
COMMENT ON COLUMN stepd_engine.trace_notes.runs IS 'The runs: up to some hundred, which one statement has ended.';
COMMENT ON INDEX stepd_engine.trace_notes_pkey IS 'The oldest notes of a target.';
COMMENT ON SEQUENCE stepd_engine.trace_notes_id_seq IS 'The order of the notes.';

CREATE TABLE stepd_engine.trace_waits (
    run uuid NOT NULL,
    at timestamptz NOT NULL,
    CONSTRAINT trace_waits_pkey PRIMARY KEY (run, at),
    CONSTRAINT trace_waits_times_are_near CHECK (at >= '1970-01-01' AND at < '2300-01-01')
);
COMMENT ON TABLE stepd_engine.trace_waits IS 'Where the traces of runs that wait for long are divided: what was before has been noted, and what comes is a part of its own.';
COMMENT ON COLUMN stepd_engine.trace_waits.run IS 'The run''s id.';
COMMENT ON COLUMN stepd_engine.trace_waits.at IS 'When it was found to have waited for long.';
COMMENT ON INDEX stepd_engine.trace_waits_pkey IS 'The parts of a run, in order.';

-- A target that no daemon has named for a day is not waited for any more.
CREATE FUNCTION stepd_engine.traced_since() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN clock_timestamp() - interval '1 day';
COMMENT ON FUNCTION stepd_engine.traced_since() IS 'Targets that were named after this are live.';

CREATE FUNCTION stepd_engine.note_traces() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM stepd_engine.trace_targets) OR NOT EXISTS (SELECT FROM fresh) THEN RETURN NULL; END IF;
    -- No note is long, whatever a statement ends.
    INSERT INTO stepd_engine.trace_notes (target, from_at, to_at, runs)
        SELECT t.name, f.from_at, f.to_at, f.runs FROM stepd_engine.trace_targets t CROSS JOIN (
            SELECT min(n.ended_at) AS from_at, max(n.ended_at) AS to_at, array_agg(n.id) AS runs
            FROM (SELECT e.id, e.ended_at, (row_number() OVER () - 1) / 200 AS stretch FROM fresh e) n GROUP BY n.stretch) f
        WHERE t.seen_at > stepd_engine.traced_since();
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION stepd_engine.note_traces() IS 'Notes the runs that a statement has ended, for each target of traces.';
CREATE TRIGGER ended_traced AFTER INSERT ON stepd_engine.ended REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION stepd_engine.note_traces();
COMMENT ON TRIGGER ended_traced ON stepd_engine.ended IS 'Notes the runs that a statement has ended, once per statement.';

-- What ended from then on is not removed: some of it is still to be sent.
CREATE FUNCTION stepd_engine.untraced_since() RETURNS timestamptz LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(n.from_at) FROM stepd_engine.trace_notes n WHERE EXISTS (
        SELECT FROM stepd_engine.trace_targets t WHERE t.name = n.target AND t.seen_at > stepd_engine.traced_since())
$$;
COMMENT ON FUNCTION stepd_engine.untraced_since() IS 'The earliest end of a run whose trace a live target does not have yet; NULL: there is none.';

-- Drops what is too old or too much, newest kept, and what is left of targets that nobody names any more. One caller at a time.
CREATE FUNCTION stepd_engine.trim_traces() RETURNS TABLE (target text, runs bigint) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(stepd_engine.lock_class(), -6) THEN RETURN; END IF;
    RETURN QUERY WITH gone AS (
        DELETE FROM stepd_engine.trace_targets t WHERE t.seen_at <= stepd_engine.traced_since() RETURNING t.name
    ), kept AS (
        SELECT n.target, n.id, n.at, sum(cardinality(n.runs)) OVER (PARTITION BY n.target ORDER BY n.id DESC) AS newer FROM stepd_engine.trace_notes n
    ), dropped AS (
        DELETE FROM stepd_engine.trace_notes n USING kept k LEFT JOIN stepd_engine.trace_targets t ON t.name = k.target
        WHERE n.target = k.target AND n.id = k.id
            AND (t.name IS NULL OR t.seen_at <= stepd_engine.traced_since() OR k.at < clock_timestamp() - t.keep OR k.newer > t.most)
        RETURNING n.target, cardinality(n.runs) AS runs
    )
    SELECT d.target, sum(d.runs)::bigint FROM dropped d GROUP BY d.target;
END
$$;
COMMENT ON FUNCTION stepd_engine.trim_traces() IS 'Drops notes beyond the bounds of their targets; returns how many runs, by target.';

-- Divides the traces of runs that have waited for long, and notes what was before: the live rows after an id, so many of them.
-- One caller at a time. The rest of a run that waits, is paused, or is to be resumed late, is told when that is over.
CREATE FUNCTION stepd_engine.note_waits(after uuid, batch integer, longest interval, OUT last uuid, OUT noted integer) LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    now_ timestamptz := clock_timestamp();
BEGIN
    noted := 0;
    IF NOT pg_try_advisory_xact_lock(stepd_engine.lock_class(), -7)
        OR NOT EXISTS (SELECT FROM stepd_engine.trace_targets t WHERE t.seen_at > stepd_engine.traced_since()) THEN RETURN; END IF;
    WITH looked AS MATERIALIZED (
        SELECT j.id, j.state, j.started_at FROM stepd.jobs j WHERE j.id > after ORDER BY j.id LIMIT batch
    ), waits AS MATERIALIZED (
        SELECT l.id FROM looked l CROSS JOIN LATERAL (
            SELECT max(greatest(c.started_at, c.ended_at)) AS at FROM stepd_engine.checkpoints c WHERE c.run = l.id) s
        WHERE l.state IN ('waiting', 'paused', 'resuming') AND l.started_at IS NOT NULL AND s.at < now_ - longest
            AND NOT EXISTS (SELECT FROM stepd_engine.trace_waits w WHERE w.run = l.id AND w.at >= s.at)
    ), divided AS (
        INSERT INTO stepd_engine.trace_waits (run, at) SELECT w.id, now_ FROM waits w RETURNING run
    ), told AS (
        INSERT INTO stepd_engine.trace_notes (target, from_at, to_at, runs)
            SELECT t.name, now_, now_, n.runs FROM stepd_engine.trace_targets t CROSS JOIN (
                SELECT array_agg(d.run) AS runs FROM (SELECT d.run, (row_number() OVER () - 1) / 200 AS stretch FROM divided d) d GROUP BY d.stretch) n
            WHERE t.seen_at > stepd_engine.traced_since()
    )
    SELECT (SELECT l.id FROM looked l ORDER BY l.id DESC LIMIT 1), (SELECT count(*) FROM divided) INTO last, noted;
END
$$;
COMMENT ON FUNCTION stepd_engine.note_waits(uuid, integer, interval) IS 'Notes what is over of runs that have waited for long; returns where the next call goes on (NULL: at the end), and how many were noted.';

REVOKE ALL ON FUNCTION stepd_engine.traced_since(), stepd_engine.note_traces(), stepd_engine.untraced_since(), stepd_engine.trim_traces(),
    stepd_engine.note_waits(uuid, integer, interval) FROM PUBLIC;
