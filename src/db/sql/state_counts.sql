-- How many runs there are in each state; of ended ones, where they are very many, what the statistics say. Caller: the command line's db.
SELECT s.state::text AS "state!", s.runs AS "n!", s.estimated AS "estimated!" FROM stepd.states s
