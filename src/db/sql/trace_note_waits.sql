-- Notes what is over of runs that have waited for long. Caller: services::tracer. See the function.
SELECT w.last, w.noted AS "noted!" FROM stepd_engine.note_waits($1, $2, $3::bigint * interval '1 second') w
