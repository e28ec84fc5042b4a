-- What operators and others want of this worker's runs: cancels, pauses, and answers to waits that its runs keep in memory.
-- Caller: services::requests. Index: signals_of_run, checkpoints_pkey.
-- An answer is a row that has ended and still says what it waited for; a row that has not caught up with its wait yet is none.
-- It is locked for the reason that answer_of.sql has.
SELECT s.run AS "run!", NULL::text AS key, NULL::text AS output, NULL::text AS error,
    CASE WHEN s.kind = 'pause' AND s.payload ? 'now' THEN 'pause now' ELSE s.kind END AS "kind!"
FROM stepd_engine.signals s, LATERAL (SELECT FROM stepd.jobs j WHERE j.id = s.run AND j.worker = $1 AND j.state = 'running' OFFSET 0) j
WHERE s.kind IN ('cancel', 'pause') AND s.run = ANY ($2::uuid[])
UNION ALL
SELECT c.run, c.key, c.output, c.error, 'answer'
FROM unnest($3::uuid[], $4::text[]) AS w(run, key),
LATERAL (SELECT c.run, c.key, c.output, c.error FROM stepd_engine.checkpoints c WHERE c.run = w.run AND c.key = w.key AND c.state IN ('completed', 'failed')
    AND (c.decision LIKE '{"wait":"event"%' OR c.decision LIKE '{"wait":"approval"%' OR c.decision LIKE '{"wait":"child"%') FOR KEY SHARE) c
-- To a worker whose run has been taken over while it slept the answer is no news: the run is another's.
WHERE EXISTS (SELECT FROM stepd.jobs j WHERE j.id = w.run AND j.worker = $1 AND j.state = 'running')
