-- Drops notes beyond the bounds of their targets; how many runs that were. Caller: services::tracer. See the function.
SELECT t.target AS "target!", t.runs AS "runs!" FROM stepd_engine.trim_traces() t
