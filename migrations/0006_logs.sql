-- Why: what steps write while they work (stderr, stdout, the words of servers of tools, lines of Rust code), kept with their run.
--
-- Shape, and what decided it
--   * A row is not a line but what an attempt wrote within a moment, up to 64 KiB: one row header, one key and one index entry for many
--     lines, and Postgres compresses the text. The view makes lines of them.
--   * Only the last bytes of an attempt are kept (step_log_bytes): its worker knows what it has written, and takes the oldest rows out in
--     the statement that adds the next. Lines have numbers, so that a gap says how many are missing; nothing counts them.
--   * One index, the primary key: lines are read by run, in the order in which they were written. (run, epoch, n) is the same
--     however often a batch of unknown outcome is sent, so that no line is there twice.
--   * Apart from stepd_engine.checkpoints and events, and written by a path of its own: what a run's steps have to say never stands
--     in the way of what they have done. A run whose steps write nothing has no row here.
--   * Rows go with their run (stepd_engine.remove_runs), and are told by the export before.

CREATE TABLE stepd_engine.logs (
    run uuid NOT NULL,
    n bigint NOT NULL,
    first bigint NOT NULL,
    at timestamptz NOT NULL,
    epoch integer NOT NULL,
    attempt smallint NOT NULL,
    key text NOT NULL,
    lines text NOT NULL,
    CONSTRAINT logs_pkey PRIMARY KEY (run, epoch, n),
    CONSTRAINT logs_times_are_near CHECK (at >= '1970-01-01' AND at < '2300-01-01'),
    CONSTRAINT logs_first_is_a_number_of_a_line CHECK (first BETWEEN 1 AND 1000000000000000),
    CONSTRAINT logs_lines_are_lines CHECK (json_typeof(lines::json) = 'array' AND coalesce(json_extract_path_text(lines::json, '0'), '') IS NOT NULL)
) WITH (autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_scale_factor = 0.1);
COMMENT ON TABLE stepd_engine.logs IS 'What steps have written while they worked; the view stepd.logs has it line by line.';
COMMENT ON COLUMN stepd_engine.logs.run IS 'The run''s id.';
COMMENT ON COLUMN stepd_engine.logs.n IS 'The order in which the worker of that claim wrote its rows; with gaps.';
COMMENT ON COLUMN stepd_engine.logs.first IS 'The number of the first line within its attempt, from 1; the others follow.';
COMMENT ON COLUMN stepd_engine.logs.at IS 'When the first line was written.';
COMMENT ON COLUMN stepd_engine.logs.epoch IS 'The claim under which it was written.';
COMMENT ON COLUMN stepd_engine.logs.attempt IS 'Which attempt of the step.';
COMMENT ON COLUMN stepd_engine.logs.key IS 'The step''s key.';
COMMENT ON COLUMN stepd_engine.logs.lines IS 'The lines as JSON text: [[microseconds after at, stream, level, text], …].';
COMMENT ON INDEX stepd_engine.logs_pkey IS 'The lines of a run, in order; what is sent twice is written once.';

CREATE VIEW stepd.logs AS
SELECT l.run, l.key, l.attempt::integer AS attempt, l.first + x.n - 1 AS line, l.at + CASE WHEN x.line ->> 0 ~ '^[0-9]{1,15}$' THEN (x.line ->> 0)::bigint ELSE 0 END * interval '1 microsecond' AS at,
    coalesce(x.line ->> 1, '') AS stream, coalesce(x.line ->> 2, '') AS level, coalesce(x.line ->> 3, '') AS text, l.epoch, l.n AS chunk
FROM stepd_engine.logs l CROSS JOIN LATERAL json_array_elements(l.lines::json) WITH ORDINALITY AS x(line, n);
COMMENT ON VIEW stepd.logs IS 'What steps have written while they worked, line by line; of each attempt the last lines. Those of a run in order: WHERE run = … ORDER BY epoch, chunk, line.';
COMMENT ON COLUMN stepd.logs.run IS 'The run''s id.';
COMMENT ON COLUMN stepd.logs.key IS 'The step''s key.';
COMMENT ON COLUMN stepd.logs.attempt IS 'Which attempt of the step.';
COMMENT ON COLUMN stepd.logs.line IS 'Which line of the attempt, from 1. Where the numbers have a gap, so many lines are not kept.';
COMMENT ON COLUMN stepd.logs.at IS 'When it was written, by the database''s clock.';
COMMENT ON COLUMN stepd.logs.stream IS 'stderr, stdout (of an attempt that took longer than a second, or failed), server (of a server of tools, during a call), code (the step''s own).';
COMMENT ON COLUMN stepd.logs.level IS 'debug, info, warn or error; info where the writer does not say.';
COMMENT ON COLUMN stepd.logs.text IS 'The line, without secrets and without what a terminal would obey.';
COMMENT ON COLUMN stepd.logs.epoch IS 'The claim under which it was written: an attempt that was interrupted is done again, from line 1, under the next.';
COMMENT ON COLUMN stepd.logs.chunk IS 'What was written together has one number; growing within an epoch.';
