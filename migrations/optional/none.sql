-- Why: takes away what views.sql and tables.sql have brought, and nothing else: where somebody has put something of their own into one of these
-- schemas, or made something that depends on them, that is said and all stays. stepd migrate --compat none.

DROP TRIGGER IF EXISTS noted_insert ON stepd.jobs;
DROP TRIGGER IF EXISTS noted_update ON stepd.jobs;
DROP TRIGGER IF EXISTS noted_delete ON stepd.jobs;
DROP TRIGGER IF EXISTS noted_insert ON stepd_engine.ended;
DROP TRIGGER IF EXISTS noted_delete ON stepd_engine.ended;
DROP TRIGGER IF EXISTS noted_insert ON stepd_engine.checkpoints;
DROP TRIGGER IF EXISTS noted_update ON stepd_engine.checkpoints;
DROP TABLE IF EXISTS stepd_runtime_tables.executions, stepd_runtime_tables.execution_steps, stepd_runtime_tables.execution_state,
    stepd_runtime_tables.execution_events, stepd_runtime_tables.execution_locks, stepd_afu9_tables.workflow_executions,
    stepd_afu9_tables.workflow_steps, stepd_tables.changed;
DROP FUNCTION IF EXISTS stepd_tables.note(), stepd_tables.catch_up(integer), stepd_tables.forget();
DROP SCHEMA IF EXISTS stepd_tables, stepd_runtime_tables, stepd_afu9_tables;
DROP VIEW IF EXISTS stepd_runtime.executions, stepd_runtime.execution_steps, stepd_runtime.execution_state, stepd_runtime.execution_events,
    stepd_runtime.execution_locks, stepd_runtime.workflow_runs, stepd_runtime.latest_checkpoints, stepd_afu9.workflow_executions, stepd_afu9.workflow_steps;
DROP FUNCTION IF EXISTS stepd_afu9.forget();
DROP SCHEMA IF EXISTS stepd_runtime, stepd_afu9;
