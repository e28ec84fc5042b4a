-- The newest run. Caller: the command line's @last. Reads the ends of two primary keys.
SELECT r.id AS "id!" FROM stepd.runs r ORDER BY r.id DESC LIMIT 1
