-- Queued runs that no live worker serves, by queue, and held runs whose workflow nobody has loaded, by workflow.
-- Caller: the command line's doctor.
SELECT j.queue AS queue, NULL::text AS workflow, q.exclusive AS "exclusive!", count(*) AS "n!", min(j.ready_at) AS "since!", clock_timestamp() AS "now!"
FROM stepd.jobs j JOIN stepd.queues q ON q.name = j.queue
WHERE j.state = 'queued' AND NOT EXISTS (SELECT FROM stepd.workers w WHERE w.alive AND NOT w.stopping
    AND CASE WHEN w.queues IS NULL THEN NOT q.exclusive ELSE j.queue = ANY (w.queues) END)
GROUP BY j.queue, q.exclusive
UNION ALL
SELECT NULL, j.workflow, false, count(*), min(j.ready_at), clock_timestamp()
FROM stepd.jobs j WHERE j.state = 'held' AND NOT EXISTS (SELECT FROM stepd.workflows w WHERE w.name = j.workflow AND w.active)
GROUP BY j.workflow ORDER BY 5
