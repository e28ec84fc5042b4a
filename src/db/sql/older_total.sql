-- How many runs a workflow has, for the older system. Caller: http::older. Index: ended_of_workflow.
SELECT (SELECT count(*) FROM stepd.jobs j WHERE j.workflow = $1 AND j.state NOT IN ('completed', 'failed', 'cancelled'))
    + (SELECT count(*) FROM stepd_engine.ended e WHERE e.workflow = $1) AS "n!"
