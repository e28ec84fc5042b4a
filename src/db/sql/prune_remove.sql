-- Removes ended runs with all that belongs to them. Caller: db::retention, with the rows of `ended` locked.
SELECT g.workflow AS "workflow!", g.state::text AS "state!", g.runs AS "runs!", g.steps AS "steps!", g.events AS "events!"
FROM stepd_engine.remove_runs($1) g
