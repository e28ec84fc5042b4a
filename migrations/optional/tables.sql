-- Why: what a view cannot serve to those who come from the older systems: GROUP BY a primary key, CREATE INDEX, \dt, foreign keys. Real
-- tables, kept from the views by a service of the daemon, a few seconds behind. stepd migrate --compat tables applies this file after
-- views.sql; stepd migrate --compat none takes both away. Rules of this file
--   * Every change of a run is noted in the transaction that makes it, by triggers that are there only while this file is applied; so it
--     costs nothing where it is not. Noted runs are made anew from the views and forgotten in one transaction: a crash loses nothing, and
--     to do it twice changes nothing.
--   * Whoever writes to these tables writes to a copy. A DELETE of an ended run removes the run itself, as at the view.

CREATE SCHEMA stepd_tables;
REVOKE ALL ON SCHEMA stepd_tables FROM PUBLIC;
COMMENT ON SCHEMA stepd_tables IS 'What keeps the tables of stepd_runtime_tables and stepd_afu9_tables up to date. Private.';
CREATE SCHEMA stepd_runtime_tables;
COMMENT ON SCHEMA stepd_runtime_tables IS 'The views of stepd_runtime as tables, a few seconds behind.';
CREATE SCHEMA stepd_afu9_tables;
COMMENT ON SCHEMA stepd_afu9_tables IS 'The views of stepd_afu9 as tables, a few seconds behind.';

CREATE TABLE stepd_runtime_tables.executions (LIKE stepd_runtime.executions, PRIMARY KEY (id));
CREATE TABLE stepd_runtime_tables.execution_steps (LIKE stepd_runtime.execution_steps, PRIMARY KEY (id), UNIQUE (execution_id, step_order, step_name));
CREATE TABLE stepd_runtime_tables.execution_state (LIKE stepd_runtime.execution_state, PRIMARY KEY (execution_id));
CREATE TABLE stepd_runtime_tables.execution_events (LIKE stepd_runtime.execution_events, PRIMARY KEY (id));
CREATE INDEX execution_events_of_execution ON stepd_runtime_tables.execution_events (execution_id, sequence);
CREATE TABLE stepd_runtime_tables.execution_locks (LIKE stepd_runtime.execution_locks, PRIMARY KEY (execution_id));
CREATE TABLE stepd_afu9_tables.workflow_executions (LIKE stepd_afu9.workflow_executions, PRIMARY KEY (id));
CREATE INDEX idx_executions_status ON stepd_afu9_tables.workflow_executions (status);
CREATE INDEX idx_executions_started_at ON stepd_afu9_tables.workflow_executions (started_at DESC);
CREATE TABLE stepd_afu9_tables.workflow_steps (LIKE stepd_afu9.workflow_steps, PRIMARY KEY (id));
CREATE INDEX idx_steps_execution_id ON stepd_afu9_tables.workflow_steps (execution_id, step_index);

-- The comments of the views, word for word.
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN SELECT t.oid::regclass AS tab, obj_description(v.oid, 'pg_class') AS said, a.attname, col_description(v.oid, a.attnum) AS column_said
        FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
        JOIN pg_class v ON v.relname = t.relname JOIN pg_namespace m ON m.oid = v.relnamespace AND m.nspname || '_tables' = n.nspname
        JOIN pg_attribute a ON a.attrelid = v.oid AND a.attnum > 0
        WHERE t.relkind = 'r' AND n.nspname IN ('stepd_runtime_tables', 'stepd_afu9_tables')
    LOOP
        EXECUTE format('COMMENT ON TABLE %s IS %L', r.tab, r.said);
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', r.tab, r.attname, r.column_said);
    END LOOP;
END
$$;

-- One row a statement, whose runs may be many.
CREATE TABLE stepd_tables.changed (runs uuid[] NOT NULL)
    WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off);
COMMENT ON TABLE stepd_tables.changed IS 'Runs that the tables do not show yet as they are.';
COMMENT ON COLUMN stepd_tables.changed.runs IS 'Their ids, some of them more than once.';

CREATE FUNCTION stepd_tables.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The first argument is the column that names the run.
    IF TG_ARGV[0] = 'id' THEN
        INSERT INTO stepd_tables.changed SELECT array_agg(DISTINCT c.id) FROM touched c HAVING count(*) > 0;
    ELSE
        INSERT INTO stepd_tables.changed SELECT array_agg(DISTINCT c.run) FROM touched c HAVING count(*) > 0;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION stepd_tables.note() IS 'Notes the runs that a statement has touched.';
CREATE TRIGGER noted_insert AFTER INSERT ON stepd.jobs REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION stepd_tables.note('id');
CREATE TRIGGER noted_update AFTER UPDATE ON stepd.jobs REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION stepd_tables.note('id');
CREATE TRIGGER noted_delete AFTER DELETE ON stepd.jobs REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION stepd_tables.note('id');
CREATE TRIGGER noted_insert AFTER INSERT ON stepd_engine.ended REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION stepd_tables.note('id');
CREATE TRIGGER noted_delete AFTER DELETE ON stepd_engine.ended REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION stepd_tables.note('id');
CREATE TRIGGER noted_insert AFTER INSERT ON stepd_engine.checkpoints REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION stepd_tables.note('run');
CREATE TRIGGER noted_update AFTER UPDATE ON stepd_engine.checkpoints REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION stepd_tables.note('run');

-- Each statement sees what the ones before it have, and what was noted was committed before the first: so each run is shown as it was then,
-- or later; what has changed since is noted anew.
CREATE FUNCTION stepd_tables.catch_up(batch integer) RETURNS integer LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    ids uuid[];
    n integer;
BEGIN
    WITH taken AS (
        DELETE FROM stepd_tables.changed c WHERE c.ctid = ANY (ARRAY(SELECT x.ctid FROM stepd_tables.changed x LIMIT batch)) RETURNING c.runs
    )
    SELECT array_agg(DISTINCT r.run), (SELECT count(*) FROM taken) INTO ids, n FROM taken t, unnest(t.runs) AS r(run);
    IF ids IS NULL THEN RETURN 0; END IF;
    PERFORM set_config('stepd.catching_up', 'on', true);
    DELETE FROM stepd_runtime_tables.executions x WHERE x.id = ANY (ids);
    DELETE FROM stepd_runtime_tables.execution_steps x WHERE x.execution_id = ANY (ids);
    DELETE FROM stepd_runtime_tables.execution_state x WHERE x.execution_id = ANY (ids);
    DELETE FROM stepd_runtime_tables.execution_events x WHERE x.execution_id = ANY (ids);
    DELETE FROM stepd_runtime_tables.execution_locks x WHERE x.execution_id = ANY (ids);
    DELETE FROM stepd_afu9_tables.workflow_steps x WHERE x.execution_id = ANY (ids);
    DELETE FROM stepd_afu9_tables.workflow_executions x WHERE x.id = ANY (ids);
    INSERT INTO stepd_runtime_tables.executions SELECT * FROM stepd_runtime.executions v WHERE v.id = ANY (ids);
    INSERT INTO stepd_runtime_tables.execution_steps SELECT * FROM stepd_runtime.execution_steps v WHERE v.execution_id = ANY (ids);
    INSERT INTO stepd_runtime_tables.execution_state SELECT * FROM stepd_runtime.execution_state v WHERE v.execution_id = ANY (ids);
    INSERT INTO stepd_runtime_tables.execution_events SELECT * FROM stepd_runtime.execution_events v WHERE v.execution_id = ANY (ids);
    INSERT INTO stepd_runtime_tables.execution_locks SELECT * FROM stepd_runtime.execution_locks v WHERE v.execution_id = ANY (ids);
    INSERT INTO stepd_afu9_tables.workflow_executions SELECT * FROM stepd_afu9.workflow_executions v WHERE v.id = ANY (ids);
    INSERT INTO stepd_afu9_tables.workflow_steps SELECT * FROM stepd_afu9.workflow_steps v WHERE v.execution_id = ANY (ids);
    PERFORM set_config('stepd.catching_up', '', true);
    RETURN n;
END
$$;
COMMENT ON FUNCTION stepd_tables.catch_up(integer) IS 'Makes the rows of noted runs anew from the views, and forgets that they were noted; returns how many notes there were.';

CREATE FUNCTION stepd_tables.forget() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(current_setting('stepd.catching_up', true), '') <> 'on' THEN
        DELETE FROM stepd_afu9.workflow_executions v WHERE v.id = OLD.id;
        DELETE FROM stepd_afu9_tables.workflow_steps x WHERE x.execution_id = OLD.id;
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION stepd_tables.forget() IS 'Who deletes a row of the copy means the run.';
CREATE TRIGGER forget BEFORE DELETE ON stepd_afu9_tables.workflow_executions FOR EACH ROW EXECUTE FUNCTION stepd_tables.forget();

DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'stepd_tables'::regnamespace LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END
$$;

-- What is there already, in stretches.
INSERT INTO stepd_tables.changed SELECT array_agg(x.id) FROM (
    SELECT r.id, (row_number() OVER (ORDER BY r.id) - 1) / 200 AS stretch FROM stepd.runs r) x GROUP BY x.stretch ORDER BY x.stretch;
